"""The two functions for notebooks: what they do, that they cost nothing at import, and the page that shows them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from pipeline.config import ConfigError
from pipeline.schemas import TRANSCRIPT
from tests.support.archives import archive

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/notebook.md").read_text()
TOLD = "\n===\n"


def test_importing_the_package_loads_nothing() -> None:
    loaded = "{name.split('.')[0] for name in sys.modules} & {'numpy', 'pyarrow', 'pydantic', 'ray'}"
    code = f"import sys, pipeline; print(sorted({loaded}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    with pytest.raises(AttributeError, match="no attribute 'transcripe'"):
        pipeline.transcripe  # noqa: B018


def test_a_mistake_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^denoise\.max_stpes: no such key; did you mean denoise\.max_steps\?$"):
        pipeline.transcribe(str(tmp_path), str(tmp_path / "out"), denoise={"max_stpes": 3})
    with pytest.raises(ConfigError, match=r"^output\.uri: "):
        pipeline.read_transcripts(str(tmp_path / "nowhere"))


@pytest.mark.timeout(300)
def test_two_calls_are_a_run_and_its_table(tmp_path: Path, small_model_dir: Path) -> None:
    source, output = archive(tmp_path / "in", 3), str(tmp_path / "out")
    settings = {"model": {"name": str(small_model_dir)}, "segment": {"vad": False}, "denoise": {"max_steps": 2}}
    summary = pipeline.transcribe(str(source), output, source={"language": "en"}, **settings)
    assert (summary["recordings_transcribed"], summary["complete"]) == (3, True)
    table = pipeline.read_transcripts(output)
    assert table.schema.equals(TRANSCRIPT)
    assert table["recording_id"].unique().to_pylist() == ["r000.wav", "r001.wav", "r002.wav"]
    assert set(table["language"].to_pylist()) == {"en"}


@pytest.mark.timeout(300)
def test_the_page_prints_what_it_shows(tmp_path: Path) -> None:
    """All blocks of code in one process; only the folder of the output is another one."""
    pytest.importorskip("torch", reason="needs torch")
    blocks = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == PAGE.count("```python") == 3
    code = f"print({TOLD!r}, end='')\n".join(block for block, _ in blocks).replace(
        '"out/notebook"', repr(str(tmp_path / "out"))
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split(TOLD) == [shown for _, shown in blocks]
