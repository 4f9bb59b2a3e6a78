"""How long a recording is: the seconds that the source declares, or an estimate from its bytes and the kind of file."""

from __future__ import annotations

from pipeline.schemas import RecordingRef

# Bytes of one second of speech at the lowest setting that is usual for it, so that an estimate is rather too long than
# too short. Measured with PyAV 18 on 462 s of speech: the clean flac files of assets/sample and assets/evaluation.
_MEASURED = {
    16_000: "wav wave w64 rf64 aif aiff aifc caf",  # 8 kHz, 16 bit: 16,000. At 16 kHz it is 32,000
    8_000: "au snd sph",  # 8 kHz, mu-law: 8,000
    8_800: "flac ape wv tta",  # flac at 8 kHz: 8,831; at 16 kHz 15,683
    4_000: "mp3 mp2 mpga",  # 32 kbit/s: 4,001
    4_700: "aac ac3 m4a m4b mp4 mov 3gp wma",  # 32 kbit/s: aac 4,834, wma 4,764
    1_800: "opus ogg oga spx webm mka mkv",  # opus at 16 kbit/s: 1,828; at 24 kbit/s 2,790
    1_600: "amr",  # 12.2 kbit/s: 1,600
}
BYTES_PER_SECOND = {extension: rate for rate, names in _MEASURED.items() for extension in names.split()}
UNKNOWN_KIND = 4_000  # bytes per second where no extension says what it is, as in Parquet: as mp3
UNKNOWN_SECONDS = 30.0  # where even the bytes are unknown


def declared_seconds(ref: RecordingRef) -> float | None:
    """Seconds of audio that the source declares: of the selected range, else of the whole. None: not declared."""
    if ref.start_ms is not None and ref.end_ms is not None:
        return (ref.end_ms - ref.start_ms) / 1000
    return ref.seconds


def estimated_seconds(ref: RecordingRef) -> float:
    """Seconds of audio by the bytes and the extension; UNKNOWN_SECONDS where the bytes are unknown."""
    if not ref.size:
        return UNKNOWN_SECONDS
    name = (ref.source_member or ref.source_uri).partition("?")[0]
    return ref.size / BYTES_PER_SECOND.get(name.rpartition(".")[2].lower(), UNKNOWN_KIND)


def expected_seconds(ref: RecordingRef) -> float:
    """Seconds of audio, declared or estimated. 0 for a recording that will not be read, because it has a problem."""
    if ref.problem:
        return 0.0
    seconds = declared_seconds(ref)
    return seconds if seconds is not None and 0 <= seconds < float("inf") else estimated_seconds(ref)
