"""Make an output as this version writes it, for later versions to read: python -m infra.make_output_tree [FOLDER].

FOLDER (tests/data/output-N, N the schema version) gets the output of a run of whisper-base over two recordings of
people, a unit each. tests/output/test_older_outputs.py reads, resumes, publishes and evaluates it. Run this before you
raise SCHEMA_VERSION, and keep the folders of earlier versions.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from pipeline.config import RunConfig
from pipeline.config_file import load
from pipeline.model.files.layout import ASSETS
from pipeline.planning import fingerprint
from pipeline.schemas import SCHEMA_VERSION

PLACE = Path("/tmp/fullcanvas-output-tree")  # a plan has the absolute paths of its recordings
WRITTEN = 1_767_225_600  # s: so does it have the times of their last change
RECORDINGS = {
    "en-phone.flac": "to leave a message please enter a mailbox number",
    "es-phone.flac": "por favor espere mientras le comunico con esa extensión",
}
OUTPUT = Path(__file__).parents[1] / f"tests/data/output-{SCHEMA_VERSION}"


def settings(output: Path) -> list[str]:
    """The overrides of the run."""
    return [
        f"source.uri={PLACE}",
        f"output.uri={output}",
        "model.name=whisper-base",
        "model.dtype=float32",
        "plan.unit_recordings=1",
    ]


def make_recordings() -> None:
    """Put the recordings with their texts at PLACE, each file at once, since several may do so."""
    PLACE.mkdir(exist_ok=True)
    table = "".join(f"{name},{text}\n" for name, text in {"file_name": "text", **RECORDINGS}.items())
    contents = {name: (ASSETS / "people" / name).read_bytes() for name in RECORDINGS}
    for name, content in {**contents, "metadata.csv": table.encode()}.items():
        path = PLACE.parent / f".{PLACE.name}-{os.getpid()}-{name}"
        path.write_bytes(content)
        os.utime(path, (WRITTEN, WRITTEN))
        path.replace(PLACE / name)


def main(folder: Path = OUTPUT) -> None:
    """Transcribe the recordings to a folder that is not there yet."""
    from pipeline.in_process import transcribe_here  # it imports torch, which the readers of this file need not

    make_recordings()
    fingerprint.library_versions = dict  # so that a resume after an upgrade of libraries is no resume with other ones
    output = PLACE.with_suffix(".out")
    shutil.rmtree(output, ignore_errors=True)
    transcribe_here(load(RunConfig, None, settings(output)))
    shutil.copytree(output, folder)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
