"""The two functions for notebooks: what they do, that they cost nothing at import, and the page that shows them."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import pipeline
from pipeline.config import ConfigError
from pipeline.schemas import TRANSCRIPT
from pipeline.storage.base import OutputError
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
    with pytest.raises(ConfigError, match=r"^source: must be a section of keys with values \(given: 'de'\)$"):
        pipeline.transcribe(str(tmp_path), str(tmp_path / "out"), source="de")
    with pytest.raises(ConfigError, match=r"^output\.uri: "):
        pipeline.read_transcripts(str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=rf"^output_uri: {tmp_path}: nothing is published there$"):
        pipeline.read_transcripts(str(tmp_path))  # a folder beside the output, say


def test_a_path_is_an_address(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^output_uri: {tmp_path}: nothing is published there$"):
        pipeline.read_transcripts(tmp_path)
    with pytest.raises(ConfigError, match=r"^denoise\.seed: must be a whole number"):  # and nothing about the others
        pipeline.transcribe(tmp_path, tmp_path / "out", denoise={"seed": "x"})


def test_a_damaged_part_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "transcripts").mkdir()
    (tmp_path / "transcripts/part-00000.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(OutputError, match=r"transcripts/part-00000\.parquet: damaged or cut off: .+"):
        pipeline.read_transcripts(str(tmp_path))


@pytest.mark.timeout(600)
def test_two_calls_are_a_run_and_its_table(tmp_path: Path, small_model_dir: Path) -> None:
    source, output = archive(tmp_path / "in", 3), str(tmp_path / "out")
    settings = {"model": {"name": str(small_model_dir)}, "segment": {"vad": False}, "denoise": {"max_steps": 2}}
    summary = pipeline.transcribe(str(source), output, source={"language": "en"}, **settings)
    assert (summary["recordings_transcribed"], summary["complete"]) == (3, True)
    table = pipeline.read_transcripts(output)
    assert table.schema.equals(TRANSCRIPT)
    assert table["recording_id"].unique().to_pylist() == ["r000.wav", "r001.wav", "r002.wav"]
    assert set(table["language"].to_pylist()) == {"en"}


@pytest.fixture
def whisper(tmp_path: Path) -> dict[str, Any]:
    """Settings for noise: random weights hear other words in each sound."""
    pytest.importorskip("torch", reason="needs torch")
    from tests.support.small_whisper import save_whisper

    return {"model": str(save_whisper(tmp_path / "whisper-small")), "segment": {"vad": False}, "decode": {"seed": 1}}


@pytest.mark.timeout(600)
def test_a_list_of_files_has_the_results_of_a_job_and_a_bad_one_says_why(
    tmp_path: Path, whisper: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    source, out = archive(tmp_path / "in", 3), str(tmp_path / "out")
    (source / "bad.wav").write_bytes(b"no audio " * 99)
    cut = source / "cut.flac"
    soundfile.write(cut, np.random.default_rng(3).normal(0, 0.1, 48_000), 16_000)
    cut.write_bytes(cut.read_bytes()[:40_000])
    pipeline.transcribe(str(source), out, **whisper, budget={"max_dead_fraction": 1})
    job = pipeline.read_transcripts(out).to_pylist()

    names = [source / name for name in ("r002.wav", "bad.wav", "cut.flac", "r000.wav", "r001.wav")]
    table = pipeline.transcribe([*names, "lost.mp3", tmp_path, "caf\udce9.wav"], **whisper)  # of a disk in Latin-1
    odd = r"caf\udce9.wav"
    assert table.schema.names == [*TRANSCRIPT.names, "error"]
    rows = table.to_pylist()
    given = [*map(str, names), "lost.mp3", str(tmp_path), odd]
    assert list(dict.fromkeys(row["recording_id"] for row in rows)) == given
    good = [row for row in rows if row["text"] is not None]
    kept = ("segment_index", "start_ms", "end_ms", "language", "text", "problem", "model")
    wanted = [{name: row[name] for name in kept} for name in names for row in job if row["recording_id"] == name.name]
    assert [{name: row[name] for name in kept} for row in good] == wanted
    assert len({row["text"] for row in good}) > 3
    assert {row["problem"] for row in good} == {None, "truncated_audio"}
    bad = {row["recording_id"]: (row["problem"], row["error"]) for row in rows if row["text"] is None}
    assert {name: problem for name, (problem, _) in bad.items()} == {
        str(source / "bad.wav"): "not_audio",
        "lost.mp3": "missing_file",
        str(tmp_path): "missing_file",
        odd: "bad_metadata",
    }
    assert "No such file" in bad["lost.mp3"][1]
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == [f"{name}: {problem}: {error}" for name, (problem, error) in bad.items()]


@pytest.mark.timeout(600)
def test_samples_are_a_recording_and_a_notebook_may_have_an_event_loop(tmp_path: Path, whisper: dict[str, Any]) -> None:
    path = archive(tmp_path / "in", 1) / "r000.wav"
    samples, _ = soundfile.read(path, dtype="float32")

    async def cell() -> Any:
        return pipeline.transcribe([samples, str(path)], source={"language": "de"}, **whisper)

    rows = asyncio.run(cell()).to_pylist()
    texts = {name: [row["text"] for row in rows if row["recording_id"] == name] for name in ("samples-0", str(path))}
    assert texts["samples-0"] == texts[str(path)] != []
    assert {row["language"] for row in rows} == {"de"}
    assert pipeline.transcribe(path, source={"language": "de"}, **whisper)["text"].to_pylist() == texts[str(path)]
    assert pipeline.transcribe([], **whisper).num_rows == 0


@pytest.mark.parametrize(
    ("recordings", "settings", "message"),
    [
        (["a.mp3"], {"output_uri": "out"}, "output_uri: is for an archive, which is one path, glob or address"),
        (["a.mp3"], {"retry": "damaged"}, "retry: needs output_uri"),
        (["a.mp3"], {"denoise": {"max_stpes": 3}}, "denoise.max_stpes: no such key"),
        (["a.mp3"], {"model": "no-such-model"}, "model.name: no-such-model: no config.json in no-such-model"),
        (["a.mp3", np.zeros((2, 99))], {}, "recordings: samples 1: float64 of shape (2, 99)"),
        (["a.mp3", 0.5], {}, "recordings: entry 1: 0.5 is no path, no address, and no array of samples"),
        ([b"a.mp3", ""], {}, "recordings: entry 0: b'a.mp3' is no path"),
        (["a.mp3", ""], {}, "recordings: entry 1: '' is no path"),
        (["a.mp3"], {"compute": 4}, "compute: must be a section of keys with values (given: 4)"),
        (np.zeros(99, np.int16), {}, "recordings: samples 0: int16 of shape (99,)"),
        (np.full(99, np.nan), {}, "recordings: samples 0: float64 of shape (99,)"),
    ],
)
def test_a_mistake_is_one_line(recordings: Any, settings: dict[str, Any], message: str) -> None:
    pytest.importorskip("torch", reason="needs torch")
    with pytest.raises(ConfigError) as raised:
        pipeline.transcribe(recordings, **settings)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


SHORT = """
import logging, sys
from pipeline import transcribe
table = transcribe("pipeline/assets/people/en-phone.flac", model="whisper-base", compute={"threads_per_replica": 1})
print(table["text"][0])
print("ray" in sys.modules, logging.getLogger().handlers, logging.getLogger("pipeline").level)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_short_file_needs_no_cluster_and_leaves_no_traces() -> None:
    pytest.importorskip("torch", reason="needs torch")
    done = subprocess.run([sys.executable, "-c", SHORT], cwd=ROOT, capture_output=True, text=True, check=True)
    text, traces = done.stdout.splitlines()
    assert text == "To leave a message, please enter a mailbox number."
    assert traces == "False [] 0"


@pytest.mark.timeout(600)
def test_the_page_prints_what_it_shows(tmp_path: Path) -> None:
    """All blocks of code in one process; only the folder of the output is another one."""
    pytest.importorskip("torch", reason="needs torch")
    blocks = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == PAGE.count("```python") == 4
    code = f"print({TOLD!r}, end='')\n".join(block for block, _ in blocks).replace(
        '"out/notebook"', repr(str(tmp_path / "out"))
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split(TOLD) == [shown for _, shown in blocks]
