"""Outputs of earlier versions (tests/data, by infra.make_output_tree) are read, published, evaluated and resumed."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra import make_output_tree
from jobs import evaluate
from pipeline import read_transcripts
from pipeline.config import ConfigError, RunConfig
from pipeline.config_file import load
from pipeline.output.commit import SCHEMAS, read_commit, read_unit
from pipeline.output.publish import publish_tables
from pipeline.planning import fingerprint
from pipeline.planning.fingerprint import OF_LIBRARY, fingerprint_id, make_fingerprint
from pipeline.planning.plan import read_fingerprint
from pipeline.schemas import OLDEST_SCHEMA, SCHEMA_VERSION, TRANSCRIPT, widened
from pipeline.storage.base import OutputError, open_storage

DATA = Path(__file__).parents[1] / "data"
OUTPUTS = sorted(DATA.glob("output-*"))
TEXTS = {
    "en-phone.flac": "To leave a message, please enter a mailbox number.",
    "es-phone.flac": "Por favor, esperen mientras le comunico con esa extensión.",
}


@pytest.fixture(params=OUTPUTS, ids=lambda path: path.name)
def older(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the output of one version."""
    return Path(shutil.copytree(request.param, tmp_path / "out"))


def texts(table: pa.Table) -> dict[str, str]:
    return dict(zip(table["recording_id"].to_pylist(), table["text"].to_pylist(), strict=True))


def test_there_is_an_output_of_each_version_that_is_read() -> None:
    versions = {int(path.name.removeprefix("output-")) for path in OUTPUTS}
    assert versions >= set(range(OLDEST_SCHEMA, SCHEMA_VERSION))
    assert versions == {read_fingerprint(open_storage(str(path), create=False))["schema_version"] for path in OUTPUTS}


def test_what_is_new_in_an_output_raises_its_version() -> None:
    output = DATA / f"output-{SCHEMA_VERSION}"
    for name, schema in SCHEMAS.items():
        assert pq.read_schema(output / name / "part-00000.parquet").equals(schema)
    settings = load(RunConfig, None, make_output_tree.settings(output))
    keys = {key for key in make_fingerprint(settings, weights="") if not key.startswith(OF_LIBRARY)}
    assert read_fingerprint(open_storage(str(output), create=False)).keys() == keys


def test_its_transcripts_are_read_as_this_version_writes_them(older: Path) -> None:
    table = read_transcripts(str(older))
    assert table.schema.equals(TRANSCRIPT)
    assert texts(table) == TEXTS
    assert all(0 <= word["start_ms"] < word["end_ms"] for words in table["words"].to_pylist() for word in words)
    assert table["signals"].combine_chunks().field("log_probability_mean").null_count == 0


def test_it_is_published_again_with_the_same_rows_and_says_its_version(older: Path) -> None:
    before = read_transcripts(str(older))
    for name in ("transcripts", "dead_letters"):
        shutil.rmtree(older / name)
    summary = publish_tables(open_storage(str(older)))
    assert (summary["closed"], summary["complete"], summary["schema_version"]) == (True, True, SCHEMA_VERSION)
    assert read_transcripts(str(older)).equals(before)
    metadata = pq.ParquetFile(older / "transcripts/part-00000.parquet").metadata.metadata
    assert metadata[b"schema_version"] == str(SCHEMA_VERSION).encode()


def test_publishing_writes_the_tables_of_an_earlier_version_in_the_schema_of_today(tmp_path: Path) -> None:
    output = Path(shutil.copytree(DATA / f"output-{OLDEST_SCHEMA}", tmp_path / "out"))
    publish_tables(open_storage(str(output)))
    schema = pq.read_schema(output / "transcripts/part-00000.parquet")
    assert schema.equals(TRANSCRIPT)
    assert schema.metadata[b"schema_version"] == str(SCHEMA_VERSION).encode()


