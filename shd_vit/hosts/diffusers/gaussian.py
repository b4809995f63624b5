"""The loss of one denoising step: what is predicted, the learned variance and its bound."""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor

from shd_vit.errors import ConfigError, check_number

PREDICTIONS = ('epsilon', 'v_prediction', 'sample')


class DenoisingLoss:
    """Squared error of a model's prediction, and the variational bound of its learned variance.

    A model with as many channels as its latents predicts epsilon, v or x_0, as the scheduler says.
    One with twice as many also has its variance between the smallest and the largest, learned from
    the bound alone, as in improved DDPM (arXiv 2102.09672, Eqs. 14 and 16) and ADM: both terms have
    the weight 1, and the prediction is detached in the bound.

    Args:
        scheduler: ``DDPMScheduler`` or ``DDIMScheduler`` of diffusers: the noise of each timestep,
            and what is predicted.
        min_snr_gamma: Weigh the squared error of a sample by min(SNR, gamma) over SNR (epsilon),
            SNR + 1 (v) or 1 (x_0), as in arXiv 2303.09556. None: 1.

    Raises:
        ConfigError: If the scheduler is another, or its last timestep is all noise and epsilon is
            predicted, which then says nothing of x_0.
    """

    def __init__(self, scheduler: Any, min_snr_gamma: float | None = None) -> None:
        check_scheduler(scheduler)
        self.scheduler = scheduler
        self.prediction: str = scheduler.config.prediction_type
        self.min_snr_gamma = check_number(
            'min_snr_gamma', min_snr_gamma, positive=True, optional=True
        )
        self.num_timesteps: int = scheduler.config.num_train_timesteps
        betas = scheduler.betas.double()
        kept = torch.cumprod(1 - betas, 0)
        before = torch.cat([kept.new_ones(1), kept[:-1]])
        variance = betas * (1 - before) / (1 - kept)
        self._tables = dict(
            signal=kept.sqrt(),
            noise=(1 - kept).sqrt(),
            # Of q(x_{t-1} | x_t, x_0); at t = 0, where it is 0, that of t = 1.
            least_log_variance=torch.cat([variance[1:2], variance[1:]]).log(),
            most_log_variance=betas.log(),
            of_clean=betas * before.sqrt() / (1 - kept),
            of_noisy=(1 - before) * (1 - betas).sqrt() / (1 - kept),
        )

    def noisy(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t of x_0 and noise, all (B, C, h, w); timesteps (B,), from 0."""
        return self.scheduler.add_noise(clean, noise, timesteps)

    def terms(
        self, output: Tensor, clean: Tensor, noise: Tensor, noisy: Tensor, timesteps: Tensor
    ) -> dict[str, Tensor]:
        """``mse``, and ``vb`` if the model has a variance: scalars, means over the batch.

        Args:
            output: (B, C or 2 C, h, w), of the model.
            clean: x_0.
            noise: Of ``noisy``.
            noisy: x_t, what the model was given.
            timesteps: (B,), from 0.
        """
        prediction, variance = split_output(output.float(), clean.shape[1])
        error = (prediction - self.target(clean, noise, timesteps)).square().flatten(1).mean(1)
        terms = dict(mse=(error * self.weights(timesteps)).mean())
        if variance is not None:
            bound = self.bound(prediction.detach(), variance, clean, noisy, timesteps)
            terms['vb'] = bound.mean()
        return terms

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the model should predict."""
        if self.prediction == 'epsilon':
            return noise
        if self.prediction == 'sample':
            return clean
        return self.scheduler.get_velocity(clean, noise, timesteps)

    def weights(self, timesteps: Tensor) -> Tensor:
        """(B,), of the squared error."""
        if self.min_snr_gamma is None:
            return torch.ones(len(timesteps), device=timesteps.device)
        snr = compute_snr(self.scheduler, timesteps)
        over = dict(epsilon=snr, v_prediction=snr + 1, sample=torch.ones_like(snr))
        return snr.clamp(max=self.min_snr_gamma) / over[self.prediction]

    def clean_of(self, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """x_0 as predicted."""
        signal, noise = (self._at(name, timesteps, noisy) for name in ('signal', 'noise'))
        if self.prediction == 'epsilon':
            return (noisy - noise * prediction) / signal
        if self.prediction == 'sample':
            return prediction
        return signal * noisy - noise * prediction

    def bound(
        self, prediction: Tensor, variance: Tensor, clean: Tensor, noisy: Tensor, timesteps: Tensor
    ) -> Tensor:
        """(B,), the term of the variational bound of these timesteps, in bits a dimension.

        KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), and at t = 0 -log p(x_0 | x_1) of 256 levels
        in [-1, 1], as guided-diffusion's ``losses.py`` has it, also for latents.

        Args:
            prediction: (B, C, h, w); pass it detached.
            variance: (B, C, h, w), -1 for the smallest log variance, 1 for the largest.
        """
        least = self._at('least_log_variance', timesteps, clean)
        share = (variance + 1) / 2
        log_variance = share * self._at('most_log_variance', timesteps, clean) + (1 - share) * least
        of_clean, of_noisy = (self._at(n, timesteps, clean) for n in ('of_clean', 'of_noisy'))
        mean = of_clean * self.clean_of(prediction, noisy, timesteps) + of_noisy * noisy
        off = of_clean * clean + of_noisy * noisy - mean
        ratio = log_variance - least
        kl = (ratio + (-ratio).exp() + off.square() * (-log_variance).exp() - 1) / 2
        nll = -_log_likelihood(clean, mean, log_variance / 2)
        nats = torch.where(timesteps.view(-1, 1, 1, 1) == 0, nll, kl)
        return nats.flatten(1).mean(1) / math.log(2)

    def _at(self, name: str, timesteps: Tensor, like: Tensor) -> Tensor:
        """(B, 1, 1, 1) of a table."""
        table = self._tables[name].to(timesteps.device)
        return table[timesteps].to(like.dtype).view(-1, 1, 1, 1)


def split_output(output: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """A model's prediction, and its variance if it has one.

    Raises:
        ConfigError: If it has neither as many channels as the latents nor twice as many.
    """
    if output.shape[1] == channels:
        return output, None
    if output.shape[1] != 2 * channels:
        raise ConfigError(
            f'the model gives {output.shape[1]} channels for latents of {channels}: expected '
            f'{channels}, or {2 * channels} with a learned variance'
        )
    prediction, variance = output.split(channels, dim=1)
    return prediction, variance


def check_scheduler(scheduler: Any) -> None:
    """Refuse what is no DDPM of discrete timesteps.

    Raises:
        ConfigError: Naming the class or the field.
    """
    known: Any = (DDPMScheduler, DDIMScheduler)
    if not isinstance(scheduler, known):
        raise ConfigError(
            f'scheduler is {type(scheduler).__name__}: training needs the timesteps of a '
            'DDPMScheduler or DDIMScheduler (flow matching and others are not supported)'
        )
    prediction = scheduler.config.prediction_type
    if prediction not in PREDICTIONS:
        raise ConfigError(
            f'scheduler.prediction_type={prediction!r} must be one of {", ".join(PREDICTIONS)}'
        )
    if prediction == 'epsilon' and not scheduler.alphas_cumprod[-1] > 0:
        raise ConfigError(
            'scheduler.rescale_betas_zero_snr=True leaves no signal at the last timestep, of which '
            "epsilon says nothing: use prediction_type='v_prediction' or 'sample'"
        )


def _log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Of x, in steps of 2 / 255 within [-1, 1], under a Gaussian; each element's own."""
    centred, precision = x - mean, (-log_scale).exp()
    above = _normal_cdf(precision * (centred + 1 / 255))
    below = _normal_cdf(precision * (centred - 1 / 255))
    inside = torch.where(x > 0.999, 1 - below, above - below)
    return torch.where(x < -0.999, above, inside).clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    """By tanh, as guided-diffusion has it."""
    return (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
