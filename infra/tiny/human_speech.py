"""Recorded speech of people, out of Debian packages: python -m infra.tiny.human_speech [folder]

Fetches the packages of human_speech.yaml (on Debian 12, after `apt-get update`; nothing is installed), checks that each
says of its recordings what the table says of their licence, and writes FOLDER/speech.parquet: audio, id, text,
language, corpus, package, speaker (null where the package does not tell), in_vocabulary ("yes" where the embedded model
knows every word). jobs.transcribe and jobs.evaluate read it as it is.
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
from pipeline.evaluation.normalise_multilingual import multilingual

FOLDER = Path("work/human-speech")
TABLE = Path(__file__).with_suffix(".yaml")
PARQUET = "speech.parquet"
SAMPLED_WORDS = range(2, 11)  # a sampled prompt has so many words
GAP_SECONDS, EDGE_SECONDS = 0.03, 0.25  # of silence between joined syllables, and before and after them
NAMES = ("id", "text", "language", "corpus", "package", "speaker", "in_vocabulary")
SCHEMA = pa.schema([*((name, pa.string()) for name in NAMES), ("audio", pa.binary())])

_PARAGRAPHS = re.compile(r"\n(?:[ \t]*\n)+")
_DIGITS = re.compile(r"(?<!\S)\d{1,2}(?!\S)")
_SPHINX = re.compile(r"<s>(.*)</s>\s*\((\S+)\)")


def table() -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Package -> version, and the corpora, as human_speech.yaml says."""
    tree = yaml.safe_load(TABLE.read_text("utf-8"))
    return tree["packages"], tree["corpora"]


def normal_form(text: str, language: str) -> str:
    """As the vocabulary writes it: lower case, no punctuation, 0 to 99 as words."""
    numbers = vocabulary(language).lists["numbers"]
    return _DIGITS.sub(lambda found: numbers[int(found[0])], multilingual(text))


def in_vocabulary(text: str, language: str) -> bool:
    """Whether the embedded model knows every word of a text in normal form (Mandarin: every character)."""
    return set(text if language == "zh" else text.split()) <= vocabulary(language).words()


