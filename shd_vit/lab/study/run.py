"""Running cells, several at a time, until all have ended or the user interrupts."""

from __future__ import annotations

import fcntl
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from shd_vit.errors import ConfigError
from shd_vit.lab.study.cell import Cell, CellFailed
from shd_vit.lab.study.launch import Launcher

GRACE = 45  # seconds to end in; torchrun gives its own workers 30


class Watcher(Protocol):
    """Is told what happens. ``started`` is called from several threads."""

    def started(self, cell: Cell) -> None: ...

    def finished(self, cell: Cell, result: dict) -> None: ...

    def failed(self, cell: Cell, reason: str) -> None: ...


def run_cells(
    cells: Sequence[Cell], metric: str, launcher: Launcher, watcher: Watcher, out: str | Path
) -> None:
    """Train all cells, in their order, and collect their results.

    Args:
        out: The study's folder. Only one study at a time may train in it.

    Raises:
        KeyboardInterrupt: On Ctrl-C, once all trainings have ended.
        ConfigError: If another study trains in this folder.
    """
    slots: queue.SimpleQueue[int] = queue.SimpleQueue()
    for slot in range(launcher.jobs):
        slots.put(slot)
    with only_one(out) as lock, ThreadPoolExecutor(launcher.jobs) as pool:
        trainings = _Trainings(lock)

        def run(cell: Cell) -> dict:
            slot = slots.get()
            try:
                return _run(cell, metric, launcher, slot, trainings, watcher)
            finally:
                slots.put(slot)

        futures = {pool.submit(run, cell): cell for cell in cells}
        try:
            for future in as_completed(futures):
                try:
                    result = future.result()
                except CellFailed as error:
                    watcher.failed(futures[future], str(error))
                else:
                    watcher.finished(futures[future], result)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            trainings.stop()
            raise


def _run(
    cell: Cell,
    metric: str,
    launcher: Launcher,
    slot: int,
    trainings: _Trainings,
    watcher: Watcher,
) -> dict:
    start = time.monotonic()
    cell.begin()
    watcher.started(cell)
    with open(cell.log, 'ab') as log:
        code = trainings.run(launcher.command(cell), launcher.environment(slot), log)
    seconds = time.monotonic() - start
    try:
        if code:
            raise CellFailed(f'training ended with code {code}' + last_lines(cell.log))
        return cell.finish(metric, seconds)
    except CellFailed:
        cell.leave(seconds, failed=not trainings.stopped)
        raise


class _Trainings:
    """The processes that run, so that all can be ended."""

    def __init__(self, lock: int) -> None:
        self.stopped = False
        self._lock = lock
        self._running: set[subprocess.Popen] = set()
        self._guard = threading.Lock()

    def run(self, command: list[str], env: dict[str, str], log) -> int:
        """Exit code of a command."""
        with self._guard:
            if self.stopped:
                raise CellFailed('not started')
            # A session of its own: the terminal's Ctrl-C is for this process, which passes it on.
            # The lock stays with the training, should this process be killed.
            process = subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[self._lock],
            )
            self._running.add(process)
        try:
            return process.wait()
        finally:
            self._running.discard(process)

    def stop(self) -> None:
        """End all, with all that they started."""
        with self._guard:
            self.stopped = True
            running = list(self._running)
        for process in running:
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        for process in running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0, deadline - time.monotonic()))
            _signal(process, signal.SIGKILL)


def _signal(process: subprocess.Popen, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


@contextmanager
def only_one(out: str | Path) -> Iterator[int]:
    """Hold the lock of a study's folder; its descriptor is for the trainings to hold as well."""
    Path(out).mkdir(parents=True, exist_ok=True)
    with open(Path(out) / '.lock', 'a') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f'{str(out)!r}: a study, or a training that one left behind, is running there'
            ) from None
        yield file.fileno()


def last_lines(log: Path, count: int = 5) -> str:
    """The end of a log, indented, to be put after a message."""
    lines = log.read_text(errors='replace').splitlines()
    return ''.join(f'\n    {line}' for line in [line for line in lines if line.strip()][-count:])
