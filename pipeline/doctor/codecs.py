"""Decoders: a short tone in every format that is promised, made here and heard through the decoder of the pipeline.

Of the rarer codecs that are read as well, which ones FFmpeg was built with.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import soundfile

from pipeline.audio.decode import decode
from pipeline.audio.track import CODECS
from pipeline.doctor.rows import Row
from pipeline.schemas import SAMPLE_RATE, BadAudio

RATE, SECONDS, HERTZ = 48_000, 1.0, 440.0
LIBSNDFILE = {  # name: container and subtype of soundfile
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "ogg vorbis": ("OGG", "VORBIS"),
}
FFMPEG = {"opus": ("ogg", "libopus"), "m4a": ("ipod", "aac"), "aac": ("adts", "aac")}  # name: container, codec
FORMATS = (*LIBSNDFILE, *FFMPEG)


def check() -> Iterator[Row]:
    """One row for all formats that are heard right, and one for each that is not."""
    heard = []
    for name in FORMATS:
        try:
            data = clip(name)
        except Exception as err:  # noqa: BLE001 - of either library: an encoder that is missing is no decoder
            yield Row("codecs", "warn", f"{name}: no clip can be made to try it: {err}", "make setup")
            continue
        wrong = fault(name, data)
        if wrong:
            yield Row("codecs", "FAIL", f"{name}: {wrong}", "make setup: av and soundfile bring all decoders")
        else:
            heard.append(name)
    if heard:
        library = ".".join(map(str, av.library_versions["libavcodec"]))
        versions = f"av {av.__version__} with libavcodec {library}, libsndfile {soundfile.__libsndfile_version__}"
        yield Row("codecs", "ok", f"{', '.join(heard)} decoded ({versions})")


def present() -> Iterator[Row]:
    """A row of the decoders that the pipeline lets FFmpeg use: how many it has, and the names of those it lacks."""
    wanted = CODECS.split(",")
    lacking = [name for name in wanted if not _decodes(name)]
    found = f"{len(wanted) - len(lacking)} of {len(wanted)} decoders of FFmpeg"
    if lacking:
        yield Row("decoders", "warn", f"{found}; without {', '.join(lacking)}", "make setup: the pinned av has all")
    else:
        yield Row("decoders", "ok", found)


def _decodes(name: str) -> bool:
    try:
        av.codec.Codec(name, "r")
    except av.codec.codec.UnknownCodecError:
        return False
    return True


def clip(name: str) -> bytes:
    """An encoded tone of FORMATS, mono. Raises what the encoder raises."""
    tone = 0.3 * np.sin(2 * np.pi * HERTZ * np.arange(round(RATE * SECONDS)) / RATE)
    file = io.BytesIO()
    if name in LIBSNDFILE:
        form, subtype = LIBSNDFILE[name]
        with soundfile.SoundFile(file, "w", RATE, 1, format=form, subtype=subtype) as out:
            for at in range(0, len(tone), 4096):  # libsndfile's vorbis encoder crashes on large pieces
                out.write(tone[at : at + 4096])
        return file.getvalue()
    container, codec = FFMPEG[name]
    with av.open(file, "w", format=container) as out:
        stream: Any = out.add_stream(codec, rate=RATE)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray((tone * 32767).astype(np.int16)[None], "s16", "mono")
        frame.sample_rate = RATE
        resampler = av.AudioResampler(stream.format.name, "mono", RATE, frame_size=stream.codec_context.frame_size)
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return file.getvalue()


def fault(name: str, data: bytes) -> str:
    """What is wrong with what is heard, empty where it is a tone of that pitch and length."""
    try:
        pcm = decode(data, name=name, max_seconds=10)
    except BadAudio as err:
        return str(err.detail)
    heard = len(pcm) / SAMPLE_RATE
    pitch = float(np.argmax(np.abs(np.fft.rfft(pcm)))) / heard
    if abs(heard - SECONDS) > 0.15 or abs(pitch - HERTZ) > 5:
        return f"{heard:.2f} s of {pitch:.0f} Hz are heard instead of {SECONDS:.2f} s of {HERTZ:.0f} Hz"
    return ""
