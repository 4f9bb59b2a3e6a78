"""Real files of every codec for the tests, written by libsndfile or FFmpeg from a tone of which all is known."""

from __future__ import annotations

import contextlib
import functools
import io
import struct

import av
import numpy as np
import soundfile
from av.stream import Disposition

LIBSNDFILE = {  # kind: format, subtype, rate, channels
    "wav": ("WAV", "PCM_16", 16_000, 1),
    "wav_u8": ("WAV", "PCM_U8", 8_000, 1),
    "wav_24": ("WAVEX", "PCM_24", 44_100, 2),
    "wav_32": ("WAV", "PCM_32", 22_050, 1),
    "wav_float": ("WAV", "FLOAT", 48_000, 2),
    "wav_double": ("WAV", "DOUBLE", 16_000, 1),
    "wav_ulaw": ("WAV", "ULAW", 8_000, 1),
    "wav_alaw": ("WAV", "ALAW", 8_000, 2),
    "wav_adpcm": ("WAV", "IMA_ADPCM", 16_000, 1),
    "rf64": ("RF64", "PCM_16", 16_000, 1),
    "w64": ("W64", "PCM_16", 16_000, 1),
    "aiff": ("AIFF", "PCM_16", 44_100, 2),
    "au": ("AU", "PCM_16", 16_000, 1),
    "caf": ("CAF", "PCM_16", 16_000, 1),
    "nist": ("NIST", "PCM_16", 16_000, 1),
    "flac": ("FLAC", "PCM_16", 16_000, 1),
    "flac_24": ("FLAC", "PCM_24", 44_100, 2),
    "vorbis": ("OGG", "VORBIS", 44_100, 2),
    "mp3": ("MP3", "MPEG_LAYER_III", 44_100, 2),
}
FFMPEG = {  # kind: container, codec, rate, channels, options of the container
    "opus": ("ogg", "libopus", 48_000, 2, {}),
    "webm": ("webm", "libopus", 48_000, 1, {}),
    "m4a": ("ipod", "aac", 44_100, 2, {}),
    "mp4": ("mp4", "aac", 16_000, 1, {}),
    "mp4_fragments": ("mp4", "aac", 44_100, 1, {"movflags": "frag_keyframe+empty_moov", "frag_duration": "500000"}),
    "aac": ("adts", "aac", 44_100, 1, {}),
    "mkv": ("matroska", "aac", 48_000, 2, {}),
    "alac": ("ipod", "alac", 44_100, 2, {}),
    "mp3_plain": ("mp3", "libmp3lame", 16_000, 1, {"write_xing": "0"}),
    "mp2": ("mp2", "mp2", 44_100, 1, {}),
    "amr": ("amr", "libopencore_amrnb", 8_000, 1, {}),
    "ac3": ("ac3", "ac3", 48_000, 2, {}),
    "mpegts": ("mpegts", "aac", 44_100, 1, {}),
    "flv": ("flv", "aac", 44_100, 1, {}),
    "avi": ("avi", "mp2", 44_100, 1, {}),
    "wma": ("asf", "wmav2", 44_100, 1, {}),
    "mp3_8k": ("mp3", "libmp3lame", 8_000, 1, {}),
    "3gp": ("3gp", "aac", 44_100, 1, {}),
    "tta": ("tta", "tta", 16_000, 1, {}),
    "wv": ("wv", "wavpack", 44_100, 2, {}),
    "mpeg": ("mpeg", "mp2", 44_100, 1, {}),
}
KINDS = (*LIBSNDFILE, *FFMPEG)
LOSSLESS = (
    *("wav", "wav_24", "wav_32", "wav_float", "wav_double", "rf64", "w64", "aiff", "au", "caf", "nist"),
    *("flac", "flac_24"),
)


def tone(rate: int, seconds: float, channels: int = 1) -> np.ndarray:
    """float32 [frames, channels]: 440 Hz at 0.3, and in each further channel the same at half of the one before."""
    wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)
    return np.stack([wave / 2**channel for channel in range(channels)], axis=1).astype(np.float32)


@functools.cache
def encoded(kind: str, seconds: float = 2.0) -> bytes:
    """The bytes of a file of this kind with `tone` in it."""
    if kind in LIBSNDFILE:
        form, subtype, rate, channels = LIBSNDFILE[kind]
        return sndfile(tone(rate, seconds, channels), rate, form, subtype)
    container, codec, rate, channels, options = FFMPEG[kind]
    return ffmpeg(tone(rate, seconds, channels), rate, container, codec, options)


def sndfile(samples: np.ndarray, rate: int, form: str, subtype: str) -> bytes:
    """A file of `samples` [frames, channels], in blocks of 4096: libsndfile's vorbis encoder crashes on more."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, samples.shape[1], format=form, subtype=subtype) as out:
        for at in range(0, len(samples), 4096):
            out.write(samples[at : at + 4096])
    return file.getvalue()


def ffmpeg(samples: np.ndarray, rate: int, container: str, codec: str, options: dict[str, str]) -> bytes:
    """A file of `samples` [frames, channels], made by FFmpeg's encoder and muxer."""
    file = io.BytesIO()
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    with av.open(file, "w", format=container, options=dict(options)) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.layout = layout
        if codec == "wmav2":  # FFmpeg has no default for it
            stream.bit_rate = 64_000
        frame = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16).reshape(1, -1), "s16", layout)
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.format.name, layout, rate)
        queue = av.AudioFifo()
        for converted in resampler.resample(frame) + resampler.resample(None):
            queue.write(converted)
        size = stream.codec_context.frame_size or 1024
        while (part := queue.read(size) or queue.read(0)) is not None:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    return file.getvalue()


