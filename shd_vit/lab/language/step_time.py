"""Time and memory of a trainer's steps: several trainings in turns, each by its own trainer."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from statistics import median
from typing import Any

import torch
from rich.progress import track
from torch import nn
from transformers import PrinterCallback, TrainerCallback

from shd_vit.errors import ConfigError
from shd_vit.lab.language.models import parameters
from shd_vit.lab.language.settings import Settings
from shd_vit.lab.language.train import make_trainer
from shd_vit.lab.language.trainers import kind_of, make_arguments
from shd_vit.lab.long_maps import peak, start_of_peak
from shd_vit.lab.report import Table
from shd_vit.shipped import shipped

MIB = 2**20
# What would read, write or look at something else between steps.
PLAIN = dict(
    save_strategy='no', eval_strategy='no', logging_strategy='no', disable_tqdm=True,
    num_train_epochs=1, learning_rate=0.0,
)  # fmt: skip


class Turns(TrainerCallback):
    """Has a trainer, in a thread of its own, wait for its turns of some steps, and times each.

    Args:
        trainer: That has not begun.
        steps: Of a turn.
    """

    def __init__(self, trainer: Any, steps: int) -> None:
        self.steps = steps
        self.seconds: list[float] = []
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        self._started = 0.0
        self._trainer = trainer
        trainer.add_callback(self)
        # A daemon: an error of another training ends the process.
        self._thread = threading.Thread(target=self._train, daemon=True)
        self._thread.start()

    def __call__(self) -> None:
        """A turn, from its first step to the end of its last."""
        self._go.release()
        self._done.acquire()
        if self._error:
            raise self._error

    def join(self) -> None:
        """Wait for the end of a training that has had all of its steps."""
        self._thread.join()

    def _train(self) -> None:
        try:
            self._trainer.train()
        except BaseException as error:
            self._error = error
            self._done.release()

    def on_step_begin(self, args, state, control, **kwargs: Any) -> None:
        if state.global_step % self.steps == 0:
            self._go.acquire()
        self._started = _now()

    def on_step_end(self, args, state, control, **kwargs: Any) -> None:
        self.seconds.append(_now() - self._started)
        if state.global_step % self.steps == 0:
            self._done.release()


def measure(
    trainings: dict[str, Settings], commands: list[str], steps: int, rounds: int
) -> dict[str, dict]:
    """Seconds, ratio, parameters and memory of each.

    A step is all that the trainer does in one: loading, the drawing of responses where it comes,
    forward, backward and the optimiser, at a learning rate of 0.

    Args:
        trainings: By name; ratios are to the first.
        commands: What :func:`peak_of` is called with, of each.
        steps: Of a turn: a multiple of those that one batch of responses is learnt from.
        rounds: Turns of each, after one more that does not count.
    """
    with tempfile.TemporaryDirectory() as folder:
        count = steps * (rounds + 1)
        trainers = {name: _trainer(s, folder, count) for name, s in trainings.items()}
        turns = {name: Turns(trainer, steps) for name, trainer in trainers.items()}
        for _ in track(range(rounds + 1), 'turns', transient=True):
            for turn in turns.values():
                turn()
        for turn in turns.values():
            turn.join()
    means = {  # a turn has steps of several kinds
        name: [sum(turn.seconds[n : n + steps]) / steps for n in range(steps, count, steps)]
        for name, turn in turns.items()
    }
    first = next(iter(means.values()))
    return {
        name: dict(
            seconds=median(own),
            fastest=min(own),
            ratio=median(a / b for a, b in zip(own, first, strict=True)),
            trained_parameters=parameters(trainers[name].model),
            loss_parameters=_of_losses(trainers[name]),
            peak_mib=_peak(command, steps),
        )
        for (name, own), command in zip(means.items(), commands, strict=True)
    }


def peak_of(settings: Settings, steps: int) -> float:
    """MiB that some steps need over what is there before the first; two turns, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        turn = Turns(_trainer(settings, folder, 2 * steps), steps)
        on_gpu = torch.cuda.is_available()
        # A process keeps what it has freed: on a CPU, its first turn tells.
        before = torch.cuda.memory_allocated() / MIB if on_gpu else start_of_peak()
        turn()
        turn()
        found = torch.cuda.max_memory_allocated() / MIB if on_gpu else peak()
        turn.join()  # what is running when Python ends aborts it
        return found - before


def _peak(command: str, steps: int) -> float:
    tool = shipped('tools') / 'analysis' / 'lm_step_time.py'
    run = [sys.executable, str(tool), command, '--steps', str(steps), '--peak']
    quiet = {**os.environ, 'PYTHONWARNINGS': 'ignore'}
    done = subprocess.run(run, env=quiet, capture_output=True, text=True)
    if done.returncode:
        raise ConfigError(f'{command!r}: {(done.stderr.strip() or "no reason").splitlines()[-1]}')
    return float(done.stdout.split()[-1])


def _trainer(settings: Settings, folder: str, steps: int) -> Any:
    kind = kind_of(settings.trainer)
    more = dict(output_dir=folder, max_steps=steps)
    arguments = {**settings.arguments, **PLAIN, **more}
    trainer = make_trainer(settings, kind, make_arguments(kind, arguments))
    trainer.remove_callback(PrinterCallback)
    if settings.losses:
        trainer.settle(iter(trainer.get_train_dataloader()))
    return trainer


def _of_losses(trainer: Any) -> int:
    losses = getattr(getattr(trainer, 'distillation', None), 'losses', nn.Module())
    return sum(p.numel() for p in losses.parameters() if p.requires_grad)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def step_table(results: dict[str, dict]) -> Table:
    first = next(iter(results))
    rows = [['', 'ms a step', f'/ {first}', 'trained parameters', 'of losses', 'peak memory']]
    for name, r in results.items():
        counts = [f'{r[key]:,}' for key in ('trained_parameters', 'loss_parameters')]
        peak = f'{r["peak_mib"]:.0f} MiB'
        rows.append([name, f'{1e3 * r["seconds"]:.1f}', f'{r["ratio"]:.3f}', *counts, peak])
    return 'Training step', rows
