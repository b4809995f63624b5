"""How models are called in a step: once or several times, with what, and what a step gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

Conditions = Mapping[str, Any]


def nothing(latents: Tensor) -> Conditions:
    """The draw of a pass that gives models no more than latents, timesteps and labels."""
    return {}


class Pass(NamedTuple):
    """One run of student and teacher on a batch, of which a step may have several.

    Timesteps are those of the step. Noise and dropped labels are drawn anew in every pass, and are
    the same for both models.

    Attributes:
        name: Put before the names of its terms, with an underscore; '' puts nothing.
        losses: Of this pass, where they differ from the distiller's, as in the layers they pair.
        draw: More keyword arguments of both models' calls, from latents (B, C, h, w): what models
            would else draw inside, such as the tokens that are masked.
    """

    name: str = ''
    losses: Mapping[str, Any] | None = None
    draw: Callable[[Tensor], Conditions] = nothing


class DenoisingStep(NamedTuple):
    """What a step gives.

    Attributes:
        loss: The sum, to go backward from.
        terms: What it is the sum of, for logs, detached: ``mse``, ``vb`` where the variance is
            learned, and each distillation loss with its weight, by name.
    """

    loss: Tensor
    terms: dict[str, Tensor]


def call_model(
    model: nn.Module, noisy: Tensor, timesteps: Tensor, labels: Tensor | None, **more: Any
) -> Tensor:
    """A diffusers model's output (B, C or 2 C, h, w)."""
    if labels is not None:
        more['class_labels'] = labels
    return model(noisy, timestep=timesteps, return_dict=False, **more)[0]
