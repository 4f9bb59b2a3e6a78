"""Make the sample archive of `make demo`: python -m infra.tiny.make_sample_archive.

It needs the speech engines (voices.py). Six languages in flac, wav, mp3, ogg/opus and m4a at 8 to 48 kHz, mono and
stereo; a recording of several minutes; and bad files. Voices and phrases are held out: training never saw them. The
same seed gives the same speech.
"""

from __future__ import annotations

import io
import json
import random
import tarfile
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr

from infra.tiny.augment import clean
from infra.tiny.phrases import is_evaluation, phrase
from infra.tiny.voices import pick_voice, speak

FOLDER = Path(__file__).parents[2] / "pipeline" / "assets" / "sample"
RATE = 16_000
# extension, sample rate in Hz, channels: every language gets several containers
FORMATS = [
    ("flac", 16_000, 1),
    ("wav", 8_000, 1),
    ("mp3", 44_100, 2),
    ("ogg", 48_000, 1),
    ("m4a", 44_100, 1),
    ("opus", 48_000, 2),
]
SHARDS = {"shard-000": ("en", "de"), "shard-001": ("fr", "es"), "shard-002": ("hi", "zh")}
LONG_PHRASES = 70


def main() -> None:
    """Write all shards of the archive."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    rng = random.Random(2026)
    for name, languages in SHARDS.items():
        members: dict[str, bytes] = {}
        for number in range(len(FORMATS)):
            for language in languages:
                extension, rate, channels = FORMATS[(number + languages.index(language)) % len(FORMATS)]
                samples, text = utterance(language, rng)
                key = f"{language}/{number:03d}"
                members[f"{key}.{extension}"] = encode(samples, extension, rate, channels)
                members[f"{key}.json"] = sidecar(text, language)
        if name == "shard-000":
            samples, text = long_recording("en", rng)
            members["en/long.opus"] = encode(samples, "opus", 48_000, 1)
            members["en/long.json"] = sidecar(text, "en")
        write_tar(FOLDER / f"{name}.tar", members)

    samples, text = utterance("en", rng)
    flac = encode(samples, "flac", RATE, 1)
    silence = encode(np.zeros(3 * RATE, np.float32), "flac", RATE, 1)
    write_tar(
        FOLDER / "shard-003-bad.tar",
        {
            "bad/truncated.flac": flac[: len(flac) // 2],
            "bad/empty.wav": b"",
            "bad/text.wav": b"This is a text file that somebody named .wav\n" * 40,
            "good/silence.flac": silence,
            "good/silence.json": sidecar("", "en"),
        },
    )
    cut = FOLDER / "shard-004-cut.tar"
    members = {}
    for number in range(3):
        samples, text = utterance("de", rng)
        members[f"de/{number:03d}.flac"] = encode(samples, "flac", RATE, 1)
        members[f"de/{number:03d}.json"] = sidecar(text, "de")
    write_tar(cut, members)
    offset = sum(512 + -(-len(data) // 512) * 512 for data in list(members.values())[:4])
    cut.write_bytes(cut.read_bytes()[: offset + 512 + len(members["de/002.flac"]) // 2])  # inside the third recording


def utterance(language: str, rng: random.Random) -> tuple[np.ndarray, str]:
    """Speak a held-out phrase with a held-out voice. Returns float32 [samples] at 16 kHz, and the text."""
    text = phrase(language, rng)
    while not is_evaluation(text) or len(text) < 8 // (1 + (language == "zh")):
        text = phrase(language, rng)
    samples, rate = speak(pick_voice(language, rng, held_out=True), text, rng)
    return clean(samples, rate), text


def long_recording(language: str, rng: random.Random) -> tuple[np.ndarray, str]:
    """Speak for several minutes: phrases with pauses of 0.8 to 2.5 s. Returns samples and text as `utterance`."""
    audio, texts = [], []
    for _ in range(LONG_PHRASES):
        samples, text = utterance(language, rng)
        audio += [samples, np.zeros(int(RATE * rng.uniform(0.8, 2.5)), np.float32)]
        texts.append(text)
    return np.concatenate(audio), " ".join(texts)


def encode(samples: np.ndarray, extension: str, rate: int, channels: int) -> bytes:
    """Encode 16 kHz mono samples as a file of some rate in Hz, channel count and codec."""
    audio = soxr.resample(samples, RATE, rate).astype(np.float32)
    audio = np.clip(np.stack([audio] * channels, axis=1), -1.0, 1.0)
    out = io.BytesIO()
    if extension in ("flac", "wav", "ogg"):
        subtype = "VORBIS" if extension == "ogg" else "PCM_16"
        soundfile.write(out, audio, rate, format=extension.upper(), subtype=subtype)
        return out.getvalue()
    container, codec, bits = {
        "mp3": ("mp3", "libmp3lame", 48_000),
        "opus": ("ogg", "libopus", 24_000),
        "m4a": ("ipod", "aac", 48_000),
    }[extension]
    layout = "stereo" if channels == 2 else "mono"
    with av.open(out, "w", format=container) as target:
        stream = target.add_stream(codec, rate=rate, layout=layout, bit_rate=bits)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio.T), format="fltp", layout=layout)
        frame.sample_rate = rate
        frame_size = stream.frame_size or 0
        resampler = av.AudioResampler(format=stream.format.name, layout=layout, rate=rate, frame_size=frame_size)
        for resampled in [*resampler.resample(frame), *resampler.resample(None)]:
            target.mux(stream.encode(resampled))
        target.mux(stream.encode(None))
    return out.getvalue()


def sidecar(text: str, language: str) -> bytes:
    """The JSON file beside a recording: its text and language."""
    return (json.dumps({"text": text, "language": language}, ensure_ascii=False) + "\n").encode()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    """Write a plain ustar archive with constant times, so that the same members give the same bytes."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mtime = 1_700_000_000
            tar.addfile(info, io.BytesIO(data))


if __name__ == "__main__":
    main()
