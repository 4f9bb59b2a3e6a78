"""Tests of what an evaluation knows of each recording: nothing expected is left out, texts of segments are joined."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.config import ConfigError
from pipeline.evaluation.rows import Heard, heard
from pipeline.output.commit import commit_unit, new_attempt
from pipeline.output.publish import publish
from pipeline.schemas import DEAD_LETTER, TRANSCRIPT, to_table
from pipeline.storage.base import Storage, open_storage
from tests.support.outputs import left, plan, ref, results, run


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "out"))


def test_every_planned_recording_is_there_once_with_what_became_of_it(storage: Storage) -> None:
    refs = [ref(number, reference=f"ref {number}") for number in range(7)]
    refs += [ref(2, source_uri="/in/b.tar", reference="a second one of this name")]
    refs += [ref("broken", problem="corrupt_archive", reference=None)]
    mark = plan(storage, refs)
    run(storage, mark, dead={"r1"}, only=lambda number: number != 1)  # r3, r4, r5 are never done
    publish(storage)
    rows = heard(storage)
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
    publish(storage)
    (row,) = heard(storage)
    assert row == Heard(
        recording_id="r0",
        language="zh",
        status="transcribed",
        reference=None,
        hypothesis="你好世界第二",
        speaker="s7",
        snr_db=12.0,
        seconds=3.9,  # where the last segment ends
        confidence=pytest.approx((0.25 * 4 + 1.0 * 3) / 7),
        steps=4.5,
        audio="/in/a.tar!0.flac",
        model="tiny",
        fingerprint=mark,
    )


def test_what_is_no_output_or_not_published_is_one_line(storage: Storage) -> None:
    with pytest.raises(ConfigError, match="nothing is planned there"):
        heard(storage)
    plan(storage, [ref(0)])
    with pytest.raises(ConfigError, match="nothing is published there yet"):
        heard(storage)
