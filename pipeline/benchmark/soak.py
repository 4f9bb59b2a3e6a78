"""A soak: an archive that does not end, model and decoder killed every few minutes, the driver preempted twice.

The driver is `jobs.transcribe` as a user starts it, with the embedded model and a local Ray on a CPU. It works as fast
as one core can. When time is up the archive is cut off behind what is done, and the same command ends it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from pipeline.benchmark import flatness, soak_archive
from pipeline.benchmark.samples import Sample, Sampler, size_of
from pipeline.flow.reaper import holders

FASTEST = 20.0  # times real time at least: so long is the archive that no core comes to its end
REPLICA, DECODER = "GuardedReplica", "GuardedDecoder"
KILLED = ((REPLICA, DECODER), (DECODER,), (REPLICA,))  # of each driver, in turns; who is spared lives as long as it
PREEMPTIONS = len(KILLED) - 1
OBJECT_STORE_BYTES = 128 * 10**6  # with Ray's default, audio of hours would wait in it and the decoder would end early
END_SECONDS = 1800.0  # at most, for what is left when time is up
STOP_SECONDS = 60.0  # at most, from a signal to the end of the driver; it promises 3
LEFT_SECONDS = 30.0  # at most, from the end of the last driver to that of Ray's processes
TAIL = 3000  # characters of the driver's output that a failure shows
SETTINGS = (
    "source.format=manifest",
    "model.name=tiny",
    "model.device=cpu",
    "compute.canvases=8",
    "plan.unit_recordings=1",  # a bundle of 32 units has a minute: much less than the time between two kills
    "plan.update=true",
)


def run(hours: float, kill_seconds: float, every_seconds: float) -> dict[str, Any]:
    """Run a soak in temporary folders and judge it. `complaints` in the figures is empty if it has passed.

    kill_seconds: between two kills. every_seconds: between two samples. A driver that ends before time is up, or not as
    it should, is a complaint too, and what was seen until then is judged.
    """
    with (  # Ray's sockets need a short path; after a stop its processes may still write there for some seconds
        tempfile.TemporaryDirectory(prefix="soak-", dir="/tmp", ignore_cleanup_errors=True) as ray_folder,
        tempfile.TemporaryDirectory(prefix="soak-out-") as folder,
    ):
        free_before = shutil.disk_usage(folder).free
        soak = _Soak(Path(folder), Path(ray_folder), hours, kill_seconds, every_seconds)
        soak.go_on()
        soak.end()
        figures = soak.figures()
        figures["free_disk_mb"] = [round(free / 1e6) for free in (free_before, shutil.disk_usage(folder).free)]
    figures["complaints"] = flatness.complaints(figures)
    return figures


class _Soak:
    def __init__(self, folder: Path, ray_folder: Path, hours: float, kill_seconds: float, every_seconds: float) -> None:
        self.hours, self.kill_seconds, self.every_seconds = hours, kill_seconds, every_seconds
        self.output, self.log, self.ray_folder = folder / "out", folder / "log", ray_folder
        self.manifest = soak_archive.write(folder / "archive", hours * 3600 * FASTEST)
        self.samples: list[Sample] = []
        self.ray_sizes: list[list[tuple[float, float]]] = []  # of each driver: (seconds, MB of Ray's folder)
        self.kills: list[tuple[float, str, int]] = []  # seconds, stage, units committed by then
        self.stop_seconds: list[float] = []
        self.failures: list[str] = []  # of drivers, with what they said last
        self._sampler = Sampler()
        self._began = time.monotonic()
        self._kill_at, self._sample_at = kill_seconds, 0.0

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._began

    def go_on(self) -> None:
        """Kill, preempt and sample until time is up or a driver fails."""
        for stop in range(1, PREEMPTIONS + 2):
            self.ray_sizes.append([])
            with self._driver() as driver:
                while self.seconds < self.hours * 3600 * stop / (PREEMPTIONS + 1):
                    if driver.poll() is not None:
                        self._failed(f"driver {stop} ended by itself with {driver.poll()}")
                        return
                    self._look(driver.pid, KILLED[stop - 1])
                    time.sleep(min(1.0, self.every_seconds))
                began = time.monotonic()
                driver.terminate()
                if _exit_code(driver, STOP_SECONDS) is None:
                    self._failed(f"driver {stop} did not end within {STOP_SECONDS:g} s of SIGTERM")
                    return
                self.stop_seconds.append(round(time.monotonic() - began, 2))

    def end(self) -> None:
        """Cut the archive off behind what is done, and let the same command do the rest."""
        soak_archive.cut(self.manifest, self.output)
        with self._driver() as driver:
            if code := _exit_code(driver, END_SECONDS):
                self._failed(f"the last driver ended with {code}")
            elif code is None:
                self._failed(f"the last driver did not end within {END_SECONDS:g} s")

    def figures(self) -> dict[str, Any]:
        """Everything that was seen, without a judgement of the whole."""
        counts = [*(committed for _, _, committed in self.kills), self._committed()]
        return {
            "hours": self.hours,
            "kill_seconds": self.kill_seconds,
            "kills": len(self.kills),
            "kills_survived": sum(before < after for before, after in pairwise(counts)),
            "stop_seconds": self.stop_seconds,
            "failures": self.failures,
            "roles": flatness.roles(self.samples),
            "ray_folder": flatness.folder(self.ray_sizes),
            "books": soak_archive.compare(self.manifest, self.output),
            "processes_left": self._left(),
            "killed": self.kills,
            "columns": Sample._fields,
            "samples": self.samples,
            "ray_sizes": self.ray_sizes,
        }

    @contextlib.contextmanager
    def _driver(self) -> Iterator[subprocess.Popen[bytes]]:
        """A driver with the same command each time, which does not outlive the block."""
        words = [f"source.uri={self.manifest}", f"output.uri={self.output}", *SETTINGS]
        own = {"RAY_TMPDIR": str(self.ray_folder), "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(OBJECT_STORE_BYTES)}
        command = [sys.executable, "-m", "jobs.transcribe", *words]
        with self.log.open("ab") as log:
            driver = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | own | {"OMP_NUM_THREADS": "1"})
        try:
            yield driver
        finally:
            driver.kill()
            driver.wait()

    def _look(self, driver: int, stages: tuple[str, ...]) -> None:
        """Take a sample and kill a process of one of the stages, if it is time."""
        if self.seconds >= self._sample_at:
            self._sample_at = self.seconds + self.every_seconds
            self.samples += self._sampler.take(self.seconds, driver)
            self.ray_sizes[-1].append((round(self.seconds, 1), round(size_of(self.ray_folder) / 1e6, 2)))
        stage = stages[len(self.kills) % len(stages)]
        if self.seconds >= self._kill_at and _kill(driver, stage):
            self._kill_at = self.seconds + self.kill_seconds
            self.kills.append((round(self.seconds, 1), stage, self._committed()))

    def _committed(self) -> int:
        return sum(1 for _ in (self.output / "commits").glob("*/*.json"))

    def _left(self) -> int:
        """How many processes still use Ray's folder, some time after the end of the last driver."""
        deadline = time.monotonic() + LEFT_SECONDS
        while (left := len(holders(str(self.ray_folder)))) and time.monotonic() < deadline:
            time.sleep(1)
        return left

    def _failed(self, what: str) -> None:
        said = self.log.read_text(encoding="utf-8", errors="replace")[-TAIL:]
        self.failures.append(f"after {self.seconds:.0f} s {what}:\n{said}")


def _exit_code(driver: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Its exit code, or None where it does not end within so many seconds."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return driver.wait(seconds)
    return None


def _kill(driver: int, stage: str) -> bool:
    """SIGKILL a living process of `stage`. Returns False if there is none at the moment."""
    for process in psutil.Process(driver).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if stage in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                process.kill()
                return True
    return False
