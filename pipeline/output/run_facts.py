"""What the report says of a run beside its transcripts: model, source, time, cost, settings, forecast and actual."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import yaml

from pipeline.config import RunConfig
from pipeline.config_file import as_text, flat, keys
from pipeline.output.parts import CONFIG
from pipeline.output.terminal import clock
from pipeline.planning.plan import read_fingerprint
from pipeline.storage.base import OutputError, Storage, read_json

FORECAST = "_run/forecast.json"
_PLACES = ("storage.", "output.uri", "source.uri")  # where things are; the report says it elsewhere
_COMPARED = (("audio hours", "audio_hours"), ("wall hours", "wall_hours"), ("GPU hours", "gpu_hours"), ("cost", "usd"))


class RunFacts:
    """The files of a run, read once. What a file does not say is left out, as where no run has written them yet."""

    def __init__(self, storage: Storage, summary: Mapping[str, Any], minutes: Mapping[str, int]) -> None:
        """summary: of `publish`. minutes: `Tally.minutes`. Raises OutputError where the settings are no settings."""
        text = storage.get(CONFIG) if storage.exists(CONFIG) else b"{}"
        try:
            self.settings = flat(yaml.safe_load(text))
        except (yaml.YAMLError, AttributeError):
            raise OutputError(f"{storage.uri}/{CONFIG}: not the settings of a run") from None
        self.fingerprint = read_fingerprint(storage)
        self.forecast = read_json(storage, FORECAST)
        self.summary, self.minutes = summary, minutes

    def about(self) -> list[tuple[str, str]]:
        """Names and texts for the top of the page."""
        return list(self._about())

    def changed_settings(self) -> list[tuple[str, str, str]]:
        """Key, value and default of the settings that have another value than the default."""
        defaults = {name: field.get_default(call_default_factory=True) for name, field in keys(RunConfig)}
        pairs = ((name, value, _plain(defaults.get(name))) for name, value in self._shown())
        return [(name, as_text(value), as_text(default)) for name, value, default in pairs if value != default]

    def all_settings(self) -> list[tuple[str, str]]:
        """Key and value of every setting."""
        return [(name, as_text(value)) for name, value in self._shown()]

    def compared(self) -> list[tuple[str, str, str, str]]:
        """Figure, forecast, its interval, and what the last run took; without a forecast nothing."""
        if not self.forecast:
            return []
        actual = self._actual()
        rows = []
        for name, key in _COMPARED:
            made = self.forecast.get(key)
            if made is None and actual.get(key) is None:
                continue
            interval = f"{_figure(made['low'], key)} to {_figure(made['high'], key)}" if made else "–"
            rows.append((name, _figure(made and made["value"], key), interval, _figure(actual.get(key), key)))
        return rows

    def remark(self) -> str:
        """With a forecast: why forecast and actual may not be of the same work; "" where they are."""
        if not self.forecast:
            return ""
        planned, done = self.forecast["units"], self.summary.get("pipeline_units")
        if done is None:
            return "What the last run took is not known: it was stopped."
        return "" if planned == done else f"The forecast is of {planned:,} units, and the last run did {done:,}."

    def _shown(self) -> Iterator[tuple[str, Any]]:
        return ((name, value) for name, value in self.settings.items() if not name.startswith(_PLACES))

    def _actual(self) -> dict[str, float | None]:
        """Of the last run, in hours and dollars. Without `pipeline_seconds` nothing is known."""
        if (seconds := self.summary.get("pipeline_seconds")) is None:
            return {}
        pools = 1 if self.settings.get("model.second") is None else 2
        gpus = pools * self.settings.get("compute.replicas_max", 0) * self.settings.get("compute.gpus_per_replica", 0)
        hours, price = seconds / 3600, self.settings.get("plan.usd_per_gpu_hour")
        return {
            "audio_hours": self.summary["pipeline_audio_seconds"] / 3600,
            "wall_hours": hours,
            "gpu_hours": hours * gpus if gpus else None,
            "usd": hours * gpus * price if gpus and price is not None else None,
        }

    def _about(self) -> Iterator[tuple[str, str]]:
        if name := self.settings.get("model.name"):
            second = self.settings.get("model.second")
            weights = self.fingerprint.get("model.weights_hash")
            yield "model", f"{name}{f', weights {weights}' if weights else ''}{f'; second: {second}' if second else ''}"
        if uri := self.settings.get("source.uri"):
            yield "source", f"{uri} ({self.settings.get('source.format')})"
        if self.minutes:
            first, last = (moment.replace("T", " ") for moment in (min(self.minutes), max(self.minutes)))
            yield "committed", f"{first} to {last} UTC"
        actual = self._actual()
        if actual:
            summary = self.summary
            work = f"{summary['pipeline_units']:,} units, {summary['pipeline_audio_seconds'] / 3600:,.3f} h of audio"
            yield "last run", f"{work} in {clock(summary['pipeline_seconds'])}, RTFx {summary['pipeline_rtfx']:,.1f}"
            yield "cost of the last run", self._cost(actual)
        published = datetime.fromisoformat(self.summary["published"])
        yield "published", f"{published:%Y-%m-%d %H:%M} UTC"

    def _cost(self, actual: Mapping[str, float | None]) -> str:
        if (hours := actual["gpu_hours"]) is None:
            return "no GPU"
        usd = actual["usd"]
        price = f"{usd:,.2f} US dollars" if usd is not None else "no price: plan.usd_per_gpu_hour is not set"
        return f"at most {hours:,.2f} GPU hours (all replicas, all the time): {price}"


def _figure(value: float | None, key: str) -> str:
    if value is None:
        return "–"
    return f"{value:,.2f} $" if key == "usd" else f"{value:,.2f}" if value >= 0.1 else f"{value:,.4f}"


def _plain(value: Any) -> Any:
    """A value as YAML gives it back: a list instead of a tuple."""
    return list(value) if isinstance(value, tuple) else value
