"""The metrics of a real run, as Prometheus reads them from Ray; and its logs, which name no text."""

from __future__ import annotations

import contextlib
import json
import logging
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pyarrow.parquet as pq
import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from pipeline import logs
from pipeline.config import ComputeConfig
from pipeline.flow import chain, metrics
from pipeline.flow.bundles import as_block
from pipeline.flow.cluster import ray_cluster
from pipeline.flow.metrics import METRICS
from pipeline.output.stage import RECEIPT, reading
from pipeline.run import transcribe
from pipeline.schemas import SAMPLE_RATE, UNIT_LEFT, About, to_table
from tests.support.archives import archive, settings
from tests.support.small_s3 import SmallS3

RECORDINGS = 12
FAILURES = 12  # answers; s3fs repeats a request five times before our own loop counts one error: 12 // 5 = 2
NOT_HERE = {"gpu_memory_bytes", "overflows"}  # metrics of GPUs, and of runs in trouble

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallS3]:
    """A store with recordings, one of them no audio, and a local Ray that can reach it."""
    small = SmallS3()
    for path in archive(tmp_path / "in", RECORDINGS).glob("*.wav"):
        small.objects[f"in/{path.name}"] = path.read_bytes()
    small.objects["in/bad.wav"] = b"no audio" * 10
    environment = {
        "AWS_ENDPOINT_URL": small.url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",  # pragma: allowlist secret
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",  # of botocore
        "RAY_metrics_report_interval_ms": "200",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with ray_cluster(ComputeConfig()):
        yield small
    small.close()


@pytest.fixture
def json_logs() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.configure("json")
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logs.units.setLevel(logging.NOTSET)


def scraped(url: str) -> Samples:
    """Our samples, by name and the labels that are ours."""
    page = urllib.request.urlopen(url, timeout=100).read().decode()
    found: Samples = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name.startswith("ray_fullcanvas_"):
                name = sample.name.removeprefix("ray_fullcanvas_")
                tags = {tag for metric in METRICS.values() for tag in metric.tags} | {"le"}
                key = frozenset((tag, value) for tag, value in sample.labels.items() if tag in tags)
                found[name, key] = sample.value
    return found


def missing(samples: Samples) -> set[str]:
    """The metrics that a run on CPUs has and these samples have not; store_requests until there are enough."""
    kinds = {"counter": "_total", "gauge": "", "histogram": "_count"}
    seen = {name for name, _ in samples}
    found = {name for name, metric in METRICS.items() if name + kinds[metric.kind] in seen} | NOT_HERE
    if total(samples, "store_requests_total", stage="decode") < RECORDINGS:  # bad.wav, and all but the last one
        found.discard("store_requests")
    return METRICS.keys() - found


def total(samples: Samples, name: str, **tags: str) -> float:
    return sum(value for (found, labels), value in samples.items() if found == name and set(tags.items()) <= labels)


@pytest.mark.timeout(600)
def test_a_run_shows_its_metrics_and_logs_what_became_of_each_recording(
    store: SmallS3,
    hold: Path,
    tmp_path: Path,
    small_model_dir: Path,
    json_logs: None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The run cannot end before Prometheus has read each metric from the processes of all stages."""
    config = settings(Path("s3://b/in"), tmp_path / "out", small_model_dir, "plan.unit_recordings=1")
    config = config.model_copy(update={"source": config.source.model_copy(update={"uri": "s3://b/in"})})
    store.fail_ranges.extend([503] * FAILURES)
    logs_of_ray = Path(ray._private.worker._global_node.get_logs_dir_path())
    url = f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics"
    samples: Samples = {}
    with ThreadPoolExecutor(1) as pool:
        run, deadline = pool.submit(transcribe, config), time.monotonic() + 300
        while missing(samples) and not run.done() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):  # nobody listens before the agent of the node has started
                samples |= scraped(url)
            time.sleep(0.1)
        hold.touch()
        assert run.result()["recordings_transcribed"] == RECORDINGS
    assert missing(samples) == set()
    assert total(samples, "store_retries_total", stage="decode") == FAILURES // 5
    audio = sum(2.5 + number / 100 for number in range(RECORDINGS))
    # What a process counted last may be gone with it before anybody has read it.
    for name in ("decoded", "recognised", "committed"):
        assert 0 < total(samples, f"{name}_audio_seconds_total") <= audio + 0.1
    needed, computed = (total(samples, "row_steps_total", kind=kind) for kind in ("needed", "computed"))
    assert 0 < needed <= computed
    rows = pq.read_table(tmp_path / "out/transcripts", columns=["steps", "text"])
    assert 0 < total(samples, "steps_sum") <= sum(rows["steps"].to_pylist())
    assert total(samples, "slots", stage="model") >= 8
    assert 0 < total(samples, "commit_seconds_count") <= RECORDINGS + 1
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    committed = [line for line in lines if line["message"] == "committed"]
    (dead,) = [line for line in lines if line["message"] == "dead letter"]
    assert len(committed) == RECORDINGS + 1
    assert sum(line["audio_seconds"] for line in committed) == pytest.approx(audio, abs=1 / SAMPLE_RATE)
    assert (dead["recording"], dead["reason"], len(dead["run"])) == ("bad.wav", "not_audio", 16)
    stages = "".join(path.read_text(errors="replace") for path in logs_of_ray.glob("worker-*.err"))
    assert '"run": ' in stages
    shown = json.dumps(lines, ensure_ascii=False) + stages
    texts = {text for text in rows["text"].to_pylist() if len(text or "") > 8}
    assert texts
    assert not [text for text in texts if text in shown]


def test_units_that_crashed_their_process_are_counted_when_they_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They leave the chain as suspects, and their recordings run alone: one of these is dead."""
    made: defaultdict[str, mock.Mock] = defaultdict(mock.Mock)
    monkeypatch.setattr(metrics, "make", lambda name, **_: made[name])
    place = {"plan": "plan", "row_group": 0, "first_row": 0, "rows": 1}

    def receipt(unit_id: str, *, done: bool, dead: int) -> dict[str, object]:
        failed = [{"recording": unit_id, "reason": "crashed", "dead": True}] * dead
        counts = {"recordings": 1, "segments": 1, "samples": 16_000, "dead": dead, "failed": failed, "outcome": {}}
        state = {"suspect": not done, "done": done, "won": done, "commit_seconds": 0.1}
        return {"unit_id": unit_id, "place": place, **counts, **state, **reading(())}

    rows = [receipt("a" * 16, done=True, dead=0), receipt("b" * 16, done=False, dead=0)]
    stage = mock.Mock(return_value=mock.Mock(commit_row=lambda unit, *_: receipt(unit, done=True, dead=1)))
    stage.return_value.plans.unit = lambda unit_id, _: unit_id
    fakes = {
        "build_chain": lambda *_: mock.Mock(iter_batches=lambda **_: [as_block(to_table(rows, RECEIPT))]),
        "CommitStage": stage,
        "run_alone": lambda units, *_: ((unit, place, [], []) for unit, place in units),
    }
    units = to_table([{"unit_id": letter * 16, "place": place} for letter in "ab"], UNIT_LEFT)
    config = settings(tmp_path, tmp_path / "out", tmp_path)
    with mock.patch.multiple(chain, **fakes):
        done = list(chain.run_units(config, About(1.0, (), "m", "f"), units, [1.0, 1.0]))
    assert [row["unit_id"] for row in done] == ["a" * 16, "b" * 16]
    assert [call.args[0] for call in made["units_left"].set.call_args_list] == [2, 1, 0]
    made["recordings"].inc.assert_called_once_with(tags={"state": "dead", "reason": "crashed"})
