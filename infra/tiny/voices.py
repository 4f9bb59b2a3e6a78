"""The speech synthesisers and their voices: which each language has, which are held out, and how a text is spoken."""

from __future__ import annotations

import io
import random
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import soundfile

from pipeline.config import ConfigError

ENGINES = ("espeak", "mbrola", "pico", "flite")
PROGRAMS = {  # engine -> (programs it needs, the Debian package to name when one is missing)
    "espeak": (("espeak-ng",), "espeak-ng"),
    "mbrola": (("espeak-ng", "mbrola"), "espeak-ng and mbrola"),
    "pico": (("pico2wave",), "libttspico-utils (component non-free)"),
    "flite": (("flite",), "flite"),
}
MBROLA_FOLDER = Path("/usr/share/mbrola")
TIMEOUT_SECONDS = 20

# The pinyin voice also reads Han characters; plain "cmn" of espeak-ng 1.51 spells them in English letters.
ESPEAK_ACCENTS = {
    "en": ("en-us", "en-gb", "en-gb-scotland", "en-us-nyc"),
    "de": ("de",),
    "fr": ("fr-fr", "fr-be", "fr-ch"),
    "es": ("es", "es-419"),
    "hi": ("hi",),
    "zh": ("cmn-latn-pinyin",),
}
# All variants under espeak-ng's voices/!v except whispers, croaks and robots.
# fmt: off
TRAINING_VARIANTS = (
    "Alex", "Alicia", "Andrea", "Andy", "AnxiousAndy", "Denis", "Diogo", "Gene", "Henrique", "Jacky", "Marco",
    "Michael", "Mike", "Nguyen", "RicishayMax", "RicishayMax2", "RicishayMax3", "Storm", "Tweaky", "adam", "anika",
    "anikaRobot", "announcer", "antonio", "aunty", "belinda", "benjamin", "boris", "caleb", "david", "ed", "edward",
    "edward2", "f1", "f2", "f3", "f4", "f5", "fast", "grandma", "grandpa", "gustave", "iven", "iven2", "iven3",
    "iven4", "john", "kaukovalta", "klatt", "klatt2", "klatt4", "klatt5", "klatt6", "linda", "m1", "m2", "m3", "m4",
    "m5", "m6", "m7", "m8", "marcelo", "max", "michel", "miguel", "norbert", "pablo", "paul", "pedro", "rob",
    "robert", "sandro", "shelby", "steph", "steph3", "travis", "victor", "zac",
)
# fmt: on
HELD_OUT_VARIANTS = ("Annie", "Gene2", "Hugo", "Lee", "Mario", "klatt3", "steph2", "quincy")
MBROLA_VOICES = {
    "en": ("us1", "us2", "us3", "en1"),
    "de": ("de1", "de2", "de3", "de4", "de5", "de6", "de7"),
    "fr": ("fr1", "fr2", "fr3", "fr4", "fr5", "fr6", "fr7"),
    "es": ("es1", "es2", "mx1", "mx2", "vz1"),  # es3 and es4 lack most of the sounds that espeak-ng asks for
    "hi": ("in1", "in2"),
}
# espeak-ng 1.51 writes some sounds by names that the Spanish voices do not know ("calle" is k a l^ e/); without these
# pairs of (known, written) such sounds are silent.
_VOWELS = "e e/ o o/ a a/"
MBROLA_CLONES = {
    "es1": _VOWELS,
    "es2": _VOWELS,
    "mx1": f"{_VOWELS} i l^",
    "mx2": f"{_VOWELS} i l^",
    "vz1": f"{_VOWELS} j l^",
}
PICO_VOICES = {"en": ("en-US",), "de": ("de-DE",), "fr": ("fr-FR",), "es": ("es-ES",)}
FLITE_VOICES = {"en": ("slt", "rms", "awb")}
HELD_OUT_VOICES = {"pico": {"en": ("en-GB",)}, "flite": {"en": ("kal16",)}}
# Shares of the utterances of a language that has the engine; espeak-ng speaks the rest.
ENGINE_SHARES = {"mbrola": 0.25, "pico": 0.15, "flite": 0.10}


