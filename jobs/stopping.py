"""A clean stop: SIGINT and SIGTERM end a job at any moment with one note, within three seconds, with 130 or 143.

Both signals are blocked in all threads of the process, and one thread waits for them. So it does not matter whose
handler is installed at the moment (Ray has its own, in Python and in C++), or what the main thread waits for.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator
from typing import NoReturn

STOPS = (signal.SIGINT, signal.SIGTERM)
WAKE = signal.SIGUSR1  # takes the main thread out of its work, also out of a wait for a lock
GO_ON = "stopped; everything committed stays. To go on, run the same command again:"
STOP_SECONDS = 2.0  # time for a clean end after a signal; `ray job stop` kills the process after 3 s


class Stopped(BaseException):
    """SIGINT or SIGTERM has arrived. A BaseException, so that no code on the way treats it as an error."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Listener:
    """Keeps both signals from this thread and from those that it starts, and waits for them in a thread of its own.

    Threads that existed before get them as well; then the main thread passes them on as soon as it runs Python.
    command: what the user has to run again; "": nothing. None: no job works at the moment, and the process
    may end at once.
    """

    def __init__(self) -> None:
        self.command: str | None = None
        self._signum = 0
        self._ended = False
        self._stderr = os.dup(2)  # while Ray starts, the other one leads nowhere
        self._handlers = {number: signal.signal(number, self._pass_on) for number in STOPS}
        self._handlers[WAKE] = signal.signal(WAKE, self._wake)
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        self._thread = threading.Thread(target=self._wait, daemon=True, name="stop")
        self._thread.start()

    def close(self) -> None:
        """Let the signals through again."""
        self._ended = True
        signal.pthread_kill(self._thread.ident or 0, signal.SIGTERM)
        self._thread.join()
        os.close(self._stderr)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _wait(self) -> None:
        self._signum = signal.sigwait(STOPS)
        if self._ended:
            return
        if self.command is not None:
            self._say(f"{GO_ON}\n  {self.command}" if self.command else "stopped")
            signal.pthread_kill(threading.main_thread().ident or 0, WAKE)
            time.sleep(STOP_SECONDS)  # native libraries may take longer to end than a stopped job may
        else:
            self._say("stopped")
        leave(128 + self._signum)

    def _pass_on(self, number: int, _frame: types.FrameType | None) -> None:
        signal.pthread_kill(self._thread.ident or 0, number)

    def _wake(self, _number: int, _frame: types.FrameType | None) -> None:
        if self.command is not None:
            raise Stopped(self._signum)

    def _say(self, note: str) -> None:
        with contextlib.suppress(OSError):  # nobody reads it any more
            os.write(self._stderr, f"\n{note}\n".encode(errors="replace"))


_listener: Listener | None = None  # of this process, from `listen` on


def listen() -> None:
    """From now on both signals end this process, before, between and after its jobs too."""
    global _listener
    _listener = Listener()


@contextlib.contextmanager
def stoppable(command: str) -> Iterator[None]:
    """Within the block both signals print how to go on, raise Stopped in the main thread, and then end the process."""
    listener = _listener or Listener()
    try:
        listener.command = command
        yield
    except Stopped as stop:
        sys.stdout.flush()
        leave(128 + stop.signum)
    finally:
        listener.command = None
        if listener is not _listener:
            listener.close()


def leave(code: int) -> NoReturn:
    """End this process and those of its pools at once. Processes of pools would wait for work for ever."""
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)


# A forked child has no thread that waits for the signals.
os.register_at_fork(after_in_child=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS))
