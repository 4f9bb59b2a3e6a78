"""Reading over a network: ranges, patience with transient errors, and one-line ends."""

from __future__ import annotations

import errno
import gzip
import io
import json
import logging
import os
import random
import tarfile
import zipfile
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from pipeline.config import ConfigError, SourceConfig
from pipeline.schemas import BadRecording, RecordingRef
from pipeline.sources import parquet
from pipeline.sources.access import remote, streams
from pipeline.sources.access.listing import check_root, list_files
from pipeline.sources.formats import list_recordings, read_recording
from pipeline.storage import patience, ranges
from pipeline.storage.errors import StorageError
from tests.support import small_s3
from tests.support.corpora import commonvoice, fleurs, mls, voxpopuli, write
from tests.support.small_s3 import SmallS3, etag_of


def tar(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def refs_of(uri: str, **keys: str) -> list[RecordingRef]:
    return list(list_recordings(SourceConfig(uri=uri, **keys)))


def test_shards_on_s3_are_listed_and_read_by_range(s3: SmallS3) -> None:
    big = {f"{i}.flac": bytes([i]) * 3_000_000 for i in range(4)} | {"2.json": b'{"text": "two", "lang": "zh"}'}
    s3.objects = {"raw/x/s-0.tar": tar(big), "raw/s-1.tar": tar({"a.wav": b"A"}), "raw/notes.md": b"", "z.tar": b""}
    refs = refs_of("s3://b/raw/**.tar")
    assert [ref.recording_id for ref in refs] == ["s-1/a", "x/s-0/0", "x/s-0/1", "x/s-0/2", "x/s-0/3"]
    fetched = [asked for _, key, asked in s3.log if key == "raw/x/s-0.tar"]
    assert all(asked and asked.startswith("bytes=") for asked in fetched)
    assert sum(int(end) - int(start) + 1 for start, _, end in (f[6:].partition("-") for f in fetched if f)) < 3_000_000
    s3.log.clear()
    two = read_recording(refs[3])
    assert (two.audio, two.reference, two.language) == (bytes([2]) * 3_000_000, "two", "zh")
    assert len(s3.log) == 3  # audio, its far sidecar, and the version of the shard
    assert refs[3].source_uri == "s3://b/raw/x/s-0.tar"
    assert f'"{refs[3].version}"' == etag_of(s3.objects["raw/x/s-0.tar"])


def test_listings_of_s3_come_in_pages_as_they_are_needed(s3: SmallS3) -> None:
    s3.objects = {f"many/{i:05d}.wav": b"x" for i in range(2500)} | {"many/": b"", "other/a.wav": b""}
    files = list_files("s3://b/many")
    assert next(files).name == "00000.wav"
    assert sum(key == "?many/" for _, key, _ in s3.log) <= 2
    assert sum(1 for _ in files) == 2499
    assert [file.name for file in list_files("s3://b/many/*7.wav")][:2] == ["00007.wav", "00017.wav"]
    assert [file.name for file in list_files("s3://b/{many/00001,other/a}.wav")] == ["many/00001.wav", "other/a.wav"]


def test_other_formats_are_read_from_s3(s3: SmallS3) -> None:
    s3.objects = {
        "m/list.jsonl": b"".join(b'{"audio_filepath": "%s.wav"}\n' % name for name in (b"a", b"empty", b"gone")),
        "m/a.wav": b"A" * 100,
        "m/empty.wav": b"",
        "f/b.wav": b"B",
        "f/b.txt": b"bee",
        "f/empty.wav": b"",
    }
    there, empty, gone = refs_of("s3://b/m/list.jsonl")
    assert read_recording(there).audio == b"A" * 100
    assert read_recording(empty).audio == b""
    with pytest.raises(BadRecording, match="missing_file"):
        read_recording(gone)
    assert [read_recording(ref).reference for ref in refs_of("s3://b/f/")] == ["bee", None]


@pytest.mark.parametrize(
    ("tree", "name"),
    [
        (fleurs, "fleurs"),
        (partial(fleurs, packed=False), "fleurs"),
        (commonvoice, "commonvoice"),
        (voxpopuli, "voxpopuli"),
        (partial(voxpopuli, hub=True), "voxpopuli"),
        (mls, "mls"),
    ],
)
def test_corpora_on_s3_are_detected_and_read_like_those_on_a_disk(
    s3: SmallS3, tree: Callable[[], dict[str, bytes]], name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    s3.objects = {f"sets/{key}": data for key, data in tree().items()}
    with caplog.at_level(logging.INFO):
        there = {ref.recording_id: ref for ref in refs_of("s3://b/sets")}
    assert f"s3://b/sets is read as {name} " in caplog.text
    here = {ref.recording_id: ref for ref in refs_of(str(write(tmp_path, tree())))}
    assert list(there) == list(here)
    for key, ref in here.items():
        if ref.problem:
            with pytest.raises(BadRecording, match=ref.problem):
                read_recording(there[key])
        else:
            assert read_recording(there[key]) == read_recording(ref)


def test_a_table_on_s3_is_detected_without_listing_its_clips(s3: SmallS3) -> None:
    s3.objects = {f"cv/{key}": data for key, data in commonvoice().items()}
    clips = {f"cv/cv-corpus-17.0-2024-03-15/de/clips/{number}.mp3": b"" for number in range(3000)}
    s3.objects |= clips
    refs = refs_of("s3://b/cv", format="commonvoice")
    assert len(refs) == 4
    assert not any("clips" in key for _, key, _ in s3.log)
    assert len(s3.log) < 40


def test_requests_to_a_busy_store_are_repeated_and_counted(s3: SmallS3) -> None:
    s3.objects = {"f/a.wav": b"A"}
    (ref,) = refs_of("s3://b/f")
    before = patience.retries.total()
    s3.fail["f/a.wav"] = deque([503] * 3)
    assert read_recording(ref).audio == b"A"
    assert patience.retries.total() == before + 3


@pytest.mark.parametrize("name", ["s.tar", "s.tar.gz", "m.jsonl", "m.csv.gz", "p.parquet"])
@pytest.mark.parametrize("reads_before", [0, 2])
def test_an_outage_is_never_mistaken_for_the_end_of_a_file(
    s3: SmallS3, name: str, reads_before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    for module, constant in ((ranges, "AHEAD"), (streams, "NEAR"), (streams, "CHUNK"), (parquet, "AHEAD")):
        monkeypatch.setattr(module, f"{constant}_BYTES", 20_000)
    rows = [random.Random(row).randbytes(10_000) for row in range(30)]
    archive = tar({f"{i}.wav": row for i, row in enumerate(rows)})
    table = b"path,text\n" + b"".join(b"%d.wav,%s\n" % (i, row.hex().encode()) for i, row in enumerate(rows))
    lines = (json.dumps({"audio_filepath": f"{i}.wav", "text": row.hex()}) for i, row in enumerate(rows))
    packed = io.BytesIO()
    pq.write_table(pa.table({"audio": rows, "text": [row.hex() for row in rows]}), packed, row_group_size=10)
    data = {
        "s.tar": archive,
        "s.tar.gz": gzip.compress(archive),
        "m.jsonl": "\n".join(lines).encode(),
        "m.csv.gz": gzip.compress(table),
        "p.parquet": packed.getvalue(),
    }[name]
    s3.objects = {name: data}
    assert len(refs_of(f"s3://b/{name}")) == 30
    asked = [range_ for method, key, range_ in s3.log if method == "GET" and key == name]
    assert len(asked) > reads_before
    s3.fail_ranges = deque([200] * reads_before + [503] * 100)
    with pytest.raises(
        StorageError, match=rf"^s3://b/{name}(\.idx\.json)?: [^\n]+; once it answers again, the same command goes on$"
    ):
        refs_of(f"s3://b/{name}")


def test_an_object_that_is_forbidden_where_another_one_is_not_is_missing(s3: SmallS3) -> None:
    s3.objects = {"f/a.wav": b"A", "f/b.wav": b"B"}
    ref, other = refs_of("s3://b/f")
    read_recording(other)
    s3.fail["f/a.wav"] = deque([403] * 50)
    with pytest.raises(BadRecording, match="missing_file"):
        read_recording(ref)
    assert len(s3.fail["f/a.wav"]) == 48  # its content once, its version once: a refusal is not repeated


@pytest.mark.parametrize("before", [True, False])
def test_a_store_that_forbids_everything_is_no_missing_recording(s3: SmallS3, before: bool) -> None:
    s3.objects = {"f/a.wav": b"A", "f/b.wav": b"B"}
    ref, other = refs_of("s3://b/f")
    if before:
        read_recording(other)
    for key in s3.objects:
        s3.fail[key] = deque([403] * 50)
    with pytest.raises(StorageError, match=r"^s3://b/f/a\.wav: .*; give valid keys with the right to it") as caught:
        read_recording(ref)
    assert "\n" not in str(caught.value)
    assert len(s3.fail["f/a.wav"]) == 49


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("ExpiredToken", "give valid keys"),
        ("InvalidToken", "give valid keys"),
        ("InvalidAccessKeyId", "give valid keys"),
        ("SignatureDoesNotMatch", "give valid keys"),
        ("NoSuchBucket", "once it is back"),
    ],
)
def test_keys_that_are_not_valid_any_more_concern_the_store_whatever_was_read_before(
    s3: SmallS3, code: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.objects = {"f/a.wav": b"A", "f/b.wav": b"B"}
    ref, other = refs_of("s3://b/f")
    read_recording(other)
    monkeypatch.setitem(small_s3.CODES, 403, code)
    s3.fail["f/a.wav"] = deque([403] * 50)
    with pytest.raises(StorageError, match=rf"^s3://b/f/a\.wav: [^\n]*; {message}"):
        read_recording(ref)
    assert len(s3.fail["f/a.wav"]) == 49


def test_an_object_in_cold_storage_is_missing_and_the_store_is_not(
    s3: SmallS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.objects = {"f/a.wav": b"A"}
    (ref,) = refs_of("s3://b/f")
    monkeypatch.setitem(small_s3.CODES, 403, "InvalidObjectState")
    s3.fail["f/a.wav"] = deque([403])
    with pytest.raises(BadRecording, match="missing_file"):
        read_recording(ref)


def test_a_listing_that_the_store_refuses_is_no_mistake_in_the_settings(s3: SmallS3) -> None:
    s3.objects = {"f/a.wav": b"A"}
    s3.fail[""] = deque([403] * 50)
    with pytest.raises(StorageError, match=r"^s3://b/f.*; give valid keys with the right to it"):
        refs_of("s3://b/f/*.wav")


@pytest.mark.parametrize("uri", ["s3://b/x.wav", "https://127.0.0.1:9/x.wav", "http://no-such-host.invalid/x.wav"])
def test_a_source_that_does_not_answer_is_no_mistake_in_the_settings(
    s3: SmallS3, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match=rf"^{uri}: [^\n]*; once it answers again"):
        refs_of(uri, format="files")


def test_a_file_costs_one_request_and_each_file_beside_it_another(s3: SmallS3) -> None:
    s3.objects = {"in/a.wav": b"A", "in/a.txt": b"text", "list/m.jsonl": b'{"audio_filepath": "../in/a.wav"}'}
    for uri in ("s3://b/in", "s3://b/list/m.jsonl"):  # a manifest does not say the size
        (ref,) = refs_of(uri, root="s3://b")
        s3.log.clear()
        assert read_recording(ref).audio == b"A"
        methods = [method for method, *_ in s3.log]
        assert methods == ["GET"] * (1 + len(ref.sidecars))


@pytest.mark.parametrize("name", ["a.wav", "a.txt"])
def test_an_object_that_was_written_again_has_changed_also_where_no_other_request_asks(s3: SmallS3, name: str) -> None:
    s3.objects = {"in/a.wav": b"A", "in/a.txt": b"text"}
    (ref,) = refs_of("s3://b/in")
    s3.objects[f"in/{name}"] = b"new"
    with pytest.raises(BadRecording, match=f"source_changed: s3://b/in/{name}"):
        read_recording(ref)


@pytest.mark.parametrize("size", [0, 1, remote.FIRST_BYTES - 1, remote.FIRST_BYTES, remote.FIRST_BYTES + 1])
def test_a_file_whose_size_nobody_says_is_read_whole(s3: SmallS3, size: int) -> None:
    s3.objects = {"a.wav": bytes(size)}
    audio, version = remote.read_audio("s3://b/a.wav")
    assert (audio, version in ("", etag_of(bytes(size)).strip('"'))) == (bytes(size), True)


def test_an_object_that_shrank_has_changed(s3: SmallS3) -> None:
    s3.objects = {"s.tar": tar({"a.wav": b"A" * 5000, "b.wav": b"B"})}
    _, ref = refs_of("s3://b/s.tar")
    s3.objects["s.tar"] = b"short"
    with pytest.raises(BadRecording, match="source_changed"):
        read_recording(ref)


@pytest.mark.parametrize(
    "uri", ["s3://b/nothing", "s3://b/*.tar", "s3://nobucket/x.tar", "s3://nobucket/**.tar", "s3://*/x"]
)
def test_a_missing_source_is_an_error_in_one_line(s3: SmallS3, uri: str) -> None:
    with pytest.raises(ConfigError, match=r"^source\.uri: [^\n]+$") as caught:
        refs_of(uri)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("format_name", ["auto", "files", "huggingface"])
@pytest.mark.parametrize("scheme", ["zip", "tar", "reference", "data"])
def test_chains_of_urls_that_open_nothing_are_an_error_in_one_line(
    tmp_path: Path, scheme: str, format_name: str
) -> None:
    (tmp_path / "broken").write_bytes(b"no archive")
    chains = {"zip": "zip://a.wav::{}", "tar": "tar://a.wav::{}", "reference": "reference://{}", "data": "data:,{}"}
    uri = chains[scheme].format(tmp_path / "broken")
    with pytest.raises(ConfigError, match=r"^source\.uri: ") as error:
        list(list_recordings(SourceConfig.model_validate({"uri": uri, "format": format_name})))
    assert "\n" not in str(error.value)


def test_transient_errors_are_retried_and_then_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_SECONDS", 0.0)
    errors: list[BaseException] = [ConnectionResetError(), TimeoutError("slow")]

    def call() -> str:
        if errors:
            raise errors.pop()
        return "done"

    before = patience.retries["ConnectionResetError"]
    assert remote.ask(call, "x") == "done"
    assert patience.retries["ConnectionResetError"] == before + 1
    errors.extend(ConnectionResetError(104, "reset by peer") for _ in range(remote.ATTEMPTS))
    with pytest.raises(StorageError, match=r"^x: reset by peer; once it answers again, the same command goes on$"):
        remote.ask(call, "x")


@pytest.mark.parametrize("error", [FileNotFoundError(), PermissionError(), IsADirectoryError(), OSError(22, "range")])
def test_errors_that_a_retry_cannot_help_are_missing_files(error: OSError) -> None:
    def call() -> None:
        calls.append(1)
        raise error

    calls: list[int] = []
    with pytest.raises(BadRecording, match="missing_file"):
        remote.ask(call, "x")
    assert len(calls) == 1


def test_a_dead_web_server_costs_its_own_recordings_and_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Manifests name hosts that nobody here can repair; a bucket that is silent ends the run instead."""
    monkeypatch.setattr(patience, "FIRST_SECONDS", 0.0)

    def call() -> None:
        raise ConnectionResetError(104, "reset by peer")

    with pytest.raises(BadRecording, match=r"missing_file: https://example\.org/a\.wav: no answer, 7 times"):
        remote.ask(call, "https://example.org/a.wav")
    with pytest.raises(StorageError):
        remote.ask(call, "s3://bucket/a.wav")


def test_a_disk_that_fails_is_not_a_missing_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_SECONDS", 0.0)
    with (
        Path("/proc/self/mem").open("rb", buffering=0) as fails,  # its first page is no memory of this process
        pytest.raises(StorageError, match=r"^/mnt/nfs/a\.wav: Input/output error; once it is back"),
    ):
        remote.ask(lambda: fails.read(10), "/mnt/nfs/a.wav")


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ENOTCONN])
def test_a_mount_that_fails_is_not_a_missing_file(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_SECONDS", 0.0)

    def call() -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(StorageError, match=rf"^/mnt/nfs/a\.wav: {os.strerror(number)}; once it is back"):
        remote.ask(call, "/mnt/nfs/a.wav")


@pytest.mark.parametrize("ending", ["renamed", "empty", "one file deleted"])
def test_a_folder_that_was_read_and_is_gone_is_no_missing_file(tmp_path: Path, ending: str) -> None:
    folder = tmp_path / "mount"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_bytes(b"1")
    assert remote.read_file(f"{folder}/a") == b"1"
    if ending == "renamed":
        folder.rename(tmp_path / "elsewhere")
    for name in ("a", "b") if ending == "empty" else ("b",) if ending == "one file deleted" else ():
        (folder / name).unlink()
    kind = BadRecording if ending == "one file deleted" else StorageError
    with pytest.raises(kind, match="missing_file" if kind is BadRecording else rf"^{folder}: .* once it is back"):
        remote.read_file(f"{folder}/b")


@pytest.mark.parametrize("place", ["", "/*.wav", "/**.wav", "/a.wav"])
@pytest.mark.parametrize("ending", ["there", "renamed", "empty"])
def test_the_root_of_a_source_tells_whether_its_mount_is_there(tmp_path: Path, place: str, ending: str) -> None:
    root = tmp_path / "mount"
    root.mkdir()
    if ending != "empty":
        (root / "a.wav").write_bytes(b"1")
    if ending == "renamed":
        root.rename(tmp_path / "elsewhere")
    if ending == "there":
        check_root(f"{root}{place}")
    else:
        with pytest.raises(StorageError, match=rf"^{root}.*: the source is (gone|empty); once it is back"):
            check_root(f"{root}{place}")


@pytest.mark.parametrize("offset", [None, 1000])
def test_large_audio_is_a_file_of_its_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: int | None
) -> None:
    monkeypatch.setattr(remote, "WHOLE_BYTES", 100)
    content = bytes(range(256)) * 40
    (tmp_path / "a").write_bytes(content)
    wanted = content if offset is None else content[offset : offset + 5000]
    path = str(tmp_path / "a")
    is_whole = offset is None
    audio = remote.read_audio(path, len(wanted))[0] if is_whole else remote.read_part(path, offset, len(wanted))
    with audio as stream:  # type: ignore[union-attr]
        assert stream.read() == wanted
        assert stream.seek(-10, io.SEEK_END) == len(wanted) - 10
        assert stream.read(99) == wanted[-10:]
        stream.seek(37)
        assert stream.read(20) == wanted[37:57]
    assert remote.read_part(path, 0, 100) == content[:100]


def test_large_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MAX_RECORDING_BYTES", 10)
    (tmp_path / "a").write_bytes(b"x" * 11)
    for size in (0, 11):
        with pytest.raises(BadRecording, match="too_large"):
            remote.read_file(str(tmp_path / "a"), size)


ROUND_TRIPS: list[tuple[str, Callable[[Path], str]]] = [
    ("local", lambda root: str(root / "a::b/x [1]*.wav")),
    ("zip", lambda root: f"zip://in/x.wav::{root}/z.zip"),
    ("cached", lambda root: f"simplecache::{root}/a::b/x [1]*.wav".replace("a::b", "ab")),
]


@pytest.mark.parametrize(("name", "place"), ROUND_TRIPS)
def test_the_uri_of_a_listed_file_opens_it(tmp_path: Path, name: str, place: Callable[[Path], str]) -> None:
    for folder in ("a::b", "ab"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x [1]*.wav").write_bytes(b"X")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as out:
        out.writestr("in/x.wav", b"X")
    (ref,) = refs_of(place(tmp_path))
    assert read_recording(ref).audio == b"X"
    assert name != "zip" or ref.source_uri == place(tmp_path)


def test_relative_paths_in_a_manifest_start_in_its_folder() -> None:
    assert remote.relative_to("s3://b/x/m.jsonl", "y/a.wav") == "s3://b/x/y/a.wav"
    assert remote.relative_to("/x/m.jsonl", "/y/a.wav") == "/y/a.wav"
    assert remote.relative_to("/x/m.jsonl", "s3://b/a.wav") == "s3://b/a.wav"


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's own error is of httpx, which is no OSError."""
    monkeypatch.setattr("pipeline.storage.patience.FIRST_SECONDS", 0.001)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    uri = "hf://datasets/nobody/nothing/x.parquet"
    with pytest.raises((StorageError, ConfigError)) as caught:
        list(list_files(uri))
    assert str(caught.value).startswith(("hf://", f"source.uri: {uri}"))
    assert "\n" not in str(caught.value)