def with_gap(data: bytes, container: str, at_seconds: float, gap_seconds: float) -> bytes:
    """The same packets, those from at_seconds on with later time stamps."""
    file = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(file, "w", format=container) as out:
        track = source.streams.audio[0]
        stream = out.add_stream_from_template(track)
        for packet in source.demux(track):
            if packet.dts is None:
                continue
            if packet.pts * track.time_base >= at_seconds:
                packet.pts += round(gap_seconds / track.time_base)
                packet.dts += round(gap_seconds / track.time_base)
            packet.stream = stream
            out.mux(packet)
    return file.getvalue()


def with_tracks(container: str, tracks: list[bytes], *, starts: tuple[float, ...] = (), default: int = 0) -> bytes:
    """One file with the audio track of each of these files. starts: seconds at which they begin, 0 if not given."""
    file = io.BytesIO()
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(av.open(file, "w", format=container))
        sources = [stack.enter_context(av.open(io.BytesIO(data))) for data in tracks]
        streams = [out.add_stream_from_template(source.streams.audio[0]) for source in sources]
        for number, stream in enumerate(streams):
            stream.disposition = Disposition.default if number == default else Disposition(0)
        packets = []
        for number, source in enumerate(sources):
            late = round((starts[number] if starts else 0) / source.streams.audio[0].time_base)
            for packet in source.demux(source.streams.audio[0]):
                if packet.dts is not None:
                    packet.pts, packet.dts = packet.pts + late, packet.dts + late
                    packets.append((float(packet.dts * packet.time_base), number, packet))
        for _, number, packet in sorted(packets, key=lambda item: item[:2]):
            packet.stream = streams[number]
            out.mux(packet)
    return file.getvalue()


def patched(data: bytes, at: int, new: bytes) -> bytes:
    """The data, with `new` instead of the bytes at `at`."""
    return data[:at] + new + data[at + len(new) :]


def flac_without_length(data: bytes) -> bytes:
    """As an encoder writes it on a pipe: the 36 bits of the total are zero."""
    return patched(data, 21, bytes([data[21] & 0xF0]) + b"\0\0\0\0")


def mp4_with_declared_samples(data: bytes, count: int) -> bytes:
    """Sample tables that declare `count` samples of one byte each, all in the first chunk."""
    sizes, times, chunks = (data.index(kind) for kind in (b"stsz", b"stts", b"stsc"))
    data = patched(data, sizes + 8, struct.pack(">II", 1, count))
    data = patched(data, times + 12, struct.pack(">I", count))
    for entry in range(struct.unpack_from(">I", data, chunks + 8)[0]):
        data = patched(data, chunks + 16 + 12 * entry, struct.pack(">I", count))
    return data


def id3(length: int = 1024) -> bytes:
    """A tag in front of mp3 frames with text that is no UTF-8."""
    frame = b"TXXX" + struct.pack(">I", 30) + b"\0\0" + b"\x03k\0" + b"caf\xe9\xff" * 5 + b"ab"
    return b"ID3\x03\0\0" + bytes([0, 0, length >> 7, length & 127]) + frame.ljust(length, b"\0")


def with_edits(data: bytes, edits: list[tuple[float, float | None]]) -> bytes:
    """An mp4 file of one track with these edits: (seconds, place in the media in seconds; None: nothing is played)."""
    at = data.index(b"moov") - 4
    assert data[4:8] == b"ftyp"
    assert data.index(b"mdat") < at  # so that no chunk moves
    moov = data[at:]
    movie_scale = struct.unpack_from(">I", moov, moov.index(b"mvhd") + 16)[0]
    media_scale = struct.unpack_from(">I", moov, moov.index(b"mdhd") + 16)[0]
    entries = b"".join(
        struct.pack(">IiHH", round(length * movie_scale), -1 if place is None else round(place * media_scale), 1, 0)
        for length, place in edits
    )
    elst = struct.pack(">I4sII", 16 + len(entries), b"elst", 0, len(edits)) + entries
    edts = struct.pack(">I4s", 8 + len(elst), b"edts") + elst
    old = moov.index(b"edts") - 4
    old_size = struct.unpack_from(">I", moov, old)[0]
    grown = len(edts) - old_size
    moov = moov[:old] + edts + moov[old + old_size :]
    for kind in (b"moov", b"trak"):
        place_of_size = moov.index(kind) - 4
        moov = patched(moov, place_of_size, struct.pack(">I", struct.unpack_from(">I", moov, place_of_size)[0] + grown))
    for kind, offset in ((b"mvhd", 20), (b"tkhd", 24)):
        total = round(sum(length for length, _ in edits) * movie_scale)
        moov = patched(moov, moov.index(kind) + offset, struct.pack(">I", total))
    return data[:at] + moov
