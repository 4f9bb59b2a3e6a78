"""Every promised format is decoded; a decoder that hears something else is found out."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.doctor import codecs
from tests.support.audio_files import encoded, sndfile


def test_every_format_of_the_readme_is_heard_here() -> None:
    (row,) = codecs.check()
    assert row.state == "ok"
    for name in ("flac", "wav", "mp3", "ogg vorbis", "opus", "m4a"):
        assert name in row.found


def test_decoders_that_ffmpeg_lacks_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = codecs.present()
    assert row.state == "ok"
    monkeypatch.setattr(codecs, "CODECS", "flac,nosuchcodec,opus")
    (row,) = codecs.present()
    assert (row.state, row.found) == ("warn", "2 of 3 decoders of FFmpeg; without nosuchcodec")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "zero bytes"),
        (b"not audio at all" * 100, "x: "),
        (codecs.clip("flac")[:3000], "x: "),
        (encoded("wav"), "2.00 s of 440 Hz are heard instead of 1.00 s"),
        (sndfile(np.random.default_rng(0).uniform(-1, 1, (48_000, 1)), 48_000, "WAV", "PCM_16"), "instead of"),
    ],
    ids=["empty", "text", "cut", "long", "noise"],
)
def test_what_is_not_the_tone_is_a_fault(data: bytes, says: str) -> None:
    assert says in codecs.fault("x", data)