class EngineError(Exception):
    """A synthesiser gave no audio for one text. Another voice may give some."""


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice of one of ENGINES. name: what the engine calls it; for espeak-ng "accent+variant"."""

    engine: str
    name: str

    def __str__(self) -> str:
        return f"{self.engine}:{self.name}"


@cache
def voices(language: str, *, held_out: bool, engines: tuple[str, ...] = ENGINES) -> dict[str, tuple[Voice, ...]]:
    """The voices of a language on one side of the split, by engine. Engines that have none are left out."""
    variants = HELD_OUT_VARIANTS if held_out else TRAINING_VARIANTS
    names = {
        "espeak": tuple(f"{accent}+{variant}" for accent in ESPEAK_ACCENTS[language] for variant in variants),
        "mbrola": () if held_out else MBROLA_VOICES.get(language, ()),
        "pico": (HELD_OUT_VOICES["pico"] if held_out else PICO_VOICES).get(language, ()),
        "flite": (HELD_OUT_VOICES["flite"] if held_out else FLITE_VOICES).get(language, ()),
    }
    return {engine: tuple(Voice(engine, name) for name in names[engine]) for engine in engines if names[engine]}


def pick_voice(language: str, rng: random.Random, *, held_out: bool, engines: tuple[str, ...] = ENGINES) -> Voice:
    """Draw an engine by ENGINE_SHARES, then one of its voices. Raises ConfigError where no engine has one."""
    table = voices(language, held_out=held_out, engines=engines)
    if not table:
        raise ConfigError(f"engines: {', '.join(engines)} have no voice for {language!r}")
    shares = {engine: ENGINE_SHARES[engine] for engine in table if engine != "espeak"}
    if "espeak" in table:
        shares["espeak"] = 1.0 - sum(shares.values())
    return rng.choice(table[rng.choices(list(shares), list(shares.values()))[0]])


def check_engines(languages: tuple[str, ...], *, held_out: bool, engines: tuple[str, ...] = ENGINES) -> None:
    """Raise ConfigError, one line that names the Debian packages, where a program or a voice is not installed."""
    missing = []
    for engine in engines:
        programs, package = PROGRAMS[engine]
        needed = any(engine in voices(language, held_out=held_out, engines=engines) for language in languages)
        if needed and not all(shutil.which(program) for program in programs):
            missing.append(package)
    known = _espeak_voices() if "espeak" in engines and shutil.which("espeak-ng") else None
    for language in languages:
        table = voices(language, held_out=held_out, engines=engines)
        names = {name for voice in table.get("espeak", ()) for name in voice.name.split("+")}
        if known is not None and names - known:
            missing.append(f"espeak-ng 1.51 or later (no voice {', '.join(sorted(names - known))})")
        for voice in table.get("mbrola", ()):
            if not (MBROLA_FOLDER / voice.name / voice.name).exists():
                missing.append(f"mbrola-{voice.name} (component non-free)")
    if missing:
        raise ConfigError(f"speech synthesis needs Debian packages that are not installed: {', '.join(missing)}")


def _espeak_voices() -> set[str]:
    """The accents and variants of espeak-ng. It speaks an unknown one as English and reports no error."""
    try:
        accents = _run(["espeak-ng", "--voices"]).decode().splitlines()[1:]
        variants = _run(["espeak-ng", "--voices=variant"]).decode().splitlines()[1:]
    except EngineError as err:
        raise ConfigError(f"espeak-ng does not list its voices: {err}") from err
    return {line.split()[1] for line in accents} | {line.split("!v/")[1].split()[0] for line in variants}


def speak(voice: Voice, text: str, rng: random.Random) -> tuple[np.ndarray, int]:
    """Speak a text, with a speed and a pitch drawn from rng.

    Returns float32 [samples], mono in [-1, 1], and the sample rate. Raises EngineError where the engine fails, takes
    too long or gives silence.
    """
    data = _ENGINES[voice.engine](voice.name, text, rng)
    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    except soundfile.SoundFileError as err:
        raise EngineError(f"{voice}: no wav: {err}") from err
    if samples.ndim != 1 or len(samples) < rate // 10 or float(np.abs(samples).max()) < 1e-3:
        raise EngineError(f"{voice}: silence for {text!r}")
    return samples, rate


def _espeak(name: str, text: str, rng: random.Random) -> bytes:
    speed, pitch = rng.randint(125, 195), rng.randint(25, 75)
    return _run(["espeak-ng", "-v", name, "-s", str(speed), "-p", str(pitch), "--stdout", "--", text])


def _mbrola(name: str, text: str, rng: random.Random) -> bytes:
    """Speak with mbrola: espeak-ng gives sounds, durations and pitch, mbrola joins a real speaker's diphones."""
    speed, pitch = rng.randint(120, 175), rng.randint(30, 70)
    sounds = _run(["espeak-ng", "-v", f"mb-{name}", "-s", str(speed), "-p", str(pitch), "-q", "--pho", "--", text])
    clones = ["-C", MBROLA_CLONES[name]] if name in MBROLA_CLONES else []
    with tempfile.NamedTemporaryFile(suffix=".wav") as wav:
        _run(["mbrola", "-e", *clones, str(MBROLA_FOLDER / name / name), "-", wav.name], stdin=sounds)
        return Path(wav.name).read_bytes()


def _pico(name: str, text: str, rng: random.Random) -> bytes:
    speed, pitch = rng.randint(85, 130), rng.randint(75, 130)
    marked = f'<pitch level="{pitch}"><speed level="{speed}">{escape(text)}</speed></pitch>'
    with tempfile.NamedTemporaryFile(suffix=".wav") as wav:
        _run(["pico2wave", "-l", name, "-w", wav.name, marked])
        return Path(wav.name).read_bytes()


def _flite(name: str, text: str, rng: random.Random) -> bytes:
    stretch, shift = rng.uniform(0.8, 1.2), rng.uniform(0.85, 1.2)
    settings = ["--setf", f"duration_stretch={stretch:.3f}", "--setf", f"f0_shift={shift:.3f}"]
    with tempfile.NamedTemporaryFile(suffix=".wav") as wav:
        _run(["flite", "-voice", name, *settings, "-t", text, "-o", wav.name])
        return Path(wav.name).read_bytes()


_ENGINES = {"espeak": _espeak, "mbrola": _mbrola, "pico": _pico, "flite": _flite}


def _run(command: list[str], stdin: bytes | None = None) -> bytes:
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=TIMEOUT_SECONDS, check=True)
    except subprocess.TimeoutExpired as err:
        raise EngineError(f"{command[0]}: no answer in {TIMEOUT_SECONDS} s") from err
    except subprocess.CalledProcessError as err:
        said = err.stderr.decode(errors="replace").strip()[:200]
        raise EngineError(f"{command[0]}: exit {err.returncode}: {said}") from err
    return done.stdout
