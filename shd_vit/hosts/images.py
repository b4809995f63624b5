"""What hosts of image models share: how a batch for the student becomes the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shd_vit.errors import ConfigError
from shd_vit.image_input import checked_size, first_convolution, fixed_size


class Normalisation(NamedTuple):
    """How a model wants its images.

    Attributes:
        mean: A channel, in the order of the model's channels; one number for all of them.
        std: The same.
        is_rgb: Whether its channels are red, green, blue, and not the reverse.
    """

    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)
    is_rgb: bool = True


class TeacherImages:
    """From images (B, C, h, w) as the student sees them to those that the teacher wants.

    They are resized (antialiased bicubic), their channels put in order, renormalised, and cast to
    the type of the teacher's weights, if it is in half precision.

    Args:
        student: How the images are normalised.
        teacher: How the teacher wants them.
        size: Height and width for the teacher, or one number for both; None leaves them.

    Raises:
        ConfigError: If ``size`` is no size.
    """

    def __init__(
        self,
        student: Normalisation = Normalisation(),  # noqa: B008  (immutable)
        teacher: Normalisation = Normalisation(),  # noqa: B008
        size: int | Sequence[int] | None = None,
    ) -> None:
        self.student, self.teacher = student, teacher
        self.swaps_channels = student.is_rgb != teacher.is_rgb
        self.renormalise = _renormalisation(student, teacher, self.swaps_channels)
        self.size = None if size is None else checked_size(size)
        self._seen: set[tuple[int, ...]] = set()

    def __call__(self, images: Tensor, teacher: nn.Module) -> Tensor:
        """The teacher's images.

        Raises:
            ConfigError: If the teacher takes another size alone.
        """
        if self.size is not None and images.shape[-2:] != self.size:
            images = F.interpolate(images, self.size, mode='bicubic', antialias=True)
        size = images.shape[-2], images.shape[-1]
        if size not in self._seen:
            _refuse_size(fixed_size(teacher), size, 'the images are')
            self._seen.add(size)
        if self.swaps_channels:
            images = images.flip(1)
        if self.renormalise is not None:
            factor, offset = (t.to(images.device, images.dtype) for t in self.renormalise)
            images = images * factor + offset
        first = first_convolution(teacher)
        is_half = first is not None and first.weight.dtype.itemsize == 2
        return images.to(first.weight.dtype) if is_half else images

    def keep_channels(self) -> None:
        """Take it that the images come in the teacher's order of channels already."""
        self.swaps_channels = False
        self.renormalise = _renormalisation(self.student, self.teacher, False)

    def __str__(self) -> str:
        steps = []
        if self.size is not None:
            steps.append('resized to {} x {}'.format(*self.size))
        if self.swaps_channels:
            steps.append('red and blue swapped')
        if self.renormalise is not None:
            steps.append(f'renormalised to mean {self._shown(0)}, std {self._shown(1)}')
        return ', '.join(steps) or "as the student's"

    def _shown(self, field: int) -> str:
        values: Any = self.teacher[field]
        return ' '.join(f'{value:g}' for value in values)

    def check(self, student: nn.Module, teacher: nn.Module) -> None:
        """Refuse what is known to fail before there is a batch.

        Raises:
            ConfigError: If the models read other channels, or sizes that differ.
        """
        read, wanted = first_convolution(student), first_convolution(teacher)
        if read and wanted and read.in_channels != wanted.in_channels:
            raise ConfigError(
                f'the student reads images of {read.in_channels} channels, the teacher of '
                f'{wanted.in_channels}'
            )
        given = self.size or fixed_size(student)
        if given is not None:
            _refuse_size(fixed_size(teacher), given, 'it would get')


def _refuse_size(wanted: tuple[int, int] | None, given: tuple[int, int], how: str) -> None:
    if wanted is not None and wanted != given:
        (h, w), (given_h, given_w) = wanted, given
        hint = f'{h}' if h == w else f'({h}, {w})'
        raise ConfigError(
            f'the teacher takes images of {h} x {w} alone, but {how} {given_h} x {given_w}: '
            f"resize them for it with the teacher's image_size={hint}"
        )


def _renormalisation(
    student: Normalisation, teacher: Normalisation, swaps_channels: bool
) -> tuple[Tensor, Tensor] | None:
    """(factor, offset) from the student's mean and std to the teacher's; None if they are equal."""
    mean_s, std_s, mean_t, std_t = (
        torch.tensor(values, dtype=torch.float64).view(-1, 1, 1)
        for values in (student.mean, student.std, teacher.mean, teacher.std)
    )
    if swaps_channels:
        mean_s, std_s = mean_s.flip(0), std_s.flip(0)
    factor, offset = std_s / std_t, (mean_s - mean_t) / std_t
    if torch.allclose(factor, torch.ones_like(factor)) and torch.allclose(
        offset, torch.zeros_like(offset)
    ):
        return None
    return factor, offset
