"""The metrics of a real run, as Prometheus reads them from Ray."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray

from pipeline.config import ComputeConfig
from pipeline.flow.cluster import ray_cluster
from pipeline.run import transcribe
from tests.support.archives import archive, settings
from tests.support.small_s3 import SmallS3

RECORDINGS = 12
FAILURES = 12  # answers; s3fs repeats a request five times before our own loop counts one error: 12 // 5 = 2


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallS3]:
    """A store with recordings, and a local Ray that can reach it."""
    small = SmallS3()
    for path in archive(tmp_path / "in", RECORDINGS).glob("*.wav"):
        small.objects[f"in/{path.name}"] = path.read_bytes()
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


@pytest.mark.timeout(300)
def test_requests_that_were_repeated_are_counted_by_stage_and_error(
    store: SmallS3, tmp_path: Path, small_model_dir: Path
) -> None:
    config = settings(Path("s3://b/in"), tmp_path / "out", small_model_dir, "plan.unit_recordings=1")
    config = config.model_copy(update={"source": config.source.model_copy(update={"uri": "s3://b/in"})})
    store.fail_ranges.extend([503] * FAILURES)
    url = f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics"
    counted: dict[str, float] = {}
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(transcribe, config)
        while not run.done():
            page = urllib.request.urlopen(url, timeout=10).read().decode()
            for labels, value in re.findall(
                r"^ray_fullcanvas_store_retries_total\{(.*)\} ([\d.]+)$", page, re.MULTILINE
            ):
                assert 'stage="decode"' in labels
                counted[re.findall(r'error="(\w+)"', labels)[0]] = float(value)
            time.sleep(0.1)
        assert run.result()["recordings_transcribed"] == RECORDINGS
    assert sum(counted.values()) == FAILURES // 5
