"""Tests of the bucket storage on a real Ceph gateway: one winner, ranges, pages, faults and retries."""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import os
import pickle
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from pipeline.config import ConfigError, StorageConfig
from pipeline.storage import objects, patience, ranges
from pipeline.storage.base import Storage, open_storage, race_probe
from pipeline.storage.errors import StorageError
from pipeline.storage.objects import ObjectStorage
from tests.support.ceph import ACCESS_KEY, SECRET_KEY, Ceph
from tests.support.faults import Faults, faults_before
from tests.support.memory import AnonymousPeak
from tests.support.outputs import in_environment
from tests.support.storages import check_kept_files, check_missing, check_puts, check_versions, fill

ROUNDS = 20
pytestmark = pytest.mark.timeout(300)  # the first test starts, or installs, the gateway


@pytest.fixture
def storage(bucket: str) -> Storage:
    return open_storage(bucket)


@pytest.fixture(autouse=True)
def _nothing_counted() -> None:
    patience.retries.clear()


@pytest.fixture
def shaky(ceph: Ceph, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ObjectStorage, Faults]]:
    """A storage behind a proxy that causes faults. It is connected, and nothing is in `seen` yet."""
    monkeypatch.setattr(patience, "FIRST_SECONDS", 0.01)
    with faults_before(ceph.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        through_proxy = ObjectStorage(bucket)
        assert not through_proxy.exists("connected")
        proxy.seen.clear()
        yield through_proxy, proxy


def _race(uri: str, name: int, barrier: object, wins: object) -> None:
    storage = open_storage(uri, create=False)
    for index in range(ROUNDS):
        barrier.wait(120)  # type: ignore[attr-defined]
        if storage.put_if_absent(f"commits/{index:02d}/unit.json", f"writer {name}".encode()):
            wins.put((index, name))  # type: ignore[attr-defined]


def test_of_eight_racing_processes_exactly_one_wins(storage: Storage) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # the imports happen once
    barrier, wins = context.Barrier(8), context.Queue()
    given = [(dict(os.environ), _race, storage.uri, name, barrier, wins) for name in range(8)]
    processes = [context.Process(target=in_environment, args=arguments) for arguments in given]
    for process in processes:
        process.start()
    won = dict(wins.get(timeout=200) for _ in range(ROUNDS))
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert sorted(won) == list(range(ROUNDS))
    assert wins.empty()
    for index, name in won.items():
        assert storage.get(f"commits/{index:02d}/unit.json") == f"writer {name}".encode()


def test_ceph_passes_the_race_probe(storage: Storage) -> None:
    race_probe(storage)
    assert list(storage.list("")) == []


def test_put_replaces_and_put_if_absent_does_not(storage: Storage) -> None:
    check_puts(storage)
    assert patience.retries == {}


def test_missing_keys_raise_file_not_found(storage: Storage) -> None:
    check_missing(storage)


def test_open_reads_ranges_and_notices_a_replaced_object(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "AHEAD_BYTES", 16)
    body = bytes(range(256)) * 40
    storage.put("k", body)
    with storage.open("k") as stream:
        assert stream.seek(-100, 2) == len(body) - 100
        assert stream.read() == body[-100:]
        stream.seek(1000)
        assert stream.read(7) == body[1000:1007]
        assert stream.read(5000) == body[1007:6007]
        storage.put("k", b"other")
        stream.seek(8000)
        with pytest.raises(OSError, match="PreconditionFailed"):
            stream.read(100)


def test_list_goes_through_all_pages_in_order(storage: Storage) -> None:
    names = sorted(
        [f"data/{number:05d}.parquet" for number in range(1_100)] + ["data/ä ö+%2F.json", "data2/x", "a.txt"]
    )
    with multiprocessing.pool.ThreadPool(16) as pool:
        pool.map(lambda name: storage.put(name, b""), names)
    assert list(storage.list("")) == sorted(names, key=lambda name: name.encode())
    assert len(list(storage.list("data/"))) == 1_101
    assert list(storage.list("data2")) == ["data2/x"]
    assert next(storage.list("data/00500")) == "data/00500.parquet"
    assert list(storage.list("nothing")) == []


@pytest.mark.parametrize("key", ["../x", "/x", "a//b", "", "a/./b"])
def test_a_key_cannot_leave_the_prefix(bucket: str, key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        ObjectStorage(bucket).put(key, b"")


def test_files_are_put_and_consumed(storage: Storage) -> None:
    with storage.scratch() as directory:
        for name, put in (("one", storage.put), ("two", storage.put_if_absent)):
            (directory / name).write_bytes(name.encode() * 1_000_000)
            put(name, directory / name)
        assert list(directory.iterdir()) == []
    assert storage.get("one") == b"one" * 1_000_000
    assert storage.get("two") == b"two" * 1_000_000


def test_an_object_too_large_for_one_request_is_an_error(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "LARGEST_PUT", 10)
    with pytest.raises(OSError, match="11 bytes; one request can carry 10"):
        storage.put("k", b"x" * 11)


def test_a_large_file_is_mapped_into_memory_and_not_copied(storage: Storage) -> None:
    megabytes = 300
    with storage.scratch() as directory:
        with (directory / "large").open("wb") as file:
            for number in range(megabytes):
                file.write(number.to_bytes(2, "big") * 2**19)
        with AnonymousPeak() as peak:
            storage.put_if_absent("large", directory / "large")
    assert peak.grown_bytes < megabytes * 2**20 / 4
    with storage.open("large") as stream:
        for number in range(megabytes):
            assert stream.read(2**20) == number.to_bytes(2, "big") * 2**19


def _child_of_a_fork(storage: Storage, answers: Connection) -> None:
    try:
        storage.get("k")
    except RuntimeError as err:
        answers.send(str(err))


def test_a_forked_process_is_refused_and_does_not_hang(storage: Storage) -> None:
    storage.put("k", b"1")
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_child_of_a_fork, args=(storage, theirs))
    child.start()
    child.join(100)
    assert child.exitcode == 0
    assert '"spawn" or "forkserver"' in ours.recv()


def test_the_version_of_an_object_changes_when_it_is_written_again(storage: Storage) -> None:
    check_versions(storage)
    check_kept_files(storage)


def test_replace_puts_in_order_then_deletes_the_rest(storage: Storage) -> None:
    fill(storage, "old", 3)
    fill(storage, "new", 2)
    assert [storage.get(key) for key in storage.list("transcripts/")] == [b"new", b"new"]
    with pytest.raises(FileNotFoundError):
        fill(storage, "newer", 2, missing="part-1")
    assert [storage.get(key) for key in storage.list("transcripts/")] == [b"newer", b"new"]


@pytest.mark.parametrize("fault", [500, 502, 503, 504, 429, "reset", "lose", "cut"])
def test_transient_faults_are_retried_and_counted(shaky: tuple[ObjectStorage, Faults], fault: int | str) -> None:
    through_proxy, faults = shaky
    through_proxy.put("k", b"0123456789")
    faults.plan = [fault, fault]
    assert through_proxy.get("k") == b"0123456789"
    assert patience.retries.total() == 2
    if isinstance(fault, int):
        assert set(patience.retries) <= {str(fault), "SlowDown", "ServiceUnavailable"}


@pytest.mark.parametrize("fault", [400, 403, 404, 405])
def test_a_refusal_is_not_retried(shaky: tuple[ObjectStorage, Faults], fault: int) -> None:
    through_proxy, faults = shaky
    faults.plan = [fault, fault]
    with pytest.raises(OSError, match=str(fault)):
        through_proxy.get("k")
    assert len(faults.seen) == 1
    assert patience.retries == {}


def test_a_store_that_stays_down_is_an_error_after_all_attempts(
    shaky: tuple[ObjectStorage, Faults], monkeypatch: pytest.MonkeyPatch
) -> None:
    through_proxy, faults = shaky
    monkeypatch.setattr(patience, "LONGEST_SECONDS", 0.01)
    faults.plan = [503] * 100
    with pytest.raises(OSError, match="503"):
        through_proxy.put("k", b"1")
    assert len(faults.seen) == objects.ATTEMPTS
    assert patience.retries.total() == objects.ATTEMPTS - 1


def test_a_conditional_put_whose_answer_was_lost_has_won(shaky: tuple[ObjectStorage, Faults]) -> None:
    through_proxy, faults = shaky
    faults.plan = ["lose"]
    assert through_proxy.put_if_absent("k", b"mine")
    assert through_proxy.get("k") == b"mine"
    assert [seen.split()[0] for seen in faults.seen[:2]] == ["PUT", "PUT"]


def test_a_conditional_put_that_failed_before_somebody_else_wrote_has_lost(
    shaky: tuple[ObjectStorage, Faults], storage: Storage
) -> None:
    through_proxy, faults = shaky
    storage.put("k", b"theirs")
    faults.plan = ["reset", 503, 409]
    assert not through_proxy.put_if_absent("k", b"mine..")
    faults.plan = ["reset"]
    assert not through_proxy.put_if_absent("k", b"theirs and more")
    assert storage.get("k") == b"theirs"


def test_a_list_survives_faults_between_pages(shaky: tuple[ObjectStorage, Faults], storage: Storage) -> None:
    through_proxy, faults = shaky
    with multiprocessing.pool.ThreadPool(16) as pool:
        pool.map(lambda number: storage.put(f"k{number:05d}", b""), range(1_050))
    faults.plan = ["reset", "pass", 503, "cut"]
    assert list(through_proxy.list("")) == [f"k{number:05d}" for number in range(1_050)]


def test_a_gateway_that_dies_and_comes_back_loses_nothing(ceph: Ceph, storage: Storage) -> None:
    wins: list[bool] = []
    kills = {number: (threading.Event(), threading.Event()) for number in (20, 60)}

    def work() -> None:
        for number in range(150):
            if number in kills:
                reached, killed = kills[number]
                reached.set()
                killed.wait(100)
            storage.put(f"data/{number:03d}", b"x" * 10_000)
            wins.append(storage.put_if_absent(f"commits/{number:03d}", f"{number}".encode()))

    worker = threading.Thread(target=work)
    worker.start()
    for reached, killed in kills.values():
        assert reached.wait(100)
        ceph.kill_gateway()
        killed.set()
        time.sleep(1)
        ceph.start_gateway()
    worker.join(200)
    assert not worker.is_alive()
    assert wins == [True] * 150
    assert len(list(storage.list("data/"))) == 150
    assert [storage.get(key) for key in storage.list("commits/")] == [f"{number}".encode() for number in range(150)]
    assert patience.retries.total() > 0


def test_output_errors_are_in_one_line_without_secrets(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_SECONDS", 0.001)

    def message(uri: str, kind: type[Exception] = ConfigError) -> str:
        with pytest.raises(kind) as error:
            open_storage(uri)
        text = str(error.value)
        assert text.startswith(f"output.uri: {uri}" if kind is ConfigError else uri)
        assert "\n" not in text
        assert SECRET_KEY not in text
        return text

    assert "no bucket" in message("s3:///out")
    assert "NoSuchBucket" in message("s3://no-such-bucket-here/out")
    assert "Invalid bucket name" in message("s3://not a bucket/out")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "wrong" + SECRET_KEY)
        assert "SignatureDoesNotMatch" in message(bucket, StorageError)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        assert "no answer from 127.0.0.1:1: the connection is refused; " in message(bucket, StorageError)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://no-such-host.invalid")
        assert "no answer from no-such-host.invalid: the name of the host is unknown; " in message(bucket, StorageError)
    with monkeypatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        assert "credentials" in message(bucket)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_PROFILE", "nobody")
        assert "nobody" in message(bucket)


def test_keys_of_a_profile_are_used(ceph: Ceph, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "credentials").write_text(
        f"[lab]\naws_access_key_id=fullcanvas-test\naws_secret_access_key={SECRET_KEY}\n"
    )
    (tmp_path / "config").write_text(f"[profile lab]\nendpoint_url = {ceph.endpoint}\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    open_storage(bucket).put("k", b"1")
    assert open_storage(bucket, create=False).get("k") == b"1"


def test_a_pickled_storage_has_no_credentials(storage: Storage) -> None:
    storage.put("k", b"1")
    sent = pickle.dumps(storage)
    assert SECRET_KEY.encode() not in sent
    assert pickle.loads(sent).get("k") == b"1"


def test_endpoint_and_profile_of_the_config_reach_the_store(
    ceph: Ceph, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take precedence over the environment, and no key is in what a run writes about itself."""
    credentials = tmp_path / "credentials"
    credentials.write_text(f"[ours]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    monkeypatch.setenv("AWS_PROFILE", "theirs")
    config = StorageConfig(endpoint=ceph.endpoint, profile="ours")
    storage = open_storage(bucket, config=config)
    storage.put("a", b"1")
    assert storage.get("a") == b"1"
    assert SECRET_KEY not in repr(config.model_dump())


def test_a_single_writer_of_a_bucket_checks_and_puts(bucket: str) -> None:
    storage = open_storage(bucket, config=StorageConfig(single_writer=True))
    again: Storage = pickle.loads(pickle.dumps(storage))
    assert again.single_writer
    assert again.put_if_absent("a", b"1")
    assert not again.put_if_absent("a", b"2")
    assert storage.get("a") == b"1"
