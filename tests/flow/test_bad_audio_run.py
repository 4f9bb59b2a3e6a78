"""Archives full of bad audio through the whole chain: each bad recording is one dead letter, no other is lost."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from pipeline.audio.decode import decode_all, stream
from pipeline.schemas import REASONS, BadAudio
from pipeline.sources.access.tar import MAX_PADDING_BYTES
from tests.audio.test_decode import BAD
from tests.sources.test_sources_tar import make_tar, special
from tests.support.archives import arguments
from tests.support.audio_files import KINDS, encoded, patched, sndfile, tone
from tests.support.memory import peak_kilobytes

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]
GOOD = sndfile(tone(16_000, 1.5), 16_000, "WAV", "PCM_16")
MAX_SECONDS = 60
CUT = ("rf64", "w64", "caf", "aiff", "vorbis", "mp4", "mp4_fragments", "webm", "mkv")  # besides those in BAD
PLAYLISTS = {  # all of them point to secret.wav, which lies where the job runs
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.wav\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile secret.wav\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    "pls": "[playlist]\nFile1=secret.wav\n",
}
# recording id -> reason of its dead letter; None: transcribed; KEPT and a reason: transcribed as far as it goes
Expected = dict[str, str | None]
KEPT = "kept: "
DAMAGES = ("truncated_audio", "corrupt_audio", "invalid_samples")


def bad_files() -> dict[str, tuple[bytes, str | None]]:
    """Content and reason by name without extension. For fuzzed headers it is the reason of the decoder, or None."""
    files: dict[str, tuple[bytes, str | None]] = dict(BAD)
    for value in (np.nan, np.inf, -np.inf):
        samples = tone(48_000, 1.0, 2)
        samples[20_000, 1] = value
        files[f"sample of {value}"] = (sndfile(samples, 48_000, "WAV", "FLOAT"), "invalid_samples")
    files |= {f"{kind} cut": (encoded(kind)[: len(encoded(kind)) // 2], "truncated_audio") for kind in CUT}
    files |= {f"{kind} playlist": (text.encode(), "not_audio") for kind, text in PLAYLISTS.items()}
    silence = sndfile(np.zeros((16_000 * 1200, 1), np.int16), 16_000, "FLAC", "PCM_16")
    files["flac bomb"] = (silence, "too_long")
    with zipfile.ZipFile(packed := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.wav", bytes(50_000_000))
    files["zip bomb"] = (packed.getvalue(), "not_audio")
    files["gzipped wav"] = (gzip.compress(GOOD), "not_audio")
    dice = random.Random(7)
    for kind in KINDS:
        data = encoded(kind, 1.5)
        for _ in range(4):
            data = patched(data, dice.randrange(4, 60), dice.randbytes(4))
        files[f"{kind} fuzzed"] = (data, outcome(data))
    return {name: (data, as_kept(data, reason)) for name, (data, reason) in files.items()}


def as_kept(data: bytes, reason: str | None) -> str | None:
    """The reason, with KEPT if a part of the file can be heard."""
    if reason not in DAMAGES:
        return reason
    with contextlib.suppress(BadAudio):
        return f"{KEPT}{reason}" if any(map(len, stream(data, name="x", max_seconds=MAX_SECONDS))) else reason
    return reason


def outcome(data: bytes) -> str | None:
    try:
        decode_all(data, name="x", max_seconds=MAX_SECONDS)
    except BadAudio as err:
        return err.reason
    return None


def write_shards(folder: Path, outside: Path) -> Expected:
    """Write tars with every kind of bad member, and bad tars, with good recordings between them.

    outside: the folder that unsafe names lead to.
    """
    expected: Expected = {}
    with tarfile.open(folder / "members.tar", "w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, data: bytes = GOOD, reason: str | None = None, **fields: str | bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = 0 if fields else len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(data))
            if name.endswith(".wav"):
                expected[f"members/{name[:-4]}"] = reason

        for number, (name, (data, reason)) in enumerate(bad_files().items()):
            add(f"{name}.wav", data, reason)
            if number % 9 == 0:
                add(f"good {number}.wav")
        for name in (str(outside / "absolute"), "../parent", "x/../../inside", "..\\parent", "C:\\drive"):
            add(f"{name}.wav", reason="unsafe_name")
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            add(f"type {kind.decode()}.wav", b"", "unsafe_name", type=kind, linkname=str(outside / "cwd/secret.wav"))
        add("empty member.wav", b"", "empty_file")
        for name, extension, sidecar, reason in (
            ("no json", "json", b'{"text": "cut', "bad_metadata"),
            ("json text", "json", b'{"text": ["a"]}', "bad_metadata"),
            ("deep json", "json", b"[" * 100_000, "bad_metadata"),
            ("long json", "json", b'{"text": "%s"}' % (b"x" * (5 << 20)), "bad_metadata"),
            ("no utf-8", "txt", b"\xff\xfe", "bad_metadata"),
            ("dutch", "json", b'{"language": "nl"}', "unsupported_language"),
            ("number", "json", b'{"language": 5}', "unsupported_language"),
        ):
            add(f"{name}.wav", reason=reason)
            add(f"{name}.{extension}", sidecar)
        add("good twice.wav")
        add("good twice.flac")
    shards = {
        "cut": make_tar({"good.wav": GOOD, "cut.wav": GOOD})[: len(GOOD) + 3000],
        "cut-header": make_tar({"good.wav": GOOD, "cut.wav": GOOD})[: 512 + -(-len(GOOD) // 512) * 512 + 100],
        "flipped": patched(make_tar({"good.wav": GOOD, "b.wav": GOOD}), 512 + -(-len(GOOD) // 512) * 512, b"\xff" * 76),
        "garbage": b"\x7fELF" * 400,
        "nothing": b"",
        "zeros": bytes(2 * MAX_PADDING_BYTES),
        "pax-size": special("a.wav", tarfile.REGTYPE, pax={"size": "-1"}),
        "pax-huge": special("a.wav", tarfile.REGTYPE, pax={"size": "9" * 17}),
        "sparse": special("hole.wav", tarfile.REGTYPE, pax={"GNU.sparse.major": "1"})[:1536]
        + make_tar({"good.wav": GOOD}),
    }
    for name, data in shards.items():
        (folder / f"{name}.tar").write_bytes(data)
    (folder / "packed-garbage.tar.gz").write_bytes(b"\x1f\x8b\x08" + b"\x7fELF" * 400)
    noise = sndfile(np.random.default_rng(1).uniform(-0.5, 0.5, (24_000, 1)), 16_000, "WAV", "PCM_16")
    (folder / "packed-cut.tar.gz").write_bytes(gzip.compress(make_tar({"good.wav": noise, "cut.wav": noise}))[:70_000])
    write_bomb(folder / "packed-bomb.tar.gz")
    return expected | {
        "cut/good": None,
        "cut/cut": f"{KEPT}truncated_audio",
        "cut!archive": "truncated_archive",
        "cut-header/good": None,
        "cut-header!archive": "truncated_archive",
        "flipped/good": None,
        "flipped!archive": "corrupt_archive",
        "garbage!archive": "corrupt_archive",
        "nothing!archive": "truncated_archive",
        "zeros!archive": "corrupt_archive",
        "pax-size!archive": "corrupt_archive",
        "pax-huge/a": "truncated_archive",
        "pax-huge!archive": "truncated_archive",
        "sparse/hole": "corrupt_archive",
        "sparse/good": None,
        "packed-garbage!archive": "corrupt_archive",
        "packed-cut/good": None,
        "packed-cut/cut": f"{KEPT}truncated_audio",
        "packed-cut!archive": "truncated_archive",
        "packed-bomb/zeros": "not_audio",
        "packed-bomb/more": "too_large",
        "packed-bomb/good": None,
    }


def write_bomb(path: Path) -> None:
    """A megabyte that unpacks to a gigabyte: one member is just within the limit of 512 MiB, one is beyond it."""
    block = gzip.compress(bytes(64 << 20), 1)
    with path.open("wb") as out:
        for name, blocks in (("zeros.wav", 7), ("more.wav", 9)):
            info = tarfile.TarInfo(name)
            info.size = blocks * 64 << 20
            out.write(gzip.compress(info.tobuf()) + blocks * block)
        out.write(gzip.compress(make_tar({"good.wav": GOOD})))


def write_files(folder: Path, outside: Path) -> Expected:
    """Write the faults that only a folder of files can have, with good files between them."""
    for name in ("a", "m", "z"):
        (folder / f"{name}.wav").write_bytes(GOOD)
    for name, text in PLAYLISTS.items():
        (folder / f"{name}.wav").write_text(text)
    (folder / "link to nothing.wav").symlink_to(outside / "gone.wav")
    (folder / "link to itself.wav").symlink_to("link to itself.wav")
    (folder / "link to text.wav").symlink_to("/etc/passwd")
    (folder / "link to zeros.wav").symlink_to("/dev/zero")
    os.mkfifo(outside / "pipe")
    (folder / "link to a pipe.wav").symlink_to(outside / "pipe")
    (folder / "folder.wav").mkdir()
    (folder / "folder.wav/empty.mp3").touch()
    (folder / os.fsdecode(b"caf\xe9.wav")).write_bytes(GOOD)
    for name, text in (("bad text", b"\xff\xfe"), ("long text", b"x" * (5 << 20))):
        (folder / f"{name}.wav").write_bytes(GOOD)
        (folder / f"{name}.txt").write_bytes(text)
    holes = {  # 2 GB each, without using disk space
        "2 GB of zeros": b"",
        "2 GB of audio": patched(GOOD, 40, (2_000_000_000).to_bytes(4, "little")),
        "3 GB declared": patched(GOOD, 40, (3_000_000_000).to_bytes(4, "little")),
    }
    for name, head in holes.items():
        with (folder / f"{name}.wav").open("wb") as file:
            file.write(head[:44])
            file.truncate(2_000_000_044)
    missing = ["link to nothing.wav", "link to itself.wav", "link to zeros.wav", "link to a pipe.wav"]
    return {
        **dict.fromkeys(["a.wav", "m.wav", "z.wav", "caf\\xe9.wav"]),
        **dict.fromkeys([f"{name}.wav" for name in PLAYLISTS], "not_audio"),
        **dict.fromkeys(missing, "missing_file"),
        "link to text.wav": "not_audio",
        "folder.wav/empty.mp3": "empty_file",
        "bad text.wav": "bad_metadata",
        "long text.wav": "bad_metadata",
        "2 GB of zeros.wav": "not_audio",
        "2 GB of audio.wav": "too_long",
        "3 GB declared.wav": "too_long",
    }


@pytest.fixture
def sandbox(tmp_path: Path) -> Path:
    """Folders: in/ for the archive, cwd/ and home/ of the job. The job may write only to out/."""
    for name in ("in", "cwd", "home"):
        (tmp_path / name).mkdir()
    (tmp_path / "cwd/secret.wav").write_bytes(GOOD)
    return tmp_path


def everything(sandbox: Path) -> dict[str, tuple[int, ...]]:
    """Everything except the output, with the file attributes that show a change."""
    return {
        str(path): (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino)
        for path in sandbox.rglob("*")
        if (sandbox / "out") not in (path, *path.parents)
        for status in [path.lstat()]
    }


@contextlib.contextmanager
def peaks(driver: int) -> Iterator[dict[str, int]]:
    """Peak memory in kB of the driver and of all its decode actors, while the block runs."""
    kilobytes: dict[str, int] = {}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            with contextlib.suppress(psutil.Error, OSError, AssertionError):
                kilobytes["driver"] = max(kilobytes.get("driver", 0), peak_kilobytes(driver))
                for process in psutil.Process(driver).children(recursive=True):
                    look_at(process)

    def look_at(process: psutil.Process) -> None:
        with contextlib.suppress(psutil.Error, OSError, AssertionError):
            if "GuardedDecoder" in " ".join(process.cmdline()):
                name = f"decoder {process.pid}"
                kilobytes[name] = max(kilobytes.get(name, 0), peak_kilobytes(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield kilobytes
    finally:
        over.set()
        watcher.join()


def transcribe(sandbox: Path, model: Path, *more: str) -> dict[str, int]:
    """Run the job in a process of its own. Returns the peak memory of its processes in kB."""
    words = [*arguments(sandbox / "in", sandbox / "out", model), "plan.unit_recordings=12", *more]
    words.append(f"compute.max_recording_seconds={MAX_SECONDS}")
    environment = os.environ | {"HOME": str(sandbox / "home"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["MPLCONFIGDIR"] = str(sandbox.parent / f"{sandbox.name}.fonts")  # matplotlib keeps a list of fonts
    with (sandbox.parent / f"{sandbox.name}.log").open("wb+") as log:
        command = [sys.executable, "-m", "jobs.transcribe", *words]
        options = {"cwd": sandbox / "cwd", "env": environment, "stdout": log, "stderr": log}
        with subprocess.Popen(command, **options) as driver, peaks(driver.pid) as kilobytes:
            driver.wait()
        log.seek(0)
        assert driver.returncode == 0, log.read()[-3000:].decode()
    return kilobytes


def check(sandbox: Path, expected: Expected, twice: list[str]) -> None:
    """The result is what `expected` says. twice: ids that two recordings have; the second is a dead letter."""
    letters = pq.read_table(sandbox / "out/dead_letters").to_pylist()
    kept = {name: reason.removeprefix(KEPT) for name, reason in expected.items() if (reason or "").startswith(KEPT)}
    wanted = Counter((name, reason) for name, reason in expected.items() if reason and name not in kept)
    wanted.update((name, "duplicate_id") for name in twice)
    assert Counter((row["recording_id"], row["reason"]) for row in letters) == wanted
    assert all(row["reason"] in REASONS and row["error"] and row["stage"] for row in letters)
    rows = pq.read_table(sandbox / "out/transcripts").to_pylist()
    heard = {name for name, reason in expected.items() if reason is None}
    assert {row["recording_id"] for row in rows} == heard | set(kept)
    assert {row["recording_id"]: row["problem"] for row in rows if row["problem"]} == kept
    assert len({(row["recording_id"], row["segment_index"]) for row in rows}) == len(rows)
    assert all(row["text"] is not None for row in rows)
    books = json.loads((sandbox / "out/_run/accounting.json").read_text())
    assert books["closed"], books
    assert books["recordings_planned"] == len(expected) + len(twice)
    assert books["recordings_dead_lettered"] == wanted.total()
    assert books["recordings_damaged"] == len(kept)


def test_bad_members_and_tars_become_dead_letters_and_nothing_else_changes(
    sandbox: Path, small_model_dir: Path
) -> None:
    expected = write_shards(sandbox / "in", sandbox)
    assert sum(reason is not None for reason in expected.values()) >= 60
    assert sum(reason is None for reason in expected.values()) >= 10
    before = everything(sandbox)
    kilobytes = transcribe(sandbox, small_model_dir, "source.format=webdataset", "source.language=null")
    check(sandbox, expected, ["members/good twice"])
    assert everything(sandbox) == before
    assert len(kilobytes) >= 2
    assert max(kilobytes.values()) < 1_000_000, kilobytes


def test_bad_files_become_dead_letters_and_nothing_else_changes(sandbox: Path, small_model_dir: Path) -> None:
    expected = write_files(sandbox / "in", sandbox)
    before = everything(sandbox)
    kilobytes = transcribe(sandbox, small_model_dir)
    check(sandbox, expected, [])
    assert everything(sandbox) == before
    assert len(kilobytes) >= 2
    assert max(kilobytes.values()) < 1_000_000, kilobytes
