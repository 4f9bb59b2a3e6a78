"""Fetch recorded speech of people from Debian packages.

    python -m infra.tiny.human_speech [folder]

Downloads the packages of human_speech.yaml (on Debian 12, after `apt-get update`; it installs nothing). Checks that
each package says of its recordings what the table says of their licence. Writes FOLDER/speech.parquet with audio, id,
text, language, corpus, package, speaker (null where the package does not name one) and in_vocabulary ("yes" where the
embedded model knows every word). jobs.transcribe and jobs.evaluate read the file as a source.
"""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import io
import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import yaml

from infra.tiny.phrases import vocabulary
from pipeline.config import ConfigError
from pipeline.text.normalise_multilingual import multilingual

FOLDER = Path("work/human-speech")
TABLE = Path(__file__).with_suffix(".yaml")
PARQUET = "speech.parquet"
SAMPLED_WORDS = range(2, 11)  # words of a sampled prompt
GAP_SECONDS, EDGE_SECONDS = 0.03, 0.25  # silence between joined syllables, and before and after all of them
NAMES = ("id", "text", "language", "corpus", "package", "speaker", "in_vocabulary")
SCHEMA = pa.schema([*((name, pa.string()) for name in NAMES), ("audio", pa.binary())])

_PARAGRAPHS = re.compile(r"\n(?:[ \t]*\n)+")
_DIGITS = re.compile(r"(?<!\S)\d{1,2}(?!\S)")
_SPHINX = re.compile(r"<s>(.*)</s>\s*\((\S+)\)")


def table() -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Read human_speech.yaml. Returns the version of each package, and the corpora."""
    tree = yaml.safe_load(TABLE.read_text("utf-8"))
    return tree["packages"], tree["corpora"]


def normal_form(text: str, language: str) -> str:
    """Write a text as the vocabulary does: lower case, no punctuation, 0 to 99 as words."""
    numbers = vocabulary(language).lists["numbers"]
    return _DIGITS.sub(lambda match: numbers[int(match[0])], multilingual(text))


def in_vocabulary(text: str, language: str) -> bool:
    """Whether the embedded model knows every word (Mandarin: every character) of a text in normal form."""
    return set(text if language == "zh" else text.split()) <= vocabulary(language).words()


def fetch(packages: Mapping[str, str], folder: Path) -> None:
    """Unpack each package into FOLDER/NAME, unless it is there in that version.

    Raises ConfigError where a package or a tool of Debian is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, version in packages.items():
        mark = folder / f"{name}.version"
        if mark.exists() and mark.read_text() == version:
            continue
        mark.unlink(missing_ok=True)
        shutil.rmtree(folder / name, ignore_errors=True)
        for old in folder.glob(f"{name}_*.deb"):
            old.unlink()
        package = f"{name}={version}"
        _run(package, ["apt-get", "download", "-q", package], folder)
        archives = list(folder.glob(f"{name}_*.deb"))
        if len(archives) != 1:
            raise ConfigError(f"{package}: apt-get download fetched {len(archives)} files {name}_*.deb, not 1")
        _run(package, ["dpkg-deb", "-x", archives[0].name, name], folder)
        archives[0].unlink()
        mark.write_text(version)


