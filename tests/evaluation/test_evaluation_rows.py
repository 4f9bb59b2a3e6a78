"""rows: one for every expected recording, with what is known of it; speakers and noise under any name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ConfigError, PlanConfig, SourceConfig
from pipeline.evaluation.rows import SNR_NAMES, SPEAKER_NAMES, Outcome, outcomes, slices_of, snr_of, speaker_of
from pipeline.output.commit import commit_unit, committed_units, new_attempt, read_commit
from pipeline.output.publish import publish_tables
from pipeline.planning.plan import ensure_plan
from pipeline.planning.update import source_changes
from pipeline.schemas import DEAD_LETTER, TRANSCRIPT, to_table
from pipeline.sources.formats import list_recordings
from pipeline.storage.base import Storage, open_storage
from tests.support.corpora import commonvoice, fleurs, mls, voxpopuli, write
from tests.support.outputs import FINGERPRINT, left, plan, ref, results, run


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "out"))


def test_every_planned_recording_is_there_once_with_what_became_of_it(storage: Storage) -> None:
    refs = [ref(number, reference=f"ref {number}") for number in range(7)]
    refs += [ref(2, source_uri="/in/b.tar", reference="a second one of this name")]
    refs += [ref("broken", problem="corrupt_archive", reference=None)]
    mark = plan(storage, refs)
    run(storage, mark, dead={"r1"}, only=lambda number: number != 1)  # r3, r4, r5 are never done
    publish_tables(storage)
    rows = outcomes(storage)
    assert [(row.recording_id, row.status, row.reason) for row in rows] == [
        ("r0", "transcribed", None),
        ("r1", "dead_letter", "model_error"),
        ("r2", "transcribed", None),
        ("r3", "missing", None),
        ("r4", "missing", None),
        ("r5", "missing", None),
        ("r6", "transcribed", None),
        ("r2 (/in/b.tar!2.flac)", "dead_letter", "duplicate_id"),
        ("rbroken", "dead_letter", "corrupt_archive"),
    ]
    assert [row.reference for row in rows[:4]] == ["ref 0", "ref 1", "ref 2", "ref 3"]
    assert rows[7].reference == "a second one of this name"
    assert [row.hypothesis for row in rows[:4]] == ["hallo hallo", "", "hallo hallo", ""]
    assert {row.language for row in rows} == {"de"}
    assert rows[0].audio == "/in/a.tar!0.flac"
    assert (rows[0].confidence, rows[0].steps, rows[0].seconds) == (0.5, 3.0, 4.0)


def test_what_an_update_has_taken_up_is_there_and_what_is_gone_is_not(storage: Storage, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("changed", "dead", "kept", "lost"):
        (folder / f"{name}.wav").write_bytes(b"RIFF")
    source, pairs = SourceConfig(uri=str(folder)), PlanConfig(unit_recordings=2)
    mark = ensure_plan(storage, source, pairs, part_rows=4, fingerprint=FINGERPRINT)
    run(storage, mark, dead={"dead.wav"})
    for name in ("dead.wav", "lost.wav"):
        (folder / name).unlink()
    (folder / "changed.wav").write_bytes(b"RIFF, longer")
    (folder / "new.wav").write_bytes(b"RIFF")
    for _ in range(2):  # a further update finds nothing
        source_changes(
            storage,
            source,
            PlanConfig(unit_recordings=2, update=True),
            part_rows=4,
            at_least=0,
            committed=committed_units(storage),
            is_recognised=lambda place: read_commit(storage, place[0])["by_recording"]["reason"][place[1]] is None,
        )
        run(storage, mark)
    publish_tables(storage)
    assert [(row.recording_id, row.status) for row in outcomes(storage)] == [
        ("changed.wav", "transcribed"),
        ("kept.wav", "transcribed"),
        ("lost.wav", "transcribed"),  # its rows stay
        ("new.wav", "transcribed"),
    ]


def test_segments_are_joined_in_order_and_channels_one_after_the_other(storage: Storage) -> None:
    mark = plan(storage, [ref(0, seconds=None, metadata=json.dumps({"speaker": "s7", "snr": 12}), language="zh")])
    (unit,) = left(storage)
    transcripts, _, samples = results(unit, mark, segments=4)
    spoken = {0: ("你好", 0), 1: ("世界", 0), 2: ("第二", 1), 3: ("", 1)}
    rows = []
    for row in transcripts.to_pylist():
        text, channel = spoken[row["segment_index"]]
        rows.append(
            row | {"text": text, "channel": channel, "confidence": 1.0 if channel else 0.25, "steps": 4 + channel}
        )
    rows.reverse()
    commit_unit(storage, unit, new_attempt(), to_table(rows, TRANSCRIPT), to_table([], DEAD_LETTER), samples, mark)
    publish_tables(storage)
    (row,) = outcomes(storage)
    assert row == Outcome(
        recording_id="r0",
        language="zh",
        status="transcribed",
        reference=None,
        hypothesis="你好世界第二",
        speaker="s7",
        snr_db=12.0,
        metadata='{"speaker": "s7", "snr": 12}',
        seconds=3.9,  # where the last segment ends
        confidence=pytest.approx((0.25 * 4 + 1.0 * 3) / 7),
        steps=4.5,
        words=[("hallo", 0.5)] * 4,
        audio="/in/a.tar!0.flac",
        model="tiny",
        fingerprint=mark,
    )


def test_what_is_no_output_or_not_published_is_one_line(storage: Storage) -> None:
    with pytest.raises(ConfigError, match="nothing is planned there"):
        outcomes(storage)
    plan(storage, [ref(0)])
    with pytest.raises(ConfigError, match="nothing is published there yet"):
        outcomes(storage)


@pytest.mark.parametrize("name", [*SPEAKER_NAMES, "Speaker", "speaker-id", "SPK_ID"])
def test_a_speaker_is_found_under_every_name(name: str) -> None:
    assert speaker_of(json.dumps({"mood": "x", name: "anna"})) == "anna"


@pytest.mark.parametrize(
    ("metadata", "speaker"),
    [
        ({"speaker": 84}, "84"),
        ({"speaker": 84.0}, "84"),
        ({"speaker": " 84 "}, "84"),
        ({"speaker": None, "client_id": "ab"}, "ab"),
        ({"speaker": "None", "speaker_id": ""}, None),
        ({"speaker": {"id": 1}}, None),
        ({"speaker": True}, None),
        ({"custom": {"speaker_id": "x"}}, "x"),
        ({"speaker": "a", "custom": {"speaker": "b"}}, "a"),
        ({"speakers": "a"}, None),
        ({}, None),
    ],
)
def test_a_speaker_is_text_or_unknown(metadata: dict[str, Any], speaker: str | None) -> None:
    assert speaker_of(json.dumps(metadata)) == speaker


@pytest.mark.parametrize("new", [True, False])
def test_the_columns_of_common_voice_are_slices(new: bool) -> None:
    header, *rows = commonvoice(new=new)["cv-corpus-17.0-2024-03-15/de/test.tsv"].decode().splitlines()
    columns = dict(zip(header.split("\t"), rows[0].split("\t"), strict=True))
    columns.update({name: "Hochdeutsch" for name in columns if name.startswith("accent")})
    columns.update({name: "news" for name in columns if name == "sentence_domain"})
    found = slices_of(json.dumps(columns), ["accent", "domain", "accent"])
    assert found == [("accent", "Hochdeutsch"), *([("domain", "news")] if new else [])]


@pytest.mark.parametrize(
    ("metadata", "snr"),
    [
        *(({name: 12.5}, 12.5) for name in SNR_NAMES),
        ({"snr": -3}, -3.0),
        ({"SNR": "12.5 dB"}, 12.5),
        ({"snr": "loud", "snr_db": 4}, 4.0),
        ({"custom": {"snr": 20}}, 20.0),
        ({"snr": True}, None),
        ({"snr": "nan"}, None),
        ({"snr": "1e999"}, None),
        ({"snr": [1]}, None),
        ({}, None),
    ],
)
def test_a_noise_level_is_finite_or_unknown(metadata: dict[str, Any], snr: float | None) -> None:
    assert snr_of(json.dumps(metadata)) == snr


@pytest.mark.parametrize("metadata", [None, "", "[1]", "{", "[" * 100_000, "3", '{"speaker": NaN, "snr": Infinity}'])
def test_what_is_no_object_says_nothing(metadata: str | None) -> None:
    assert (speaker_of(metadata), snr_of(metadata)) == (None, None)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["speaker", "snr", "x"]), inner),
)


@given(st.dictionaries(st.sampled_from(["speaker", "spk", "snr", "snr_db", "custom", "extra"]), VALUES))
def test_any_metadata_gives_a_name_and_a_number_or_nothing(metadata: dict[str, Any]) -> None:
    text = json.dumps(metadata)
    speaker, snr = speaker_of(text), snr_of(text)
    assert speaker is None or speaker == speaker.strip() != ""
    assert snr is None or -float("inf") < snr < float("inf")


@pytest.mark.parametrize(
    ("tree", "speakers"),
    [
        (fleurs, {None}),
        (commonvoice, {"ab12", "cd34", "ef56"}),
        (voxpopuli, {"28229", None}),
        (mls, {"4650", "1844"}),
        (lambda: {"84/121123/84-121123-0000.flac": b"A", "84/121123/84-121123.trans.txt": b""}, {"84"}),
    ],
    ids=["fleurs", "commonvoice", "voxpopuli", "mls", "librispeech"],
)
def test_each_corpus_names_its_speakers(tmp_path: Path, tree: Any, speakers: set[str | None]) -> None:
    write(tmp_path, tree())
    assert {speaker_of(ref.metadata) for ref in list_recordings(SourceConfig(uri=str(tmp_path)))} == speakers
