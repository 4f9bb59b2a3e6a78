"""Metrics of the chain. Prometheus reads them from Ray's `--metrics-export-port`, about 10 s later."""

from __future__ import annotations

from ray.util import metrics

from pipeline.storage.patience import drain


class RetryMetrics:
    """Counts the requests to stores that this process repeated: `ray_fullcanvas_store_retries_total{stage, error}`."""

    def __init__(self, stage: str) -> None:
        """stage: decode, model or commit."""
        self._metric = metrics.Counter(
            "fullcanvas_store_retries", "requests to object stores that were repeated", tag_keys=("stage", "error")
        )
        self._metric.set_default_tags({"stage": stage})

    def report(self) -> None:
        """Add what was counted since the last call to the metric."""
        for error, count in drain().items():
            self._metric.inc(count, {"error": error})