def test_it_is_evaluated(older: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["name=old", f"sets.old.output={older}", f"output.uri={tmp_path / 'evaluation'}"]
    assert evaluate.main([*words, "sets.old.normaliser=multilingual"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("all"))
    assert re.search(r"WER +5\.56 % .* 1 +0 +0 +2 of 2 +100\.0 %", line)  # one of 18 words


def test_a_run_goes_on_with_what_is_not_committed(older: Path) -> None:
    pytest.importorskip("torch", reason="needs torch")
    from pipeline.in_process import transcribe_here

    first, second = sorted((older / "commits").rglob("*.json"))
    kept, entry = first.read_bytes(), json.loads(second.read_text())["data"]["transcripts"]
    second.unlink()
    (older / entry["key"]).unlink()
    make_output_tree.make_recordings()
    storage = transcribe_here(load(RunConfig, None, make_output_tree.settings(older)))
    table = read_transcripts(str(older))
    assert texts(table) == TEXTS
    assert set(table["fingerprint"].to_pylist()) == {fingerprint_id(read_fingerprint(storage))}
    assert first.read_bytes() == kept
    assert second.exists()


def test_after_an_upgrade_of_a_library_an_output_is_published_and_its_run_does_not_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="needs torch")
    from pipeline.in_process import transcribe_here

    (tmp_path / "in").mkdir()
    (tmp_path / "in/empty.wav").touch()
    config = load(RunConfig, None, [f"source.uri={tmp_path / 'in'}", f"output.uri={tmp_path / 'out'}"])
    with monkeypatch.context() as earlier:
        earlier.setattr(fingerprint, "library_versions", lambda: {f"{OF_LIBRARY}soxr": "0.0.1"})
        storage = transcribe_here(config)
    with pytest.raises(ConfigError, match=r'library\.soxr was "0\.0\.1", now "\d'):
        transcribe_here(config)
    assert publish_tables(storage)["recordings_dead_lettered"] == 1


def test_what_a_version_adds_is_null_in_rows_of_an_earlier_one() -> None:
    old = pa.table({"id": ["a", "b"], "s": [{"x": 1.0}, None], "w": [[{"t": "hi", "s": {"x": 2.0}}], None]})
    fields = [("y", pa.float32()), ("x", pa.float64())]
    new = pa.schema(
        [
            ("n", pa.int8()),
            ("id", pa.string()),
            ("s", pa.struct(fields)),
            ("w", pa.list_(pa.struct([("t", pa.string()), ("s", pa.struct(fields)), ("z", pa.int32())]))),
        ]
    )
    table = widened(old, new)
    assert table.schema.equals(new)
    assert table.to_pylist() == [
        {"n": None, "id": "a", "s": {"y": None, "x": 1.0}, "w": [{"t": "hi", "s": {"y": None, "x": 2.0}, "z": None}]},
        {"n": None, "id": "b", "s": None, "w": None},
    ]


@pytest.mark.parametrize(
    ("new", "name"),
    [
        ([("s", pa.struct([("y", pa.float64())]))], "s.x"),
        ([("s", pa.struct([("x", pa.string())]))], "s.x"),
        ([("s", pa.float64())], "s"),
        ([("r", pa.float64())], "s"),
    ],
)
def test_rows_that_would_lose_something_are_refused(new: list[tuple[str, pa.DataType]], name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} is another column than in schema version {SCHEMA_VERSION}$"):
        widened(pa.table({"s": [{"x": 1.0}]}), pa.schema(new))


def test_a_data_file_with_other_columns_is_one_line_that_names_it(older: Path) -> None:
    storage = open_storage(str(older))
    unit = next(iter((older / "commits").rglob("*.json"))).stem
    commit = read_commit(storage, unit)
    table = read_unit(storage, commit)["transcripts"].append_column("mood", pa.array(["good"]))
    path = older / commit["data"]["transcripts"]["key"]
    with pa.OSFile(str(path.with_suffix(".arrow")), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    body = path.with_suffix(".arrow").read_bytes()
    entry = {"key": f"data/{path.stem}.arrow", "rows": 1, "sha256": hashlib.sha256(body).hexdigest()}
    with pytest.raises(OutputError, match=r"data/\S+\.arrow: mood is another column than in schema .* newer") as caught:
        read_unit(storage, commit | {"data": {"transcripts": entry}})
    assert "\n" not in str(caught.value)
    assert "delete" not in str(caught.value)
