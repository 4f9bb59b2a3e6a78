"""Processor time of the processes that this one has started."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psutil

from pipeline.flow.processes import ProcessorSeconds


def busy(mark: str, seconds: float = 600.0) -> subprocess.Popen[bytes]:
    """A process that uses so much of a processor, with `mark` in its command."""
    code = f"import time\nwhile time.process_time() < {seconds}: pass  # {mark}"
    return subprocess.Popen([sys.executable, "-c", code])


def test_processor_seconds_are_counted_by_role() -> None:
    with ProcessorSeconds() as used:
        for process in [busy(mark, seconds=3.0) for mark in ("MeteredCommit", "other")]:
            process.wait()
    assert used.by_role.keys() == {"replica", "second", "decode", "commit", "driver", "ray"}
    assert used.by_role["commit"] > 0.1
    assert used.by_role["ray"] > 0.1
    assert used.by_role["replica"] == used.by_role["decode"] == 0


def test_seconds_before_the_block_do_not_count() -> None:
    process = busy("GuardedReplica")
    try:
        with ProcessorSeconds() as first:
            while sum(psutil.Process(process.pid).cpu_times()[:2]) < 3:
                time.sleep(0.1)
        process.send_signal(signal.SIGSTOP)  # no processor from here on
        with ProcessorSeconds() as second:
            time.sleep(2.5)
    finally:
        process.kill()
        process.wait()
    assert first.by_role["replica"] > 0.1
    assert second.by_role["replica"] == 0


def test_the_start_of_an_actor_is_what_it_takes_before_its_first_bundle() -> None:
    busy = "import os, sys, time; end = time.process_time() + {}\nwhile time.process_time() < end: pass\n"
    title = "# GuardedReplica"
    at_work = f"[sys.executable, '-c', {busy.format(6.0)!r} + {title!r} + '.sub' + 'mit']"  # seconds go on counting
    with ProcessorSeconds() as used:
        code = busy.format(3.0) + f"os.execv(sys.executable, {at_work})  {title}"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert 1.0 < used.to_start("replica") <= 3.5
    assert used.by_role["replica"] > used.to_start("replica")
    assert used.to_start("decode") == 0
