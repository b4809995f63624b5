"""Drawing samples, with classifier-free guidance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from shd_vit.errors import ConfigError, check_number
from shd_vit.hosts.diffusers.gaussian import split_output
from shd_vit.hosts.diffusers.labels import check_labels, count_labels, null_label
from shd_vit.hosts.diffusers.passes import call_model


class Guidance(NamedTuple):
    """How far a prediction is drawn from that of no class: w cond + (1 - w) uncond.

    Attributes:
        scale: w, at the end of sampling; 1 is none.
        power: None keeps w at all timesteps. A power p lets it rise by a cosine, as MDT samples
            with p = 4: w = 1 + (scale - 1) (1 - cos(pi (1 - t / T)^p)) / 2.
        channels: How many of the first channels are guided, 3 of 4 in DiT and MDT; None: all.
    """

    scale: float = 1.0
    power: float | None = None
    channels: int | None = None

    def at(self, timestep: int, num_timesteps: int) -> float:
        """w at a timestep, which counts down from T."""
        if self.power is None:
            return self.scale
        done = (1 - timestep / num_timesteps) ** self.power
        return 1 + (self.scale - 1) * (1 - math.cos(math.pi * done)) / 2

    def check(self, model: nn.Module) -> int | None:
        """The label of no class, if it is needed.

        Raises:
            ConfigError: If a number makes no sense, or the model knows no label of no class.
        """
        check_number('guidance.scale', self.scale)
        check_number('guidance.power', self.power, positive=True, optional=True)
        check_number('guidance.channels', self.channels, positive=True, whole=True, optional=True)
        return None if self.scale == 1 else null_label(model, f'guidance={self.scale:g}')


@torch.no_grad()
def sample(
    model: nn.Module,
    scheduler: Any,
    noise: Tensor,
    labels: Tensor | None = None,
    steps: int = 250,
    guidance: Guidance = Guidance(),  # noqa: B008
    generator: torch.Generator | None = None,
    call: Callable[..., Tensor] = call_model,
    progress: Callable[[Any], Any] = iter,
) -> Tensor:
    """Samples (B, C, h, w) from noise.

    Args:
        model: In eval mode.
        scheduler: ``DDPMScheduler`` or ``DDIMScheduler``, of the model's training. A learned
            variance is used by the first, if its ``variance_type`` is 'learned_range'.
        noise: (B, C, h, w), x_T.
        labels: (B,), classes; None for models without.
        steps: Of the sampler, at most the timesteps of training.
        guidance: See :class:`Guidance`.
        generator: Of what the sampler adds.
        call: As in :class:`~shd_vit.hosts.diffusers.distiller.DiffusionDistiller`.
        progress: Wraps what is gone through, as tqdm.

    Raises:
        ConfigError: If the model is in training mode, there are too many steps, or no null class to
            guide away from, or a sample is not finite.
    """
    if model.training:
        raise ConfigError('the model is in training mode, where it may drop labels: call eval()')
    total = scheduler.config.num_train_timesteps
    check_number('steps', steps, positive=True, whole=True, at_most=total)
    null = guidance.check(model)
    check_labels(labels, count_labels(model))
    scheduler.set_timesteps(steps, device=noise.device)
    x, channels = noise * scheduler.init_noise_sigma, noise.shape[1]
    # A DDIMScheduler made from a DDPMScheduler's config states one as well, and has none.
    is_ddpm = isinstance(scheduler, DDPMScheduler)
    uses_variance = is_ddpm and scheduler.config.variance_type == 'learned_range'
    options: dict[str, Any] = dict(generator=generator, return_dict=False)
    for timestep in progress(scheduler.timesteps):
        weight = guidance.at(int(timestep), total)
        output = _guided(model, x, timestep, labels, null, weight, guidance.channels, call)
        if not uses_variance:
            output = split_output(output, channels)[0]
        x = scheduler.step(output, timestep, x, **options)[0]
    if not torch.isfinite(x).all():
        raise ConfigError(f'{int((~torch.isfinite(x)).sum())} values of the samples are not finite')
    return x


def _guided(
    model: nn.Module,
    x: Tensor,
    timestep: Tensor,
    labels: Tensor | None,
    null: int | None,
    weight: float,
    channels: int | None,
    call: Callable[..., Tensor],
) -> Tensor:
    """The output, whose prediction is guided; the variance is that of the class."""
    timesteps = timestep.expand(len(x))
    if null is None or labels is None:
        return call(model, x, timesteps, labels).float()
    both = torch.cat([labels, torch.full_like(labels, null)])
    output = call(model, x.repeat(2, 1, 1, 1), timesteps.repeat(2), both).float()
    cond, uncond = output.chunk(2)
    count = x.shape[1] if channels is None else channels
    guided = uncond[:, :count] + weight * (cond[:, :count] - uncond[:, :count])
    return torch.cat([guided, cond[:, count:]], dim=1)


def in_batches(count: int, size: int) -> Iterator[slice]:
    """Slices of ``count`` rows."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
