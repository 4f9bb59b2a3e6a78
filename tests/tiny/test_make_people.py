"""The recordings of people that the repository ships: their samples, texts and licences."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from infra import make_people
from infra.tiny import human_speech
from pipeline.config import ConfigError

SAMPLES = np.arange(-800, 800, dtype=np.int16)


def wav() -> bytes:
    out = io.BytesIO()
    soundfile.write(out, SAMPLES, 8000, format="WAV", subtype="PCM_16")
    return out.getvalue()


def rows(names: list[str]) -> pa.Table:
    made = [
        {"id": name, "text": f"text of {name}", "corpus": name.partition("/")[0], "audio": wav(), "language": "en"}
        for name in names
    ]
    return pa.Table.from_pylist(made, human_speech.SCHEMA)


def test_samples_and_texts_stay_and_the_page_names_owner_and_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speech = tmp_path / "speech.parquet"
    pq.write_table(rows(list(make_people.TAKEN.values())), speech)
    monkeypatch.setattr(human_speech, "make", lambda _: speech)
    make_people.main(tmp_path, tmp_path / "people")
    for name in make_people.TAKEN:
        samples, rate = soundfile.read(tmp_path / f"people/{name}.flac", dtype="int16")
        assert rate == 8000
        assert np.array_equal(samples, SAMPLES)
    texts = (tmp_path / "people/metadata.csv").read_text("utf-8").splitlines()
    assert texts[0] == "file_name,text"
    assert texts[1:] == [f"{name}.flac,text of {row}" for name, row in make_people.TAKEN.items()]
    page = (tmp_path / "people.md").read_text("utf-8")
    assert "| 2006-2008, June Wallack | CC-BY-SA-3.0 |" in page
    assert "| 2003-2010, Allison Smith | CC-BY-SA-3.0 |" in page


def test_a_recording_that_is_gone_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(rows(["other/1"]), tmp_path / "speech.parquet")
    monkeypatch.setattr(human_speech, "make", lambda _: tmp_path / "speech.parquet")
    with pytest.raises(ConfigError, match=r"librivox-en/.*: no such recording"):
        make_people.main(tmp_path, tmp_path / "people")


def test_what_is_shipped_is_what_the_script_takes_and_each_file_has_a_licence() -> None:
    shipped = {path.stem for path in make_people.FOLDER.glob("*.flac")}
    assert shipped == set(make_people.TAKEN)
    page = make_people.FOLDER.with_suffix(".md").read_text("utf-8")
    for name in shipped:
        (line,) = [line for line in page.splitlines() if line.startswith(f"| `{name}.flac` |")]
        assert all(cell.strip() for cell in line.strip("|").split("|"))
