"""WebDataset shards: every member is one recording, sidecars find it, and bad archives lose nothing else."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import SourceConfig
from pipeline.schemas import BadRecording, Recording, RecordingRef
from pipeline.sources.webdataset import list_recordings, read_recording


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def listed(uri: Path | str, **keys: str) -> list[RecordingRef]:
    return list(list_recordings(SourceConfig(uri=str(uri), format="webdataset", **keys)))


def read_all(refs: list[RecordingRef]) -> dict[str, Recording]:
    return {ref.recording_id: read_recording(ref) for ref in refs if ref.problem is None}


SIDECARS = {"text": "hallo welt", "lang": "de-DE", "speaker": 7}
ANY_TAR = pytest.mark.parametrize("name", ["s-0.tar", "s-0.tar.gz", "s-0.tgz"])


@ANY_TAR
def test_keys_with_dots_and_folders_are_different_recordings(tmp_path: Path, name: str) -> None:
    members = ["rec.1.flac", "rec.2.flac", "a/rec.1.flac", "./b/rec.WAV", "v1.0/x.mp3"]
    write_tar(tmp_path / name, [(member, member.encode()) for member in members])
    recordings = read_all(listed(tmp_path))
    assert {key: recording.audio.decode() for key, recording in recordings.items()} == {
        "s-0/rec.1": "rec.1.flac",
        "s-0/rec.2": "rec.2.flac",
        "s-0/a/rec.1": "a/rec.1.flac",
        "s-0/b/rec": "./b/rec.WAV",
        "s-0/v1.0/x": "v1.0/x.mp3",
    }


@ANY_TAR
def test_sidecars_need_not_be_neighbours(tmp_path: Path, name: str) -> None:
    first = [("b.json", json.dumps(SIDECARS).encode()), ("a.flac", b"A"), ("b.flac", b"B" * 600), ("c.flac", b"C")]
    last = [("a.txt", "\ufeffgood day\n".encode()), ("a.lang", b"en"), ("c.flac.cls", b"3"), ("a.cls", b"9")]
    write_tar(tmp_path / name, first + [(f"z{i}.ogg", bytes(10_000)) for i in range(200)] + last)
    recordings = read_all(listed(tmp_path))
    assert recordings["s-0/a"] == Recording(b"A", "en", "good day", '{"cls": "9"}')
    assert recordings["s-0/b"] == Recording(b"B" * 600, "de", "hallo welt", '{"speaker": 7}')
    assert recordings["s-0/c"] == Recording(b"C", None, None, '{"cls": "3"}')
    assert recordings["s-0/z5"] == Recording(bytes(10_000), None, None, None)


@ANY_TAR
def test_a_stream_without_companions_of_its_own_takes_those_of_its_key(tmp_path: Path, name: str) -> None:
    members = [
        ("k1.clean.wav", b"C"),
        ("k1.noisy.wav", b"N"),
        ("k1.json", b'{"text": "both", "speaker": 1}'),
        ("k2.mic.far.flac", b"F"),
        ("k2.TXT", b"far"),
        ("k3.wav", b"whole"),
        ("k3.part.wav", b"part"),  # k3 has audio of its own, so its companions are not those of this one
        ("k3.lab", b"of the whole"),
        ("k4.a.wav", b"A"),
        ("k4.txt", b"of the key"),
        ("k4.a.txt", b"its own"),
    ]
    write_tar(tmp_path / name, members)
    recordings = read_all(listed(tmp_path))
    assert {key.removeprefix("s-0/"): recording.reference for key, recording in recordings.items()} == {
        "k1.clean": "both",
        "k1.noisy": "both",
        "k2.mic.far": "far",
        "k3": "of the whole",
        "k3.part": None,
        "k4.a": "its own",
    }
    assert recordings["s-0/k1.noisy"].metadata == '{"speaker": 1}'


@ANY_TAR
def test_companions_without_audio_are_counted_once(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    write_tar(tmp_path / name, [("a.flac", b"A"), ("a.txt", b"a"), ("lost.txt", b"l"), ("lost.json", b"{}")])
    write_tar(tmp_path / f"t-{name}", [("b.flac", b"B"), ("b.7.txt", b"7")])
    listed(tmp_path)
    assert caplog.text.count("belong to no audio") == 1
    assert f"3 texts or companion files belong to no audio and are not used; the first is {tmp_path}/s-0" in caplog.text


@ANY_TAR
def test_an_unsupported_language_keeps_reference_and_metadata(tmp_path: Path, name: str) -> None:
    write_tar(tmp_path / name, [("a.flac", b"A"), ("a.json", b'{"text": "hallo", "lang": "nl", "speaker": 1}')])
    (ref,) = listed(tmp_path)
    described = {"reference": ref.reference, "metadata": ref.metadata}  # a packed archive is read when it is listed
    if ref.problem is None:
        with pytest.raises(BadRecording, match="unsupported_language") as bad:
            read_recording(ref)
        described = bad.value.described
    assert described == {"reference": "hallo", "metadata": '{"speaker": 1}'}


@ANY_TAR
def test_columns_that_the_settings_name_are_used(tmp_path: Path, name: str) -> None:
    keys = {"text": "wrong", "caption": "right", "tongue": "French", "language": "nl"}
    write_tar(tmp_path / name, [("a.flac", b"A"), ("a.json", json.dumps(keys).encode())])
    (recording,) = read_all(listed(tmp_path, text_column="caption", language="column:tongue")).values()
    assert (recording.language, recording.reference) == ("fr", "right")
    assert json.loads(recording.metadata or "") == {"text": "wrong", "language": "nl"}
    (recording,) = read_all(listed(tmp_path, language="hi")).values()
    assert (recording.language, recording.reference) == ("hi", "wrong")


def test_a_cls_sidecar_can_be_the_language(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", [("a.flac", b"A"), ("a.cls", b"es\n")])
    (recording,) = read_all(listed(tmp_path)).values()
    assert (recording.language, recording.metadata) == ("es", None)


def spans(ref: RecordingRef) -> list[tuple[int, int]]:
    return [(ref.offset or 0, ref.size), *((at, size) for _, at, size in ref.sidecars)]


def outcome(ref: RecordingRef) -> str:
    try:
        read_recording(ref)
    except BadRecording as err:
        return err.reason
    return ref.problem or "read"


@ANY_TAR
@pytest.mark.parametrize(
    ("extension", "sidecar", "reason"),
    [
        ("json", b'{"text": "cut', "bad_metadata"),
        ("json", b"[1]", "read"),
        ("json", b'{"text": ["a"]}', "bad_metadata"),
        ("json", b'{"text": "\\ud800"}', "bad_metadata"),
        ("json", b"[" * 100_000, "bad_metadata"),
        ("json", b'{"x": 1e999, "text": NaN}', "read"),
        ("txt", b"\xff\xfe", "bad_metadata"),
        ("lang", b"nl", "unsupported_language"),
        ("json", b'{"language": 5}', "unsupported_language"),
        ("json", b'{"language": null, "text": null}', "read"),
        ("lang", b" ", "read"),
    ],
)
def test_bad_sidecars_are_the_problem_of_their_recording(
    tmp_path: Path, name: str, extension: str, sidecar: bytes, reason: str
) -> None:
    write_tar(tmp_path / name, [("a.flac", b"A"), (f"a.{extension}", sidecar), ("b.flac", b"B")])
    bad, good = listed(tmp_path)
    assert (bad.problem or outcome(bad)) == reason
    assert outcome(good) == "read"


@pytest.mark.parametrize("name", ["/etc/a.flac", "../a.flac", "x/../../a.flac", "..\\a.flac", "C:\\a.flac"])
def test_names_that_lead_out_of_the_archive_are_unsafe(tmp_path: Path, name: str) -> None:
    write_tar(tmp_path / "s.tar", [(name, b"A"), ("b..c/ok..flac", b"B")])
    bad, good = listed(tmp_path)
    assert bad.problem == "unsafe_name"
    assert good.problem is None


def test_links_are_unsafe_and_hidden_or_foreign_members_are_left_out(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        link = tarfile.TarInfo("link.flac")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name in ("._a.flac", ".hidden/b.flac", "README", "notes.md", "a.flac"):
            tar.addfile(tarfile.TarInfo(name))
    assert [(ref.recording_id, ref.problem) for ref in listed(tmp_path)] == [
        ("s/link", "unsafe_name"),
        ("s/a", None),
    ]


def test_an_empty_member_is_read_as_zero_bytes(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", [("a.flac", b"")])
    assert read_all(listed(tmp_path))["s/a"].audio == b""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cut")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_shard_cut_anywhere_reads_all_that_is_whole(folder: Path, data: st.DataObject) -> None:
    bodies = [(f"r.{i}.flac", bytes([i]) * (700 * i + 1)) for i in range(5)]
    members = [member for name, body in bodies for member in ((name, body), (f"{name[:-5]}.json", b'{"text": "t"}'))]
    whole = write_tar(folder / "whole.tar", members).read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    (folder / "cut.tar").write_bytes(whole[:cut])
    refs = listed(folder / "cut.tar")
    recordings = read_all(refs)
    ends = [
        (ref.recording_id.removeprefix("whole/"), ref.offset or 0, ref.size) for ref in listed(folder / "whole.tar")
    ]
    assert [key.removeprefix("cut/") for key in recordings] == [
        key for key, at, size in ends if at + min(size, 1) <= cut
    ]
    whole_size = {f"cut/{key}": size for key, _, size in ends}
    for ref in refs:
        if ref.problem is None:
            assert ref.size + ref.missing_bytes == whole_size[ref.recording_id]
            assert any(body.startswith(recordings[ref.recording_id].audio) for _, body in bodies)  # type: ignore[arg-type]
    problems = [(ref.recording_id, ref.problem) for ref in refs if ref.problem]
    end_mark = -(-(max(at + size for ref in listed(folder / "whole.tar") for at, size in spans(ref))) // 512) * 512
    assert len(problems) == (cut < end_mark + 512)
    assert all(problem == "truncated_archive" for _, problem in problems)


def test_a_cut_sidecar_is_a_problem_of_the_shard_and_its_recording_is_read(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "s.tar", [("a.flac", b"A"), ("a.json", b'{"text": "x"}' + b" " * 600)]).read_bytes()
    (tmp_path / "s.tar").write_bytes(whole[: 3 * 512 + 5])
    recording, archive = listed(tmp_path)
    assert outcome(recording) == "read"
    assert (archive.recording_id, archive.problem) == ("s!archive", "truncated_archive")
    assert "a.json" in (archive.problem_detail or "")


@pytest.mark.parametrize("name", ["s.tar", "s.tar.gz"])
@pytest.mark.parametrize(("data", "reason"), [(b"\x7fELF" * 400, "corrupt_archive"), (b"", "truncated_archive")])
def test_garbage_is_one_ref_for_the_shard(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(data)
    write_tar(tmp_path / "t.tar", [("b.flac", b"B")])
    bad, good = listed(tmp_path)
    assert (bad.recording_id, bad.problem) == ("s!archive", reason)
    assert str(tmp_path / name) in (bad.problem_detail or "")
    assert bad.size == len(data)
    assert outcome(good) == "read"


def test_the_bytes_behind_damage_are_those_that_cannot_be_read(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", [(f"{i}.flac", bytes(100_000)) for i in range(4)])
    whole = path.read_bytes()
    second = whole.index(b"1.flac")
    path.write_bytes(whole[:second] + bytes(range(256)) * 2 + whole[second + 512 :])
    *good, bad = listed(tmp_path)
    assert [ref.recording_id for ref in good] == ["s/0"]
    assert (bad.problem, bad.size) == ("corrupt_archive", len(whole) - second)


def test_what_is_left_out_by_name_is_counted_by_extension(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "s.tar", [("a.flac", b"A"), ("a.txt", b"t"), ("b.txt", b"t"), ("a.jpg", b"j"), ("c.JPG", b"j")]
    )
    (tmp_path / "beside.wav").write_bytes(b"x")
    ignored: Counter[str] = Counter()
    assert len(list(list_recordings(SourceConfig(uri=str(tmp_path), format="webdataset"), ignored=ignored))) == 1
    assert ignored == {"jpg": 2, "txt": 1, "wav": 1}


def test_a_cut_gzip_keeps_the_members_before_the_cut(tmp_path: Path) -> None:
    noise = random.Random(0)
    path = write_tar(tmp_path / "s.tar.gz", [(f"{i}.flac", noise.randbytes(50_000)) for i in range(10)])
    path.write_bytes(path.read_bytes()[:280_000])
    *whole, cut, rest = listed(tmp_path)
    assert [ref.recording_id for ref in whole] == ["s/0", "s/1", "s/2", "s/3", "s/4"]
    assert len(read_all(whole)) == 5
    assert (cut.recording_id, cut.problem, cut.size + cut.missing_bytes) == ("s/5", None, 50_000)
    assert len(read_all([cut])["s/5"].audio) == cut.size < 50_000  # type: ignore[arg-type]
    assert (rest.recording_id, rest.problem) == ("s!archive", "truncated_archive")


def test_a_packed_archive_can_be_read_in_any_order(tmp_path: Path) -> None:
    members = [(f"{i}.flac", bytes([i]) * 3000) for i in range(20)]
    with (tmp_path / "s.tar.gz").open("wb") as out:  # two gzip streams, as pigz and cat make them
        plain = write_tar(tmp_path / "x.tar", members).read_bytes()
        out.write(gzip.compress(plain[:30_000]) + gzip.compress(plain[30_000:]))
    refs = listed(tmp_path / "s.tar.gz")
    for ref in [*refs, *reversed(refs)]:
        assert read_recording(ref).audio == bytes([int(ref.recording_id[2:])]) * 3000


def test_an_archive_is_read_for_what_it_is_whatever_it_is_called(tmp_path: Path) -> None:
    members = [("a.flac", b"A" * 900), ("a.txt", b"eins"), ("b.flac", b"B")]
    plain, packed = write_tar(tmp_path / "x.tar", members), write_tar(tmp_path / "y.tar.gz", members)
    (tmp_path / "in").mkdir()
    plain.rename(tmp_path / "in/plain.tar.gz")
    packed.rename(tmp_path / "in/packed.tar")
    recordings = read_all(listed(tmp_path / "in"))
    assert {key: (read.audio, read.reference) for key, read in recordings.items()} == {
        f"{name}/{key}": value
        for name in ("packed", "plain")
        for key, value in (("a", (b"A" * 900, "eins")), ("b", (b"B", None)))
    }


def test_shards_of_one_name_in_two_folders_keep_ids_apart(tmp_path: Path) -> None:
    for name in ("de/s-0.tar", "fr/s-0.tar", "fr/s-0.tar.gz"):
        write_tar(tmp_path / name, [("a.flac", name.encode())])
    assert [ref.recording_id for ref in listed(tmp_path)] == ["de/s-0/a", "fr/s-0/a", "fr/s-0.tar.gz/a"]
    assert [ref.recording_id for ref in listed(f"{tmp_path}/**.tar")] == ["de/s-0/a", "fr/s-0/a"]


def test_a_shard_that_shrank_is_a_problem_when_it_is_read(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", [("a.flac", b"A" * 900)])
    (ref,) = listed(tmp_path)
    (tmp_path / "other").touch()  # an empty folder would be a mount that is gone
    path.write_bytes(path.read_bytes()[:1000])
    assert outcome(ref) == "truncated_archive"
    path.unlink()
    assert outcome(ref) == "missing_file"


def test_a_rewritten_shard_never_gives_a_recording_the_audio_of_another(tmp_path: Path) -> None:
    members = [(name, name.encode()) for name in ("a.flac", "a.txt", "b.flac", "b.txt")]
    path = write_tar(tmp_path / "s.tar", members)
    refs = listed(path)
    write_tar(path, [*members[2:], *members[:2]])
    for ref in refs:
        with pytest.raises(BadRecording, match=rf"s.tar: written again .*, {ref.source_member} is not where") as bad:
            read_recording(ref)
        assert bad.value.reason == "source_changed"
    write_tar(path, members)  # as it was, at another time
    assert [read_recording(ref).reference for ref in refs] == ["a.txt", "b.txt"]


@pytest.mark.parametrize("name", [f"{'long' * 40}/{'name' * 30}.flac", "größe.flac", "short.flac"])
@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_too_long_for_a_header_do_not_look_like_a_rewritten_shard(tmp_path: Path, kind: int, name: str) -> None:
    with tarfile.open(tmp_path / "s.tar", "w", format=kind) as archive:
        info = tarfile.TarInfo(name)
        info.size = 5
        archive.addfile(info, io.BytesIO(b"audio"))
    (ref,) = listed(tmp_path)
    for version in (ref.version, "copied again"):
        assert read_recording(replace(ref, version=version)).audio == b"audio"


def test_remote_shards_are_listed_and_read_like_local_ones(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    members = [(f"d/{i}.flac", bytes([i]) * (1 + i * 150_000)) for i in range(8)] + [("d/3.txt", b"three")]
    for shard in range(18):
        memory.pipe_file(f"/wds/s-{shard:02d}.tar", write_tar(tmp_path / f"s-{shard:02d}.tar", members).read_bytes())
    local, remote = listed(tmp_path), listed("memory://wds/")
    assert [ref.recording_id for ref in remote] == [ref.recording_id for ref in local]
    assert [(ref.offset, ref.size, ref.sidecars) for ref in remote] == [
        (ref.offset, ref.size, ref.sidecars) for ref in local
    ]
    assert remote[0].source_uri == "memory:///wds/s-00.tar"
    assert list(read_all(remote[:8]).values()) == list(read_all(local[:8]).values())
    assert read_all(remote)["s-17/d/3"].reference == "three"
