"""Starts worker processes so that Ctrl-C or SIGTERM at any moment leaves neither a process nor a traceback.

A signal in the middle of `Process.start` would leave a child that waits for the data it begins with. It would end with
a traceback of its own.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM)


def start(processes: Iterable[BaseProcess]) -> None:
    """Start all processes. If one cannot start, or a signal asks this process to end, end those that were started."""
    started: list[BaseProcess] = []
    try:
        with _deferred_signals():
            for process in processes:
                process.start()
                started.append(process)
    except BaseException:
        end(started)
        raise


def end(processes: Iterable[BaseProcess]) -> None:
    """End processes and wait until they have ended. Those that were never started are left alone."""
    started = [process for process in processes if process.pid is not None]
    for process in started:
        process.terminate()
    for process in started:
        process.join()


@contextlib.contextmanager
def _deferred_signals() -> Iterator[None]:
    """Handle Ctrl-C and SIGTERM afterwards. Processes that start meanwhile never get a terminal's Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals interrupt the main thread only
        return
    resource_tracker.ensure_running()  # starting it later would unblock SIGINT
    arrived: list[int] = []

    def keep(number: int, frame: FrameType | None) -> None:
        arrived.append(number)

    handlers = {number: signal.signal(number, keep) for number in ENDING if signal.getsignal(number) is not None}
    # Children inherit the mask. It lets SIGTERM through, which ends them.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for late in dict.fromkeys(arrived):
            signal.raise_signal(late)