def fetch(packages: Mapping[str, str], folder: Path) -> None:
    """Unpack each package into FOLDER/NAME; what is there in that version is kept.

    Raises ConfigError where a package or the tools of Debian are not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, version in packages.items():
        mark = folder / f"{name}.version"
        if mark.exists() and mark.read_text() == version:
            continue
        mark.unlink(missing_ok=True)
        shutil.rmtree(folder / name, ignore_errors=True)
        for left in folder.glob(f"{name}_*.deb"):
            left.unlink()
        package = f"{name}={version}"
        _run(package, ["apt-get", "download", "-q", package], folder)
        archives = list(folder.glob(f"{name}_*.deb"))
        if len(archives) != 1:
            raise ConfigError(f"{package}: apt-get download brought {len(archives)} files {name}_*.deb, not 1")
        _run(package, ["dpkg-deb", "-x", archives[0].name, name], folder)
        archives[0].unlink()
        mark.write_text(version)


def _run(package: str, command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise ConfigError(f"{package}: {command[0]}: {error.strerror}") from None
    if done.returncode:
        told = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ConfigError(f"{package}: {command[0]}: {told[-1]}")


def check_licence(corpus: Mapping[str, Any], folder: Path) -> None:
    """Raises ConfigError where the package does not say what `says` and `also` of the table expect.

    `says` are whole lines. Where `copyright` is in Debian's format (DEP-5), all stand in one paragraph on files: the
    licence of other files is not taken for that of the recordings.
    """
    root = folder / corpus["package"]
    path = root / corpus["copyright"]
    held = _text(path)
    parts = [held]
    if held.startswith("Format:"):
        parts = [part for part in _PARAGRAPHS.split(held) if part.startswith("Files:")]
    says = corpus["says"]
    lacking = [(path, says[max((_said(says, part) for part in parts), default=0) :])]
    for name, expected in corpus.get("also", {}).items():
        held = _text(root / name)
        lacking.append((root / name, [text for text in expected if text not in held]))
    for file, unsaid in lacking:
        if unsaid:
            raise ConfigError(f"{corpus['name']}: {file} does not say {unsaid[0]!r}")


def _said(says: list[str], part: str) -> int:
    """How many of them, counted from the first, are whole lines of the part."""
    return len(list(itertools.takewhile(lambda lines: f"\n{lines}\n" in f"\n{part}\n", says)))


def _text(path: Path) -> str:
    return path.read_text("utf-8", errors="replace") if path.exists() else ""


def listed(text: str, form: str) -> dict[str, str]:
    """File name -> what is spoken. form: asterisk ("name: text") or sphinx ("<s> text </s> (name)"), a line each."""
    if form == "sphinx":
        return {found[2]: found[1].strip() for found in _SPHINX.finditer(text)}
    lines = (line.partition(":") for line in text.splitlines() if not line.startswith(";"))
    return {name.strip(): said.strip() for name, colon, said in lines if colon and said.strip()}


def texts(corpus: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """File name without ending -> text in normal form. Sampled prompts are the same ones every time."""
    language, own = corpus["language"], corpus.get("texts", {})
    if isinstance(own, list):
        return {text: text for text in own if not set(text) & set(corpus.get("missing", []))}
    found = {name: normal_form(text, language) for name, text in own.items()}
    if held := corpus.get("list"):
        path = folder / held["package"] / held["path"]
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        base, ending = corpus["audio"]
        audio = folder / corpus["package"] / base
        said = {
            name: text
            for name, text in listed(data.decode("utf-8"), held["form"]).items()
            if name not in found and not _matches(name, held.get("none", [])) and (audio / f"{name}.{ending}").exists()
        }
        whole = {name for name in said if _matches(name, held["all"])}
        rest = [name for name in said if name not in whole and _is_prompt(said[name])]
        rest.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
        spelling = held.get("spelling", {})
        for name in sorted([*whole, *rest[: held.get("sample", 0)]]):
            words = normal_form(said[name], language).split()
            found[name] = " ".join(spelling.get(word, word) for word in words)
    return found


def _matches(name: str, globs: list[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in globs)


def _is_prompt(text: str) -> bool:
    """Whole sentences without stage directions; half ones end or begin with an ellipsis."""
    return not re.search(r"[\[(…]|\.\.\.", text) and len(text.split()) in SAMPLED_WORDS


def read_audio(path: Path, headerless: str | None) -> tuple[np.ndarray, int]:
    """float32 [samples], mean of the channels, and the rate. headerless: "SUBTYPE RATE" of raw samples."""
    if headerless:
        subtype, rate = headerless.split()
        raw = {"samplerate": int(rate), "channels": 1, "format": "RAW", "subtype": subtype}
    else:
        raw = {}
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True, **raw)
    return samples.mean(axis=1), int(rate)


def joined(parts: list[tuple[np.ndarray, int]]) -> tuple[np.ndarray, int]:
    """Syllables of one rate, one after the other, with silence between and around them."""
    rate = parts[0][1]
    gap, edge = (np.zeros(int(seconds * rate), np.float32) for seconds in (GAP_SECONDS, EDGE_SECONDS))
    pieces = [piece for samples, _ in parts for piece in (samples, gap)]
    return np.concatenate([edge, *pieces[:-1], edge]), rate


def rows(corpora: list[dict[str, Any]], folder: Path) -> Iterator[dict[str, Any]]:
    """Every recording of the corpora, licences checked. Raises ConfigError naming a file that is missing."""
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
            parts = [read_audio(path, corpus.get("headerless")) for path in paths]
            samples, rate = joined(parts) if syllables else parts[0]
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
    """Fetch what is missing and write the Parquet file, whole or not at all; its path."""
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
