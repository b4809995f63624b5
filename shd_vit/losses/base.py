"""What every distillation loss takes, how it says what it needs, and what paired losses share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from shd_vit.errors import ConfigError
from shd_vit.pairing import ModelOutput, Needs, Pairs, check_layers, layer_pairs, same_prefix
from shd_vit.taps import Anatomy, TokenTap


class DistillationLoss(nn.Module):
    """Base of all distillation losses: hyper-parameters and weights, one scalar per batch.

    A loss is bound to its pair of models once, before the first batch, and then called with the
    same three arguments as all others.

    Attributes:
        weight: The factor that the loss includes, so that logs can also show it without.
        is_settled: False if the loss has to see training images before training: then
            ``observe`` is called with batches of the teacher's output, and ``settle`` at the end.
    """

    weight: float = 1.0
    is_settled: bool = True

    def bind(self, student: Anatomy, teacher: Anatomy) -> tuple[Needs, Needs]:
        """Check that this pair can be distilled; say what to record of student and teacher.

        Raises:
            ConfigError: Naming the field, its value and what is allowed.
        """
        return Needs(), Needs()

    def observe(self, teacher: ModelOutput) -> None:
        """Take in what the teacher makes of a batch of training images."""

    def settle(self) -> None:
        """Fix what depends on the images that were observed."""

    def forward(self, student: ModelOutput, teacher: ModelOutput, target: Tensor) -> Tensor:
        """The weighted loss, a scalar.

        Args:
            student: With gradients.
            teacher: Without.
            target: (B,) class indices or (B, classes) mixed scores.
        """
        raise NotImplementedError(f'{type(self).__name__} must define forward()')


class PairedLoss(DistillationLoss):
    """A loss that sums over pairs of a student and a teacher layer.

    Args:
        weight: Weight of the loss, 0 or above.
        layers: 'uniform', 'last' or a list of (student, teacher) layers, counted from 1, as in
            :func:`layer_pairs`.

    Attributes:
        is_token_wise: Whether tokens are compared one by one, so that both models need the same.
    """

    is_token_wise = True

    def __init__(self, weight: float, layers: str | Sequence[tuple[int, int]]) -> None:
        super().__init__()
        name = type(self).__name__
        if not (isinstance(weight, (int, float)) and math.isfinite(weight) and weight >= 0):
            raise ConfigError(f'{name}.weight={weight!r} must be a finite number, not negative')
        check_layers(layers, name)
        self.weight = weight
        self.layers = layers
        self.pairs: Pairs = []

    def bind(self, student: Anatomy, teacher: Anatomy) -> tuple[Needs, Needs]:
        """The outputs of the blocks of each pair."""
        name = type(self).__name__
        self.pairs = layer_pairs(self.layers, student, teacher, name)
        if self.is_token_wise:
            same_prefix(student, teacher, name)
        students, teachers = zip(*self.pairs, strict=True)
        return Needs(tokens=students), Needs(tokens=teachers)

    def extra_repr(self) -> str:
        pairs = ', '.join(f'{s}<-{t}' for s, t in self.pairs) or self.layers
        return f'weight={self.weight}, layers: {pairs}'


class ProjectedLoss(PairedLoss):
    """A paired loss with a projector for every pair.

    Only :meth:`bind` knows how many pairs there are, so it builds the projectors; binding comes
    before the optimiser is built and before checkpoints are loaded.

    Args:
        student_dims: Width of the student.
        teacher_dims: Width of the teacher.
        weight: As in :class:`PairedLoss`.
        layers: As in :class:`PairedLoss`.
    """

    def __init__(
        self,
        student_dims: int,
        teacher_dims: int,
        weight: float,
        layers: str | Sequence[tuple[int, int]],
    ) -> None:
        super().__init__(weight, layers)
        self.student_dims = student_dims
        self.teacher_dims = teacher_dims
        self.projectors = nn.ModuleList()

    def make_projector(self) -> nn.Module:
        """From the student's width to the teacher's."""
        raise NotImplementedError(f'{type(self).__name__} must define make_projector()')

    def bind(self, student: Anatomy, teacher: Anatomy) -> tuple[Needs, Needs]:
        needs = super().bind(student, teacher)
        check_dims(self, student, teacher)
        self.projectors = nn.ModuleList(self.make_projector() for _ in self.pairs)
        return needs


def check_dims(loss: DistillationLoss, student: Anatomy, teacher: Anatomy) -> None:
    """Refuse a loss whose ``student_dims`` and ``teacher_dims`` are not the models' widths.

    Raises:
        ConfigError: Naming the field and the width.
    """
    for model, dims in ((student, loss.student_dims), (teacher, loss.teacher_dims)):
        if dims != model.dim:
            raise ConfigError(
                f'{type(loss).__name__}.{model.role}_dims={dims}, but the {model.role} is '
                f'{model.dim} wide'
            )


def check_tokens(student: TokenTap, teacher: TokenTap, loss: str) -> None:
    """Refuse models whose tokens cannot be compared one by one.

    Raises:
        ConfigError: If the models have different numbers of prefix or patch tokens.
    """
    prefix_s, prefix_t = student.num_prefix, teacher.num_prefix
    patches_s, patches_t = student.x.shape[1] - prefix_s, teacher.x.shape[1] - prefix_t
    if (prefix_s, patches_s) != (prefix_t, patches_t):
        raise ConfigError(
            f'student has {prefix_s} prefix and {patches_s} patch tokens, teacher {prefix_t} and '
            f'{patches_t}: {loss} needs equal numbers (image size, patch size, prefix tokens)'
        )
