"""The training loop, on accelerate."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from timm.optim import create_optimizer_v2
from torch import Tensor
from tqdm import tqdm

from shd_vit.distillation import summary
from shd_vit.errors import ConfigError
from shd_vit.files import write_whole
from shd_vit.hosts.diffusers import DiffusionDistiller, Pass
from shd_vit.hosts.diffusers.sampling import in_batches
from shd_vit.lab.diffusion.data import Data, read_data
from shd_vit.lab.diffusion.drawing import CLASSES
from shd_vit.lab.diffusion.gallery import CURVES, Gallery, draw_curves
from shd_vit.lab.diffusion.recipe import Recipe, build_model, find, load_model, load_scheduler
from shd_vit.lab.diffusion.state import cut_log, forget_state, load_state, save_state
from shd_vit.lab.report import write_json
from shd_vit.pairing.start import initialise_from_teacher

LOG = 'log.jsonl'
METRICS = 'metrics.json'
INITIALISE = 'initialise_from_teacher'
SEEN = 1024  # samples, by losses that look at the teacher first


class Trainer:
    """Trains what a recipe says, into a folder.

    The folder gets the averaged weights in ``model`` (``save_pretrained``), ``scheduler``, names of
    classes in ``classes.json`` where they have some, a log of terms a line in ``log.jsonl``,
    ``metrics.json`` at the end, and ``state`` to go on from; with ``pictures`` in the recipe also
    those, ``samples.npz`` of the last, and ``log.svg``.

    Args:
        recipe: What to train.
        folder: Where to.
        cpu: Whether a GPU is left alone.
    """

    def __init__(self, recipe: Recipe, folder: str | Path, cpu: bool = False) -> None:
        self.recipe, self.folder, training = recipe, Path(folder), recipe.training
        self.accelerator = Accelerator(
            mixed_precision=training.precision.replace('fp32', 'no'),
            gradient_accumulation_steps=training.accumulate,
            cpu=cpu,
        )
        share = training.accumulate * self.accelerator.num_processes
        if training.batch_size % share:
            raise ConfigError(
                f'training.batch_size={training.batch_size} must be a multiple of {share}: '
                f'{training.accumulate} batches accumulated in each of '
                f'{self.accelerator.num_processes} processes'
            )
        self.part = training.batch_size // share
        set_seed(recipe.seed)
        self.data: Data = read_data(recipe.data)
        if len(self.data.labels) < training.batch_size:
            raise ConfigError(
                f'training.batch_size={training.batch_size} is more than the '
                f'{len(self.data.labels)} samples'
            )
        self.distiller = build_distiller(recipe)
        self.parameters = list(self.distiller.student.parameters())
        self.gallery = None
        if recipe.pictures:
            self.gallery = Gallery(
                self.folder,
                recipe.pictures,
                recipe.scores,
                self.distiller.denoising.scheduler,
                self.data.classes,
                self.distiller.teacher,
                self.accelerator.device,
            )
        self.student: Any = self.distiller.student
        self.ema = EMAModel(self.parameters, decay=training.ema_decay)
        self.ema.to(self.accelerator.device)
        options = dict(weight_decay=0.0, **training.optimizer)
        optimizer = create_optimizer_v2(self.distiller, lr=training.lr, **options)
        self.lr = get_scheduler(
            training.lr_schedule,
            optimizer,
            num_warmup_steps=training.warm_up,
            num_training_steps=training.steps,
        )
        self.model, self.optimizer = self.accelerator.prepare(self.distiller, optimizer)
        self.accelerator.register_for_checkpointing(self.ema, self.lr)
        self.step = 0
        set_seed(recipe.seed, device_specific=True)

    def run(self) -> dict[str, Any]:
        """Train to the last step, from where an earlier run was stopped; returns the metrics."""
        training = self.recipe.training
        self._resume()
        self.distiller.settle(self._first_batches())
        self._say(self._opening())
        self.model.train()
        sums: dict[str, float] = defaultdict(float)
        started = since = time.monotonic()
        first = done = self.step
        bar = tqdm(
            total=training.steps,
            initial=self.step,
            disable=not self.accelerator.is_main_process,
            unit='step',
            mininterval=1,
        )
        while self.step < training.steps:
            for name, value in self._train_step().items():
                sums[name] += value
            bar.update()
            if self.step % training.log_every == 0 or self.step == training.steps:
                count = self.step - done
                terms = {name: value / count for name, value in sums.items()}
                rate = training.batch_size * count / (time.monotonic() - since)
                self._log(terms, rate)
                bar.set_postfix_str(', '.join(f'{n} {v:.4g}' for n, v in terms.items()))
                sums.clear()
                since, done = time.monotonic(), self.step
            if self.step < training.steps:
                if self.gallery and self.gallery.is_due(self.step):
                    self._with_averages(partial(self.gallery.show, self.student, self.step))
                if self.step % training.save_every == 0:
                    self._save_state()
        bar.close()
        seconds = time.monotonic() - started
        return self._finish(seconds, self.step - first)

    def _train_step(self) -> dict[str, float]:
        """One step of the optimiser; the terms' means over its batches."""
        training = self.recipe.training
        means: dict[str, float] = defaultdict(float)
        self.distiller.set_epoch(self.step * training.batch_size / len(self.data.labels))
        rows = self._rows().split(self.part)
        for part in rows:
            with self.accelerator.accumulate(self.model):
                step = self.model(*self.data.batch(part, self.accelerator.device))
                self.accelerator.backward(step.loss)
                if self.accelerator.sync_gradients and training.max_grad_norm is not None:
                    parameters = self.model.parameters()
                    self.accelerator.clip_grad_norm_(parameters, training.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            for name, value in step.terms.items():
                means[name] += value.item() / len(rows)
        self.lr.step()
        self.ema.step(self.parameters)
        self.step += 1
        return means

    def _rows(self) -> Tensor:
        """This process's rows of this step: a permutation an epoch, by the seed and the epoch."""
        batch, size = self.recipe.training.batch_size, len(self.data.labels)
        epoch, place = divmod(self.step, size // batch)
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + epoch)
        order = torch.randperm(size, generator=generator)
        rows = order[place * batch : (place + 1) * batch]
        return rows.chunk(self.accelerator.num_processes)[self.accelerator.process_index]

    def _first_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What losses see that ask for it before training: the first rows, in every process."""
        for rows in in_batches(min(SEEN, len(self.data.labels)), self.part):
            yield self.data.batch(torch.arange(rows.start, rows.stop), self.accelerator.device)

    def _log(self, terms: dict[str, float], rate: float) -> None:
        if self.accelerator.is_main_process:
            line = dict(
                step=self.step, lr=self.lr.get_last_lr()[0], images_per_second=rate, **terms
            )
            with open(self.folder / LOG, 'a', encoding='utf-8') as log:
                log.write(json.dumps(line) + '\n')

    def _save_state(self) -> None:
        save_state(self.accelerator, self.folder, self.step)

    def _resume(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.step = load_state(self.accelerator, self.folder)
        if self.accelerator.is_main_process:
            cut_log(self.folder / LOG, self.step)
        if self.step:
            self._say(f'Going on from step {self.step}')

    def _finish(self, seconds: float, steps: int) -> dict[str, Any]:
        """Save the averaged weights; what was trained, in numbers."""
        training = self.recipe.training
        lines = (self.folder / LOG).read_text(encoding='utf-8').splitlines()
        metrics: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        metrics['parameters'] = sum(p.numel() for p in self.parameters)
        metrics['images'] = self.step * training.batch_size
        if steps:
            metrics['seconds'], metrics['seconds_of_steps'] = seconds, steps
        self._with_averages(lambda: metrics.update(self._leave()))
        if self.accelerator.is_main_process:
            with write_whole(self.folder / METRICS) as part:
                part.write_text(json.dumps(metrics, indent=1) + '\n', encoding='utf-8')
            forget_state(self.folder)
        return metrics

    def _leave(self) -> dict[str, float]:
        """Save the model, and draw what is to be shown of it; scores of the pictures."""
        self.student.save_pretrained(str(self.folder / 'model'))
        self.distiller.denoising.scheduler.save_pretrained(str(self.folder / 'scheduler'))
        if self.data.classes:
            write_json(list(self.data.classes), self.folder / CLASSES)
        if self.gallery is None:
            return {}
        draw_curves({self.folder.name: self.folder / LOG}, self.folder / CURVES)
        return self.gallery.scores(self.gallery.show(self.student, self.step))

    def _with_averages(self, do: Callable[[], Any]) -> None:
        """Do something in the main process while the student has its averaged weights."""
        if self.accelerator.is_main_process:
            self.ema.store(self.parameters)
            self.ema.copy_to(self.parameters)
            do()
            self.ema.restore(self.parameters)

    def _opening(self) -> str:
        training, count = self.recipe.training, sum(p.numel() for p in self.parameters)
        lines = [
            f'{type(self.distiller.student).__name__}, {count:,} parameters, '
            f'{len(self.data.labels):,} samples {tuple(self.data.samples.shape[1:])}',
            f'{training.steps:,} steps of {training.batch_size} = {self.part} samples x '
            f'{training.accumulate} batches x {self.accelerator.num_processes} processes, '
            f'on {self.accelerator.device}',
        ]
        for run, distillation in zip(
            self.distiller.passes, self.distiller.distillations, strict=True
        ):
            if distillation is not None:
                lines += [f'pass {run.name}'] if run.name else []
                lines.append(summary(distillation))
        return '\n'.join(lines)

    def _say(self, text: str) -> None:
        if self.accelerator.is_main_process:
            print(text, flush=True)


def build_distiller(recipe: Recipe) -> DiffusionDistiller:
    """Student, teacher and losses of a recipe.

    Raises:
        ConfigError: If they do not go together.
    """
    options = dict(recipe.model)
    layers = options.pop(INITIALISE, None)
    student = build_model(options)
    try:
        scheduler = DDPMScheduler(**recipe.scheduler)
    except TypeError as error:
        raise ConfigError(f'scheduler: {error}') from None
    teacher = None if recipe.teacher is None else load_model(recipe.teacher)
    if layers is not None:
        if teacher is None:
            raise ConfigError(f'model.{INITIALISE}={layers!r} needs a teacher')
        initialise_from_teacher(student, teacher, layers)
    passes = [Pass()]
    if recipe.passes is not None:
        options = dict(recipe.passes)
        passes = find(options.pop('type'))(student, teacher, recipe.losses, **options)
    return DiffusionDistiller(
        student,
        teacher,
        scheduler,
        recipe.losses,
        schedules=recipe.schedules,
        teacher_scheduler=None if recipe.teacher is None else load_scheduler(recipe.teacher),
        label_dropout=recipe.training.label_dropout,
        min_snr_gamma=recipe.training.min_snr_gamma,
        passes=passes,
    )
