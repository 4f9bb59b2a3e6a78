"""Manifests: NeMo and Lhotse JSON lines, CSV and TSV; a bad line is one dead letter and affects no other."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import ConfigError, SourceConfig
from pipeline.schemas import BadRecording, Recording, RecordingRef
from pipeline.sources import formats
from pipeline.sources.manifest import list_recordings, read_recording


def write_lines(path: Path, *rows: dict[str, Any] | str) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def listed(uri: Path | str, **keys: str) -> list[RecordingRef]:
    return list(list_recordings(SourceConfig(uri=str(uri), format="manifest", **keys)))


def test_a_line_is_a_recording_with_all_its_columns(tmp_path: Path) -> None:
    (tmp_path / "wav").mkdir()
    (tmp_path / "wav/a.wav").write_bytes(b"A")
    (tmp_path / "b.wav").write_bytes(b"B")
    path = write_lines(
        tmp_path / "m.jsonl",
        {"id": "one", "audio_filepath": "wav/a.wav", "text": "eins", "language": "de", "duration": 1.5, "mood": "🙂"},
        "",
        {"id": 2, "audio_filepath": str(tmp_path / "b.wav"), "lang": "EN_us"},
    )
    one, two = listed(path)
    assert (one.recording_id, one.source_uri, one.seconds) == ("one", str(tmp_path / "wav/a.wav"), 1.5)
    assert (one.start_ms, one.end_ms, one.channel) == (None, 1500, None)
    assert read_recording(one) == Recording(b"A", "de", "eins", '{"mood": "🙂"}')
    assert (two.recording_id, two.seconds, two.size) == ("2", None, 1)
    assert two.version
    assert read_recording(two) == Recording(b"B", "en", None, None)


def test_offset_and_duration_select_a_section(tmp_path: Path) -> None:
    row = {"audio_filepath": "a.wav", "duration": 2.25}
    path = write_lines(
        tmp_path / "m.json",
        row | {"offset": 1.5},
        row | {"offset": 0},
        row,
        {"audio_filepath": "a.wav", "offset": 3, "channel": 1},
    )
    assert [(ref.recording_id, ref.start_ms, ref.end_ms, ref.channel) for ref in listed(path)] == [
        ("a.wav#1500-3750ms", 1500, 3750, None),
        ("a.wav#0-2250ms", 0, 2250, None),
        ("a.wav", None, 2250, None),  # a duration alone: the beginning of the file, as NeMo reads it
        ("a.wav#channel-1#3000-ms", 3000, None, 1),
    ]


@pytest.mark.parametrize("value", [1, "1", 1.0, "1.0"])
def test_a_channel_is_a_number_also_as_pandas_writes_it_beside_gaps(tmp_path: Path, value: object) -> None:
    path = write_lines(tmp_path / "m.json", {"audio_filepath": "a.wav", "channel": value})
    assert [ref.channel for ref in listed(path)] == [1]


def cut(**keys: Any) -> dict[str, Any]:
    source = {"type": "file", "channels": [0, 1], "source": "call.wav"}
    recording = {"id": "r", "sources": [source], "sampling_rate": 8000, "num_samples": 80000, "duration": 10.0}
    supervision = {"id": "s", "recording_id": "r", "start": 0.0, "duration": 2.0, "channel": 0, "text": "guten tag"}
    supervision |= {"language": "German", "speaker": "anna"}
    plain = {"id": "c", "start": 0.0, "duration": 10.0, "channel": [0, 1], "type": "MultiCut", "recording": recording}
    return plain | {"supervisions": [supervision], "custom": {"snr": 20}} | keys


def test_lhotse_cuts_select_channel_and_offset(tmp_path: Path) -> None:
    second = {"start": 1.0, "text": "welt", "language": "de", "speaker": "bert"}
    first = {"start": 0.5, "text": "hallo", "language": "de", "speaker": "anna"}
    path = write_lines(
        tmp_path / "cuts.jsonl.gz",
        cut(),
        cut(id="c2", start=2.5, duration=3.0, channel=1, type="MonoCut", supervisions=[second, first]),
        cut(id="c3", channel=0, supervisions=[], custom=None),
    )
    whole, part, mono = listed(path)
    assert (whole.recording_id, whole.start_ms, whole.channel, whole.seconds) == ("c", None, None, 10.0)
    assert (whole.language, whole.reference) == ("de", "guten tag")
    assert json.loads(whole.metadata or "") == {"speaker": "anna", "custom": {"snr": 20}}
    assert (part.recording_id, part.start_ms, part.end_ms, part.channel) == ("c2", 2500, 5500, 1)
    assert (part.reference, part.language, part.source_uri) == ("hallo welt", "de", str(tmp_path / "call.wav"))
    assert (mono.channel, mono.start_ms, mono.reference, mono.language) == (0, None, None, None)


def test_lhotse_recordings_are_read_also_with_one_file_per_channel(tmp_path: Path) -> None:
    sources = [{"type": "file", "channels": [c], "source": f"{c}.wav"} for c in (0, 1)]
    recording = {"id": "r", "sources": sources[:1], "sampling_rate": 8000, "num_samples": 8, "duration": 0.001}
    two = cut(id="c", channel=1)
    two["recording"] = two["recording"] | {"sources": sources}
    both = cut(id="b", channel=[0, 1], recording=two["recording"])
    whole, mono, mixed = listed(write_lines(tmp_path / "r.jsonl", recording, two, both))
    assert (whole.recording_id, whole.source_uri, whole.metadata) == ("r", str(tmp_path / "0.wav"), None)
    assert (mono.source_uri, mono.channel) == (str(tmp_path / "1.wav"), None)
    assert mixed.problem == "bad_metadata"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "bad_metadata"),
        ("[1]", "bad_metadata"),
        ("[" * 100_000, "bad_metadata"),
        ('{"id": "x"}', "bad_metadata"),
        ('{"audio_filepath": ""}', "bad_metadata"),
        ('{"audio_filepath": ["a.wav", "b.wav"]}', "bad_metadata"),
        ('{"audio_filepath": "\\ud800.wav"}', "bad_metadata"),
        ('{"audio_filepath": "a\\u0000.wav"}', "bad_metadata"),
        ('{"audio_filepath": "a.wav", "id": {}}', "bad_metadata"),
        ('{"audio_filepath": "a.wav", "id": "\\udfff"}', "bad_metadata"),
        ('{"audio_filepath": "a.wav", "text": true}', "bad_metadata"),
        ('{"audio_filepath": "a.wav", "duration": "long"}', "bad_metadata"),
        ('{"audio_filepath": "a.wav", "duration": -1}', "bad_metadata"),
        ('{"audio_filepath": "a.wav", "duration": 1e999}', "bad_metadata"),
        ('{"audio_filepath": "a.wav", "offset": 1, "duration": 0}', "bad_metadata"),
        ('{"audio_filepath": "a.wav", "channel": -1}', "bad_metadata"),
        ('{"audio_filepath": "a.wav", "channel": 0.5}', "bad_metadata"),
        ('{"audio_filepath": "a.wav", "channel": "1.5"}', "bad_metadata"),
        (f'{{"audio_filepath": "a.wav", "channel": "{"9" * 400}"}}', "bad_metadata"),
        ('{"audio_filepath": "a.wav", "language": "nl"}', "unsupported_language"),
        (
            json.dumps(cut(recording={"sources": [{"type": "command", "channels": [0], "source": "rm"}]})),
            "bad_metadata",
        ),
        (json.dumps(cut(recording={"sources": 5, "duration": 1})), "bad_metadata"),
        (json.dumps({"id": "m", "type": "MixedCut", "tracks": []}), "bad_metadata"),
        ("x" * (5 << 20), "bad_metadata"),
    ],
)
def test_the_problem_of_a_bad_line_names_it_and_the_rest_is_read(tmp_path: Path, line: str, reason: str) -> None:
    good = {"id": "good", "audio_filepath": "a.wav"}
    path = write_lines(tmp_path / "m.jsonl", good | {"id": "before"}, line, good)
    before, bad, after = listed(path)
    assert (before.problem, after.problem, after.recording_id) == (None, None, "good")
    assert bad.problem == reason
    assert f"{path}:2: " in (bad.problem_detail or "")
    assert (bad.source_uri, bad.source_member) == (str(path), "line 2")


def test_a_line_that_is_not_utf8_does_not_affect_others(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"audio_filepath": "a.wav"}\n{"audio_filepath": "\xff.wav"}\n{"audio_filepath": "b.wav"}'
    )
    assert [ref.problem for ref in listed(path)] == [None, "bad_metadata", None]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "csv.gz", "tsv.gz"])
def test_tables_are_read_with_their_header(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "a.wav").write_bytes(b"A")
    path = tmp_path / f"m.{suffix}"
    delimiter = "\t" if "tsv" in suffix else ","
    with (gzip.open if suffix.endswith("gz") else open)(path, "wt", encoding="utf-8", newline="") as out:  # type: ignore[operator]
        writer = csv.writer(out, delimiter=delimiter)
        writer.writerow(["path", "sentence", "locale", "client_id", "duration", "offset", "channel"])
        writer.writerow(["a.wav", 'sie sagte "ja", dann nichts', "de", "7", "1.5", "", ""])
        writer.writerow(["b.wav", "", "", "8", "", "0.5", "1"])
    one, two = listed(path)
    assert (one.recording_id, one.seconds, one.start_ms) == ("a.wav", 1.5, None)
    assert read_recording(one) == Recording(b"A", "de", 'sie sagte "ja", dann nichts', '{"client_id": "7"}')
    assert (two.start_ms, two.end_ms, two.channel, two.language, two.reference) == (500, None, 1, None, None)


def test_columns_that_the_settings_name_are_used(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("id,recording,said,tongue\n1,a.mystery,hallo,deu\n")
    keys = {"audio_column": "recording", "id_column": "said", "text_column": "id", "language": "column:tongue"}
    (ref,) = listed(tmp_path / "m.csv", **keys)
    assert (ref.recording_id, ref.reference, ref.language) == ("hallo", "1", "de")
    assert ref.source_uri.endswith("/a.mystery")
    with pytest.raises(ConfigError, match=r"^source\.audio_column: which of id, recording, said, tongue in .*m\.csv"):
        listed(tmp_path / "m.csv")
    with pytest.raises(ConfigError, match=r"^source\.language: no line of .*m\.csv has 'nope'"):
        listed(tmp_path / "m.csv", audio_column="recording", language="column:nope")


@pytest.mark.parametrize("ending", ['5,"never closed', '5,"x"y', "5", "5,6,7", '5,"a\n"b,c"d\ne'])
def test_a_bad_csv_row_does_not_affect_others(tmp_path: Path, ending: str) -> None:
    rows = [f'{i}.wav,"line {i}\nand more"' for i in range(100)]
    path = tmp_path / "m.csv"
    path.write_text("\n".join(["path,text", '0,5" tape', ending, *rows]) + "\n")
    refs = listed(path)
    good = {ref.recording_id: ref.reference for ref in refs if not ref.problem}
    assert good == {"0": '5" tape'} | {f"{i}.wav": f"line {i}\nand more" for i in range(100)}
    assert 1 <= len(refs) - len(good) <= ending.count("\n") + 1


def test_a_csv_without_header_and_a_json_array_are_errors_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("a.wav,,\n")
    (tmp_path / "m.json").write_text('[{"audio_filepath": "a.wav"}]')
    with pytest.raises(ConfigError, match=r"^source\.uri: .*m\.csv: the first line is not a header"):
        listed(tmp_path / "m.csv")
    with pytest.raises(ConfigError, match=r"^source\.uri: .*m\.json: a JSON array"):
        listed(tmp_path / "m.json")


def test_a_cut_gzip_keeps_the_lines_before(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m.jsonl.gz", *({"audio_filepath": f"{i * 7919 % 10007}.wav"} for i in range(5000)))
    path.write_bytes(path.read_bytes()[:-500])
    *lines, last = listed(path)
    assert len(lines) > 3000
    assert all(ref.problem is None for ref in lines)
    assert last.problem == "truncated_archive"


def test_a_folder_of_manifests_is_read_in_order_with_paths_from_each(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        write_lines(tmp_path / name / "m.jsonl", {"audio_filepath": "x.wav"})
    (tmp_path / "config.json").write_text("{}")
    assert [ref.source_uri for ref in listed(tmp_path)] == [f"{tmp_path}/a/x.wav", f"{tmp_path}/b/x.wav"]


def test_missing_audio_is_a_dead_letter_when_it_is_read(tmp_path: Path) -> None:
    paths = ["nowhere.wav", ".", "ftp-like://x/y.wav", "/dev/zero", "a" * 5000]
    for ref in listed(write_lines(tmp_path / "m.jsonl", *({"audio_filepath": path} for path in paths)), trust="true"):
        assert ref.problem is None
        with pytest.raises(BadRecording, match="missing_file"):
            read_recording(ref)


def test_paths_in_a_remote_manifest_start_in_its_folder() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/man/x/a.wav", b"A")
    memory.pipe_file("/man/x/m.jsonl", b'{"audio_filepath": "a.wav"}\n{"audio_filepath": "memory://man/x/a.wav"}')
    refs = listed("memory://man/x/m.jsonl")
    assert [read_recording(ref).audio for ref in refs] == [b"A", b"A"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["id", "audio_filepath", "text", "language", "duration", "offset", "channel", "recording", "x"])
ROWS = st.dictionaries(KEYS, VALUES, max_size=7).map(lambda row: json.dumps(row).encode())


@settings(max_examples=100, deadline=None)
@given(st.lists(ROWS | st.binary(max_size=80), max_size=6), st.sampled_from(["jsonl", "csv", "tsv", "jsonl.gz"]))
def test_random_lines_never_raise_and_never_hide_a_good_one(folder: Path, rows: list[bytes], suffix: str) -> None:
    rows = [row.replace(b"\n", b" ").replace(b"\r", b" ") for row in rows]
    good = {"jsonl": b'{"id": "good", "audio_filepath": "a.wav"}', "csv": b"good,x,de", "tsv": b"good\tx\tde"}[
        suffix[:5]
    ]
    header = [] if "json" in suffix else [b"path\ttext\tlanguage" if suffix == "tsv" else b"path,text,language"]
    data = b"\n".join([*header, good, *rows, good, b""])
    path = folder / f"m.{suffix}"
    path.write_bytes(gzip.compress(data) if suffix.endswith("gz") else data)
    refs = listed(path)
    assert sum(ref.recording_id == "good" for ref in refs) >= 2
    assert len(refs) <= len(rows) + 2
    for ref in refs:
        assert ref.problem is None or ref.problem_detail
        for text in (ref.recording_id, ref.source_uri, ref.reference, ref.metadata, ref.problem_detail):
            assert text is None or text.encode() is not None


@pytest.mark.parametrize(
    "row",
    [
        {"audio_filename": "a.wav"},
        {"wav_filename": "a.wav", "wav_filesize": 9},
        {"audio": {"path": "a.wav"}},
        {"audio": {"path": "a.wav", "bytes": None}},
        {"clip_of_the_day": "a.wav"},  # the only value that looks like audio
        {"audio_filepath": "a.wav", "other": "b.wav"},
    ],
)
def test_the_usual_keys_and_the_only_name_of_audio_are_found(tmp_path: Path, row: dict[str, Any]) -> None:
    (tmp_path / "a.wav").write_bytes(b"A")
    (ref,) = listed(write_lines(tmp_path / "m.jsonl", row | {"id": "x", "text": "hallo"}))
    assert (read_recording(ref).audio, ref.reference) == (b"A", "hallo")


@pytest.mark.parametrize("key", ["txt", "raw_text", "ground_truth"])
def test_the_keys_of_other_toolkits_are_the_reference(tmp_path: Path, key: str) -> None:
    (ref,) = listed(write_lines(tmp_path / "m.jsonl", {"key": "k1", "wav": "a.wav", key: "hallo"}))
    assert (ref.recording_id, ref.reference, ref.metadata) == ("k1", "hallo", None)
    (ref,) = listed(write_lines(tmp_path / "m.jsonl", {"key": "k1", "source": "a.wav", "target": "hallo"}))  # FunASR
    assert (ref.recording_id, ref.reference) == ("k1", "hallo")


def test_a_line_without_audio_says_which_keys_it_has(tmp_path: Path) -> None:
    (ref,) = listed(write_lines(tmp_path / "m.jsonl", {"id": "x", "sound": 1, "text": "hallo"}))
    assert (ref.problem_detail or "").endswith(":1: no path of an audio file; the keys are 'id', 'sound', 'text'")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"audio_filepath": "a.wav", "lang": "pt"}, "unsupported_language"),
        ({"audio_filepath": "a.wav", "duration": "2,5"}, "bad_metadata"),
        ({"audio_filepath": "a.wav", "offset": -1}, "bad_metadata"),
        ({"audio_filepath": ""}, "bad_metadata"),
    ],
)
def test_a_line_that_cannot_be_used_keeps_its_reference_and_metadata(
    tmp_path: Path, row: dict[str, Any], reason: str
) -> None:
    (ref,) = listed(write_lines(tmp_path / "m.jsonl", row | {"text": "hallo", "speaker": "anna"}))
    assert (ref.problem, ref.reference) == (reason, "hallo")
    assert json.loads(ref.metadata or "")["speaker"] == "anna"


def test_a_cell_may_be_as_long_as_a_line(tmp_path: Path) -> None:
    text = "word " * 100_000
    (tmp_path / "m.csv").write_text(f"id,path,text\n1,a.wav,{text}\n2,b.wav,short\n")
    assert [ref.reference for ref in listed(tmp_path / "m.csv")] == [text, "short"]


def test_spaces_around_the_cells_of_a_table_are_not_part_of_them(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"A")
    (tmp_path / "m.csv").write_text("\ufeffid , path , text\nx , a.wav , hallo welt\n", encoding="utf-8")
    (ref,) = listed(tmp_path / "m.csv")
    assert (ref.recording_id, ref.reference, read_recording(ref).audio) == ("x", "hallo welt", b"A")


@pytest.mark.parametrize(
    "written",
    [
        "wavs/a b\u00e9.wav",
        "wavs/a be\u0301.wav",
        "wavs/a%20b%C3%A9.wav",
        " wavs/a b\u00e9.wav\n",
        "wavs\\a b\u00e9.wav",
    ],
)
def test_a_path_that_is_written_in_another_way_finds_its_file(tmp_path: Path, written: str) -> None:
    (tmp_path / "wavs").mkdir()
    (tmp_path / "wavs/a b\u00e9.wav").write_bytes(b"A")
    (ref,) = listed(write_lines(tmp_path / "m.jsonl", {"audio_filepath": written}))
    assert read_recording(ref).audio == b"A"


def test_the_file_of_exactly_the_written_name_comes_first(tmp_path: Path) -> None:
    (tmp_path / "a%20b.wav").write_bytes(b"percent")
    (tmp_path / "a b.wav").write_bytes(b"space")
    lines = [{"audio": "a%20b.wav"}, {"audio": f"file://{tmp_path}/a%20b.wav"}]
    refs = listed(write_lines(tmp_path / "m.jsonl", *lines), trust="true")
    assert [read_recording(ref).audio for ref in refs] == [b"percent", b"percent"]


def test_a_manifest_in_a_store_may_name_files_of_other_folders() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/lists/wavs/a.wav", b"A")
    memory.pipe_file("/lists/m/m.jsonl", b'{"audio": "../wavs/a.wav"}\n{"audio": "./../wavs/./a.wav"}\n')
    assert [read_recording(ref).audio for ref in listed("memory://lists/m/m.jsonl", root="memory://lists")] == [
        b"A",
        b"A",
    ]


def test_the_signature_of_an_address_is_read_with_but_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed = "http://127.0.0.1:1/get?take=2&X-Amz-Date=1&X-Amz-Signature=SECRET"
    path = write_lines(tmp_path / "m.jsonl", {"audio_filepath": signed})
    (one,) = formats.list_recordings(SourceConfig(uri=str(path), format="manifest", trust=True))
    assert (one.recording_id, one.source_uri) == ("http://127.0.0.1:1/get?take=2", signed)
    monkeypatch.setattr("pipeline.storage.patience.FIRST_SECONDS", 0.001)
    with pytest.raises(BadRecording, match=r"missing_file: http://127\.0\.0\.1:1/get") as caught:
        read_recording(one)
    assert "SECRET" not in f"{caught.value} {caught.value.detail}"
