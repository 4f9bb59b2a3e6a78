"""What is cut of a recording that is read while it is decoded."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile

from pipeline.export.cut import VERIFIED, with_audio
from pipeline.export.labels import read_labels
from pipeline.export.origin import items, read_refs, read_run, unit_places
from pipeline.schemas import SAMPLE_RATE
from tests.support.labelled import sound, transcribed
from tests.support.small_s3 import SmallS3

LABELS, STEP_MS = 2 * VERIFIED + 5, 50


def wav(number: int) -> bytes:
    soundfile.write(buffer := io.BytesIO(), sound(number), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


@pytest.mark.parametrize("is_changed", [False, True])
def test_the_version_of_a_long_recording_is_compared_for_many_rows_together(
    is_changed: bool, s3: SmallS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.sources.access.remote.WHOLE_BYTES", 1000)
    s3.objects["in/r0.wav"] = wav(0)
    storage = transcribed("s3://b/in", str(tmp_path / "out"), f"storage.endpoint={s3.url}")
    label = next(read_labels(storage, "transcripts/part-00000.parquet"))
    several = [
        replace(label, label_id=f"{at:016x}", start_ms=STEP_MS * at, end_ms=STEP_MS * (at + 1)) for at in range(LABELS)
    ]
    run, problems = read_run(storage), list[dict[str, str]]()
    rows = with_audio(
        list(items(several, read_refs(storage, unit_places(storage).items()), run)), run.config, "WAV", problems
    )
    s3.log.clear()
    done = [next(rows).label.start_ms]
    if is_changed:
        s3.objects["in/r0.wav"] = wav(1)
    done += [item.label.start_ms for item in rows]
    assert done == [STEP_MS * at for at in range(VERIFIED if is_changed else LABELS)]
    assert [line["reason"] for line in problems] == ["source_changed"] * (LABELS - len(done))
    assert sum(method == "HEAD" for method, _, _ in s3.log) < 8
