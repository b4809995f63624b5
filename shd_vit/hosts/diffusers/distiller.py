"""A denoising step of a student, its own loss and what it learns from a teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shd_vit.distillation import Distillation, read_schedule, refuse_non_finite
from shd_vit.distillation.registry import LOSSES
from shd_vit.errors import ConfigError, check_number
from shd_vit.hosts.diffusers.checks import (
    check_losses,
    check_pair,
    check_schedules,
    check_variance,
)
from shd_vit.hosts.diffusers.gaussian import DenoisingLoss, split_output
from shd_vit.hosts.diffusers.labels import (
    check_labels,
    count_labels,
    drop_labels,
    null_label,
    switch_off_label_dropout,
)
from shd_vit.hosts.diffusers.passes import Conditions, DenoisingStep, Pass, call_model
from shd_vit.losses import DistillationLoss
from shd_vit.pairing import ModelOutput


class DiffusionDistiller(nn.Module):
    """The training loss of a diffusion transformer, alone or with a teacher, in one forward::

        distiller = DiffusionDistiller(student, teacher, scheduler, dict(shd=dict(beta=2.0)))
        distiller, optimizer, loader = accelerator.prepare(distiller, optimizer, loader)
        step = distiller(latents, labels)
        accelerator.backward(step.loss)

    Both models see the same noise, timesteps and dropped labels. The student and what losses learn
    are its parameters; the teacher is not in its state, and moves along with ``to``.

    Args:
        student: To train. What it draws for itself, dropout of labels, is switched off.
        teacher: Frozen, in eval mode. None trains the student alone.
        scheduler: ``DDPMScheduler`` or ``DDIMScheduler``: noise, and what is predicted.
        losses: By name: ``dict(shd=True)``, ``dict(shd=dict(beta=2.0))``, a name's settings;
            ``dict(kd=dict(type='OutputLoss'))``; or a loss.
        schedules: Of weights, by name: ``dict(shd=dict(warm_up=1, stop=4))``, in epochs.
        teacher_scheduler: Of the teacher's training, held against ``scheduler``. None: the same.
        label_dropout: With which probability a label becomes the null class.
        min_snr_gamma: As in :class:`DenoisingLoss`.
        passes: One, or several whose losses are summed.
        call: Gives a model's output (B, C or 2 C, h, w) of (model, noisy, timesteps, labels,
            **conditions).

    Raises:
        ConfigError: If the pair cannot be distilled.
        UnsupportedAttention: If a loss needs attention that cannot be tapped.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        scheduler: Any,
        losses: Mapping[str, Any] | None = None,
        *,
        schedules: Mapping[str, dict] | None = None,
        teacher_scheduler: Any = None,
        label_dropout: float = 0.1,
        min_snr_gamma: float | None = None,
        passes: Sequence[Pass] = (Pass(),),
        call: Callable[..., Tensor] = call_model,
    ) -> None:
        super().__init__()
        self.denoising = DenoisingLoss(scheduler, min_snr_gamma)
        check_variance(student, scheduler)
        self.label_dropout = check_number('label_dropout', label_dropout, at_most=1)
        self.num_labels = count_labels(student)
        drops = self.num_labels is not None and self.label_dropout
        self.null = null_label(student, f'label_dropout={label_dropout}') if drops else None
        switch_off_label_dropout(student)
        self.student, self.passes, self.call = student, list(passes), call
        self.distillations: list[Distillation | None] = [None] * len(self.passes)
        if teacher is None:
            if losses:
                raise ConfigError(f'losses.{next(iter(losses))} needs a teacher: teacher=None')
        else:
            check_pair(student, teacher)
            check_schedules(scheduler, teacher_scheduler or scheduler)
            planned = {n: read_schedule(c, f'schedules.{n}') for n, c in (schedules or {}).items()}
            given = [p.losses if p.losses is not None else losses or {} for p in self.passes]
            self.distillations = [
                Distillation(build_losses(own), student, teacher, planned) for own in given
            ]
        for distillation in self._used:
            check_losses(distillation)
        # Modules, so that what they learn is trained, moved and saved.
        self.losses = nn.ModuleList(d.losses for d in self._used)
        self.schedules = nn.ModuleList(d.schedules for d in self._used)

    @property
    def _used(self) -> list[Distillation]:
        return [d for d in self.distillations if d is not None]

    @property
    def teacher(self) -> nn.Module | None:
        """The frozen teacher. Not a submodule."""
        return self._used[0].teacher.model if self._used else None

    def train(self, mode: bool = True) -> DiffusionDistiller:
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> DiffusionDistiller:
        """``to``, ``cuda`` and the like move the teacher along."""
        if self.teacher is not None:
            self.teacher._apply(fn)
        return super()._apply(fn, recurse)

    def set_epoch(self, epoch: float) -> None:
        """Set scheduled weights to those of this moment, such as 1.5 in the middle of epoch 2."""
        for distillation in self._used:
            distillation.schedules.set_epoch(epoch)

    def forward(
        self,
        latents: Tensor,
        labels: Tensor | None = None,
        conditions: Conditions | None = None,
        timesteps: Tensor | None = None,
        noises: Sequence[Tensor] | None = None,
    ) -> DenoisingStep:
        """One step's loss.

        Args:
            latents: (B, C, h, w), x_0.
            labels: (B,), classes; None for models without.
            conditions: More keyword arguments of both models' calls, such as a text's embedding.
            timesteps: (B,), from 0; None draws them uniformly.
            noises: A tensor as ``latents`` for each pass; None draws them.

        Raises:
            NonFiniteLoss: Naming the terms that are not finite.
        """
        check_labels(labels, self.num_labels)
        if timesteps is None:
            shape = (len(latents),)
            timesteps = torch.randint(self.denoising.num_timesteps, shape, device=latents.device)
        terms: dict[str, Tensor] = {}
        for number, (name, _, draw) in enumerate(self.passes):
            noise = torch.randn_like(latents) if noises is None else noises[number]
            more = {**(conditions or {}), **draw(latents)}
            found = self._run(number, latents, labels, timesteps, noise, more)
            terms |= {f'{name}_{term}' if name else term: value for term, value in found.items()}
        total: Any = sum(terms.values())
        refuse_non_finite(total, terms)
        return DenoisingStep(total, {name: value.detach() for name, value in terms.items()})

    def _run(
        self,
        number: int,
        latents: Tensor,
        labels: Tensor | None,
        timesteps: Tensor,
        noise: Tensor,
        more: Conditions,
    ) -> dict[str, Tensor]:
        """The terms of one pass."""
        noisy = self.denoising.noisy(latents, noise, timesteps)
        if labels is not None and self.null is not None:
            labels = drop_labels(labels, self.label_dropout, self.null)
        inputs = noisy, timesteps, labels
        distillation = self.distillations[number]
        if distillation is None:
            output = self.call(self.student, *inputs, **more)
            return self.denoising.terms(output, latents, noise, noisy, timesteps)
        learned = distillation.record_student(self.call, self.student, *inputs, **more)
        own = self.denoising.terms(learned.logits, latents, noise, noisy, timesteps)
        channels = latents.shape[1]

        def predict() -> Tensor:
            return _predicted(self.call(self.teacher, *inputs, **more), channels)

        learned = learned._replace(logits=_predicted(learned.logits, channels))
        return own | distillation.teach(learned, None, predict)

    def settle(self, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
        """Show training batches to the losses that ask for it (SHD's ``head_matching``), once.

        Args:
            batches: Latents and labels; not touched if no loss asks. Noise and timesteps are drawn.
        """
        asking = [d for d in self._used if not all(x.is_settled for x in d.losses.values())]
        kept = list(batches) if asking else []
        for distillation in asking:
            draw = self.passes[self.distillations.index(distillation)].draw
            distillation.settle(self._taught(distillation, draw, *batch) for batch in kept)

    @torch.no_grad()
    def _taught(
        self, distillation: Distillation, draw: Any, latents: Tensor, labels: Tensor | None
    ) -> ModelOutput:
        shape = (len(latents),)
        timesteps = torch.randint(self.denoising.num_timesteps, shape, device=latents.device)
        noisy = self.denoising.noisy(latents, torch.randn_like(latents), timesteps)
        call = self.call, self.teacher, noisy, timesteps, labels
        return distillation.teacher(*call, **draw(latents))


def build_losses(losses: Mapping[str, Any]) -> dict[str, DistillationLoss]:
    """Losses as they are, from their settings, or by their names alone where these are True."""
    built = {}
    for name, loss in losses.items():
        if loss is True:
            loss = {}
        if not isinstance(loss, (DistillationLoss, Mapping)):
            raise ConfigError(f'losses.{name}={loss!r} must be True, a dict of settings, or a loss')
        if isinstance(loss, Mapping):
            loss = LOSSES.build({'type': name, **loss}, f'losses.{name}')
        built[name] = loss
    return built


def _predicted(output: Tensor, channels: int) -> Tensor:
    """Without the variance, in float32."""
    return split_output(output, channels)[0].float()