def _run(package: str, command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise ConfigError(f"{package}: {command[0]}: {error.strerror}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ConfigError(f"{package}: {command[0]}: {lines[-1]}")


def check_licence(corpus: Mapping[str, Any], folder: Path) -> None:
    """Raise ConfigError where the package does not say what `says` and `also` of the table expect.

    `says` are whole lines. Where `copyright` is in Debian's format (DEP-5), one paragraph on files must have all of
    them, so that the licence of other files is not taken for that of the recordings.
    """
    root = folder / corpus["package"]
    path = root / corpus["copyright"]
    text = _text(path)
    paragraphs = [text]
    if text.startswith("Format:"):
        paragraphs = [paragraph for paragraph in _PARAGRAPHS.split(text) if paragraph.startswith("Files:")]
    says = corpus["says"]
    lacking = [(path, says[max((_said(says, paragraph) for paragraph in paragraphs), default=0) :])]
    for name, expected in corpus.get("also", {}).items():
        text = _text(root / name)
        lacking.append((root / name, [line for line in expected if line not in text]))
    for file, missing in lacking:
        if missing:
            raise ConfigError(f"{corpus['name']}: {file} does not say {missing[0]!r}")


def _said(says: list[str], paragraph: str) -> int:
    """How many of `says`, counted from the first, are whole lines of the paragraph."""
    return len(list(itertools.takewhile(lambda lines: f"\n{lines}\n" in f"\n{paragraph}\n", says)))


def _text(path: Path) -> str:
    return path.read_text("utf-8", errors="replace") if path.exists() else ""


def listed(text: str, form: str) -> dict[str, str]:
    """What is spoken, by file name. Lines of the form asterisk ("name: text") or sphinx ("<s> text </s> (name)")."""
    if form == "sphinx":
        return {match[2]: match[1].strip() for match in _SPHINX.finditer(text)}
    lines = (line.partition(":") for line in text.splitlines() if not line.startswith(";"))
    return {name.strip(): said.strip() for name, colon, said in lines if colon and said.strip()}


def texts(corpus: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """The text in normal form, by file name without ending. The sampled prompts are the same every time."""
    language, own = corpus["language"], corpus.get("texts", {})
    if isinstance(own, list):
        return {text: text for text in own if not set(text) & set(corpus.get("missing", []))}
    known = {name: normal_form(text, language) for name, text in own.items()}
    if listing := corpus.get("list"):
        path = folder / listing["package"] / listing["path"]
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        base, ending = corpus["audio"]
        audio = folder / corpus["package"] / base
        said = {
            name: text
            for name, text in listed(data.decode("utf-8"), listing["form"]).items()
            if name not in known
            and not _matches(name, listing.get("none", []))
            and (audio / f"{name}.{ending}").exists()
        }
        whole = {name for name in said if _matches(name, listing["all"])}
        rest = [name for name in said if name not in whole and _is_prompt(said[name])]
        rest.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
        spelling = listing.get("spelling", {})
        for name in sorted([*whole, *rest[: listing.get("sample", 0)]]):
            words = normal_form(said[name], language).split()
            known[name] = " ".join(spelling.get(word, word) for word in words)
    return known


def _matches(name: str, globs: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in globs)


def _is_prompt(text: str) -> bool:
    """Whether a text is a whole sentence: no stage direction, no ellipsis, SAMPLED_WORDS words."""
    return not re.search(r"[\[(…]|\.\.\.", text) and len(text.split()) in SAMPLED_WORDS


def read_audio(path: Path, headerless: str | None) -> tuple[np.ndarray, int]:
    """Read a recording. headerless: "SUBTYPE RATE" of raw samples.

    Returns float32 [samples], the mean of the channels, and the rate in Hz.
    """
    if headerless:
        subtype, rate = headerless.split()
        raw = {"samplerate": int(rate), "channels": 1, "format": "RAW", "subtype": subtype}
    else:
        raw = {}
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True, **raw)
    return samples.mean(axis=1), int(rate)


def joined(syllables: list[tuple[np.ndarray, int]]) -> tuple[np.ndarray, int]:
    """Join syllables of one rate, with silence between and around them."""
    rate = syllables[0][1]
    gap, edge = (np.zeros(int(seconds * rate), np.float32) for seconds in (GAP_SECONDS, EDGE_SECONDS))
    spoken = [audio for samples, _ in syllables for audio in (samples, gap)]
    return np.concatenate([edge, *spoken[:-1], edge]), rate


def rows(corpora: list[dict[str, Any]], folder: Path) -> Iterator[dict[str, Any]]:
    """Every recording of the corpora. Checks the licences; raises ConfigError that names a missing file."""
    for corpus in corpora:
        check_licence(corpus, folder)
        base, ending = corpus["audio"]
        root = folder / corpus["package"] / base
        for name, text in texts(corpus, folder).items():
            syllables = corpus.get("syllables")
            if syllables:
                paths = [root / syllables[character] / f"{corpus['member']}.{ending}" for character in text]
            else:
                paths = [root / f"{name}.{ending}"]
            if missing := [path for path in paths if not path.exists()]:
                raise ConfigError(f"{corpus['name']}: {name}: no file {missing[0]}")
            audio = [read_audio(path, corpus.get("headerless")) for path in paths]
            samples, rate = joined(audio) if syllables else audio[0]
            out = io.BytesIO()
            soundfile.write(out, samples, rate, format="FLAC")
            yield {
                "id": f"{corpus['name']}/{name}",
                "audio": out.getvalue(),
                "text": text,
                "language": corpus["language"],
                "corpus": corpus["name"],
                "package": corpus["package"],
                "speaker": corpus.get("speaker"),
                "in_vocabulary": "yes" if in_vocabulary(text, corpus["language"]) else "no",
            }


def make(folder: Path) -> Path:
    """Fetch what is missing and write the Parquet file, whole or not at all. Returns its path."""
    packages, corpora = table()
    fetch(packages, folder / "packages")
    path = folder / PARQUET
    temporary = path.with_suffix(".tmp")
    made = list(rows(corpora, folder / "packages"))
    pq.write_table(pa.Table.from_pylist(made, SCHEMA), temporary, row_group_size=64)
    temporary.replace(path)
    return path


if __name__ == "__main__":
    try:
        make(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
    except ConfigError as error:
        sys.exit(f"infra.tiny.human_speech: {error}")
