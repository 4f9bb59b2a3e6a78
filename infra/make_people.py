"""Make the recordings of people of `make demo`: python -m infra.make_people [folder of human_speech].

It fetches them as infra/tiny/human_speech.py does. It writes four of them to pipeline/assets/people, as flac without
any change of their samples, with a table of their texts; the page people.md beside that folder has their licences.
Only recordings are taken whose own licence, or that of their package, allows this repository to ship them.
"""

from __future__ import annotations

import csv
import io
import logging
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import soundfile

from infra.tiny import human_speech
from pipeline.config import ConfigError
from pipeline.model.files.layout import ASSETS

FOLDER = ASSETS / "people"
TAKEN = {
    "en-novel": "librivox-en/sense_and_sensibility_01_austen_64kb-0920",
    "en-phone": "allison-en/vm-whichbox",
    "fr-phone": "june-fr/confbridge-lock-no-join",
    "es-phone": "allison-es/transfer",
}
NAMES = ("file_name", "text")  # the language is detected
PAGE = """# Four recordings of people

`make demo` transcribes the files of the folder `people` with `whisper-base`. `metadata.csv` has their texts.
`python -m infra.make_people` made them from packages of Debian 12; the samples are unchanged, the files are flac.
CC-BY-SA-3.0 is <https://creativecommons.org/licenses/by-sa/3.0/>.

| file | who | Debian package | copyright, as the package says | licence |
| --- | --- | --- | --- | --- |
"""


def main(speech: Path = human_speech.FOLDER, folder: Path = FOLDER) -> None:
    """Fetch all recordings, and write those of TAKEN. Raises ConfigError where one is missing."""
    table = pq.read_table(human_speech.make(speech))
    rows = {row["id"]: row for row in table.to_pylist()}
    packages, corpora = human_speech.table()
    by_name = {corpus["name"]: corpus for corpus in corpora}
    folder.mkdir(parents=True, exist_ok=True)
    lines, texts = [], []
    for name, wanted in TAKEN.items():
        if wanted not in rows:
            raise ConfigError(f"{wanted}: no such recording")
        row = rows[wanted]
        file = f"{name}.flac"
        (folder / file).write_bytes(flac(row["audio"]))
        texts.append((file, row["text"]))
        lines.append(line(file, by_name[row["corpus"]], packages))
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([NAMES, *texts])
    folder.with_suffix(".md").write_text(PAGE + "".join(lines), encoding="utf-8")


def flac(audio: bytes) -> bytes:
    """The same samples as flac, with 16 bits."""
    samples, rate = soundfile.read(io.BytesIO(audio), dtype="int16")
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format="FLAC", subtype="PCM_16")
    return out.getvalue()


def line(file: str, corpus: dict[str, Any], packages: dict[str, str]) -> str:
    """The line of a file in the table of licences."""
    package = corpus["package"]
    said = " ".join(" ".join(corpus["says"]).split())
    owner = said.partition("Copyright: ")[2].partition(" License:")[0].partition(" Recorded by:")[0]
    return f"| `{file}` | {corpus['about']} | {package} {packages[package]} | {owner} | {corpus['licence']} |\n"


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        main(*map(Path, sys.argv[1:2]))
    except ConfigError as error:
        sys.exit(f"infra.make_people: {error}")
