"""Small corpora with synthesised speech, in the folders, tables and oddities of the published ones."""

from __future__ import annotations

import functools
import gzip
import io
import tarfile
from pathlib import Path

import numpy as np

from tests.support.audio_files import ffmpeg, sndfile
from tests.support.speech import spoken

FLEURS = {  # file: sentence id, raw transcription, transcription, gender; a sentence is read by several speakers
    "1004.wav": ("1661", 'He said: "Two red cats."', "he said two red cats", "MALE"),
    "1015.wav": ("1661", 'He said: "Two red cats."', "he said two red cats", "FEMALE"),
    "1020.wav": ("1662", '"Good morning."', "good morning", "FEMALE"),
}
VOXPOPULI = ("20180612-0900-PLENARY-5-en_20180612-11:38:10_4", "20090114-0900-PLENARY-14-en_20090114-18:14:30_8")
MLS = ("4650_7935_000001", "4650_7935_000002", "1844_931_000000")


@functools.cache
def clip(voice: str, text: str, kind: str) -> bytes:
    """Return an audio file of this kind with the spoken text, 16 kHz mono."""
    samples = spoken(voice, text)[:, np.newaxis]
    if kind == "opus":
        return ffmpeg(samples, 16_000, "ogg", "libopus", {})
    form, subtype = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS")}.get(
        kind, ("MP3", "MPEG_LAYER_III")
    )
    return sndfile(samples, 16_000, form, subtype)


def seconds(voice: str, text: str) -> float:
    """Return the length of a `clip` of the text in seconds."""
    return len(spoken(voice, text)) / 16_000


def archive(members: dict[str, bytes], ending: str = ".tar.gz") -> bytes:
    """Return an archive of the members. A name that ends with a slash is a folder."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            file.addfile(info, io.BytesIO(data))
    return gzip.compress(out.getvalue(), 1) if ending.endswith("gz") else out.getvalue()


def write(root: Path, tree: dict[str, bytes]) -> Path:
    """Write files by their paths below `root`, which is returned."""
    for name, data in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def table(*rows: tuple[str | None, ...], end: str = "\n") -> bytes:
    """Return a TSV of the rows, without any quoting."""
    return "".join("\t".join(cell or "" for cell in row) + end for row in rows).encode()


def fleurs(language: str = "en_us", split: str = "test", *, packed: bool = True, end: str = "\n") -> dict[str, bytes]:
    """Return data/<language> with one split. The archive is in another order than the table."""
    audio = {name: clip("en-us", text, "wav") for name, (_, _, text, _) in reversed(FLEURS.items())}
    rows = [
        (number, name, raw, text, " ".join(text), str(round(seconds("en-us", text) * 16_000)), gender)
        for name, (number, raw, text, gender) in FLEURS.items()
    ]
    folder = f"data/{language}"
    if packed:
        sound = {f"{folder}/audio/{split}.tar.gz": archive({f"{split}/{name}": data for name, data in audio.items()})}
    else:
        sound = {f"{folder}/audio/{split}/{name}": data for name, data in audio.items()}
    return {f"{folder}/{split}.tsv": table(*rows, end=end), **sound}


def commonvoice(locale: str = "de", split: str = "test", *, new: bool = True, end: str = "\n") -> dict[str, bytes]:
    """Return cv-corpus-*/<locale> with one split. new: the columns of release 17, else those of release 5."""
    header = ("client_id", "path", "sentence", "up_votes", "down_votes", "age", "gender", "accent", "locale", "segment")
    middle: tuple[str | None, ...] = ("2", "0", "fourties", "male", None, locale, None)
    if new:
        header = ("client_id", "path", "sentence_id", "sentence", "sentence_domain", "up_votes", "down_votes", "age")
        header += ("gender", "accents", "variant", "locale", "segment")
        middle = (None, "2", "0", "fourties", "male_masculine", "Hochdeutsch", None, locale, None)
    stem = f"common_voice_{locale}_"
    sentences = [("ab12", f"{stem}17.mp3", 'Er sagte "ja" und ging.'), ("cd34", f"{stem}18", '"Nein!"')]
    sentences += [("ab12", f"{stem}19.mp3", '"""Brot"", sagte sie."'), ("ef56", f"{stem}20.mp3", "Fehlt.")]
    rows = [
        (client, path, *([f"hash{number}"] if new else []), sentence, *middle)
        for number, (client, path, sentence) in enumerate(sentences)
    ]
    folder = f"cv-corpus-17.0-2024-03-15/{locale}"
    clips = {f"{folder}/clips/{stem}{number}.mp3": clip("de", "guten morgen", "mp3") for number in (17, 18, 19, 44)}
    durations = table(("clip", "duration[ms]"), (f"{stem}18.mp3", "1250"), (f"{stem}17.mp3", "2004"))
    more = {f"{folder}/clip_durations.tsv": durations, f"{folder}/reported.tsv": table(("sentence", "reason"))}
    return {f"{folder}/{split}.tsv": table(header, *rows, end=end), **clips, **(more if new else {})}


def voxpopuli(language: str = "en", split: str = "test", *, hub: bool = False) -> dict[str, bytes]:
    """Return transcribed_data/<language> with one split. hub: the layout data/<language> with several archives."""
    first, second = VOXPOPULI
    header = ("id", "raw_text", "normalized_text", "speaker_id", "split", "gender", "is_gold_transcript", "accent")
    rows = [
        (first, '"Good morning", friends.', "good morning friends", "28229", split, "female", "True", "None"),
        (second, None, "two red cats", "None", split, "None", "False", "None"),
    ]
    texts = {first: "good morning friends", second: "two red cats"}
    if hub:
        folder, sounds = f"data/{language}", {key: clip("en-us", text, "wav") for key, text in texts.items()}
        tars = [archive({f"{split}_part_{n}/": b"", f"{split}_part_{n}/{key}.wav": sounds[key]}) for n, key in
                enumerate(VOXPOPULI)]  # fmt: skip
        audio = {f"{folder}/{split}/{split}_part_{n}.tar.gz": data for n, data in enumerate(tars)}
    else:
        folder = f"transcribed_data/{language}"
        audio = {f"{folder}/{key[:4]}/{key}.ogg": clip("en-us", text, "ogg") for key, text in texts.items()}
    return {f"{folder}/asr_{split}.tsv": table(header, *rows), **audio}


def mls(language: str = "german", split: str = "test", *, kind: str = "flac") -> dict[str, bytes]:
    """Return mls_<language> with one split. segments.txt is in another order than transcripts.txt."""
    root = f"mls_{language}{'_opus' if kind == 'opus' else ''}"
    texts = dict(zip(MLS, ("guten morgen", "die brücke ist rosa", 'er sagte "ja"'), strict=True))
    segments = [(key, f"http://archive/{key}.mp3", "10.5", "12.75") for key in sorted(MLS)]
    audio = {
        f"{root}/{split}/audio/{'/'.join(key.split('_')[:2])}/{key}.{kind}": clip("de", "guten morgen", kind)
        for key in MLS
    }
    people = "SPEAKER | GENDER | PARTITION | MINUTES | BOOK ID | TITLE\n 4650 | F | test | 1.0 | 7935 | X\n"
    return {
        f"{root}/{split}/transcripts.txt": table(*texts.items()),
        f"{root}/{split}/segments.txt": table(*segments),
        f"{root}/metainfo.txt": people.encode(),
        **audio,
    }
