"""Running cells, several at a time, until all have ended or the user interrupts."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from shd_vit.errors import ConfigError
from shd_vit.lab.study.cell import Cell, CellFailed
from shd_vit.lab.study.launch import Launcher
from shd_vit.lab.study.progress import Progress

GRACE = 45  # seconds to end in; torchrun gives its own workers 30
GLANCE = 0.1  # seconds between looks at what runs


class Training(NamedTuple):
    cell: Cell
    process: subprocess.Popen
    start: float

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.start


def run_cells(
    cells: Sequence[Cell], launcher: Launcher, progress: Progress, out: str | Path
) -> None:
    """Train all cells, in their order, and collect their results.

    Args:
        progress: Is told what has started, finished and failed.
        out: The study's folder. Only one study at a time may train in it.

    Raises:
        KeyboardInterrupt: On Ctrl-C, once all trainings have ended.
        ConfigError: If another study trains in this folder.
    """
    waiting = deque(cells)
    running: dict[int, Training] = {}
    with only_one(out) as lock:
        try:
            while waiting or running:
                for slot in range(launcher.jobs):
                    if waiting and slot not in running:
                        cell = waiting.popleft()
                        try:
                            running[slot] = _start(cell, launcher, slot, lock)
                            progress.started(cell)
                        except CellFailed as error:
                            progress.failed(cell, str(error))
                ended = [slot for slot, it in running.items() if it.process.poll() is not None]
                for slot in ended:
                    _collect(running.pop(slot), progress)
                if not ended:
                    time.sleep(GLANCE)
        finally:
            _stop(running.values())


def _start(cell: Cell, launcher: Launcher, slot: int, lock: int) -> Training:
    cell.begin()
    command = cell.job.command(cell.folder, cell.seed, launcher)
    try:
        with open(cell.log, 'ab') as log:
            # A session of its own: the terminal's Ctrl-C is for this process, which passes it on.
            # The lock stays with the training, should this process be killed.
            process = subprocess.Popen(
                command,
                env=launcher.environment(slot),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[lock],
            )
    except (OSError, ValueError) as error:
        cell.leave(0.0, failed=True)
        raise CellFailed(f'{command[0]!r} cannot be started: {error}') from None
    return Training(cell, process, time.monotonic())


def _collect(training: Training, progress: Progress) -> None:
    cell, code = training.cell, training.process.returncode
    try:
        if code:
            raise CellFailed(f'training ended with code {code}' + last_lines(cell.log))
        result = cell.finish(training.seconds)
    except CellFailed as error:
        cell.leave(training.seconds, failed=True)
        progress.failed(cell, str(error))
    else:
        progress.finished(cell, result)


def _stop(running: Collection[Training]) -> None:
    """End all, with all that they started."""
    try:
        for training in running:
            _signal(training.process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        for training in running:
            with suppress(subprocess.TimeoutExpired):
                training.process.wait(max(0, deadline - time.monotonic()))
    finally:
        for training in running:
            _signal(training.process, signal.SIGKILL)
            training.cell.leave(training.seconds, failed=False)


def _signal(process: subprocess.Popen, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


@contextmanager
def only_one(out: str | Path) -> Iterator[int]:
    """Hold the lock of a study's folder; its descriptor is for the trainings to hold as well."""
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
        file = open(Path(out) / '.lock', 'a')  # noqa: SIM115  (closed below)
    except OSError as error:
        raise ConfigError(f'--out {str(out)!r} cannot be used: {error}') from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f'{str(out)!r}: a study, or a training that one left behind, is running there'
            ) from None
        yield file.fileno()


def last_lines(log: Path, count: int = 5) -> str:
    """The end of a log, indented, to be put after a message."""
    with open(log, 'rb') as file:
        file.seek(max(0, log.stat().st_size - 10_000))
        lines = file.read().decode(errors='replace').splitlines()
    return ''.join(f'\n    {line}' for line in [line for line in lines if line.strip()][-count:])
