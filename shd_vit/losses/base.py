"""What every distillation loss takes, how it says what it needs, and what paired losses share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from shd_vit.errors import ConfigError, check_number
from shd_vit.pairing import ModelOutput, Needs, Pairs, check_layers, layer_pairs, same_prefix
from shd_vit.taps import Anatomy

Layers = str | Sequence[tuple[int, int]]
WIDTH = dict(positive=True, whole=True, optional=True)  # what student_dims and teacher_dims may be


class DistillationLoss(nn.Module):
    """Base of all distillation losses: hyper-parameters and weights, one scalar per batch.

    A loss is bound to its pair of models once, before the first batch, and then called with the
    same three arguments as all others.

    Attributes:
        weight: The factor that the loss includes, so that logs can also show it without.
        mean_over: What it is a mean over: 'tokens' that count, 'rows' of logits, or 'sequences',
            the inputs of a batch. So hosts weigh batches of different sizes that make one step.
        is_settled: False if the loss has to see training images before training: then
            ``observe`` is called with batches of the teacher's output, and ``settle`` at the end.
    """

    weight: float = 1.0
    mean_over: str = 'tokens'
    is_settled: bool = True

    def number(self, field: str, value: object, **allowed: Any) -> Any:
        """A hyper-parameter of this loss, checked by :func:`shd_vit.errors.check_number`."""
        return check_number(f'{type(self).__name__}.{field}', value, **allowed)

    def choice(self, field: str, value: Any, allowed: Iterable[object]) -> Any:
        """A hyper-parameter that is one of a few; ConfigError if it is none."""
        allowed = tuple(allowed)
        if value not in allowed:
            names = ', '.join(map(repr, allowed))
            raise ConfigError(f'{type(self).__name__}.{field}={value!r} must be one of {names}')
        return value

    def bind(self, student: Anatomy, teacher: Anatomy) -> tuple[Needs, Needs]:
        """Check that this pair can be distilled; say what to record of student and teacher.

        Weights that depend on the pair are made here: it comes before the optimiser is built and
        before checkpoints are loaded.

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
            target: For logits (R, C): class indices (R,) or mixed scores (R, C).
        """
        raise NotImplementedError(f'{type(self).__name__} must define forward()')

    def extra_repr(self) -> str:
        return f'weight={self.weight}'


class PairedLoss(DistillationLoss):
    """A loss that sums over pairs of a student and a teacher layer.

    Args:
        weight: Weight of the loss, finite and not negative.
        layers: 'uniform', 'last' or a list of (student, teacher) layers, counted from 1, as in
            :func:`layer_pairs`.

    Attributes:
        is_token_wise: Whether tokens are compared one by one, so that both models need the same.
    """

    is_token_wise = True

    def __init__(self, weight: float, layers: Layers) -> None:
        super().__init__()
        self.weight = self.number('weight', weight)
        check_layers(layers, type(self).__name__)
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

    def forward(self, student: ModelOutput, teacher: ModelOutput, target: Tensor) -> Tensor:
        if not self.pairs:
            raise unbound(self)
        return self.total(student, teacher, {})

    def total(
        self, student: ModelOutput, teacher: ModelOutput, known: Mapping[int, Tensor]
    ) -> Tensor:
        """The weighted sum over pairs, some of whose distances may be known."""
        total: Any = sum(
            known[n] if n in known else self.of_pair(n, student, teacher)
            for n in range(len(self.pairs))
        )
        return self.weight * total

    def of_pair(self, number: int, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        """The distance, without weight, of pair ``number`` (from 0) of ``pairs``: a scalar."""
        raise NotImplementedError(f'{type(self).__name__} must define of_pair()')

    def extra_repr(self) -> str:
        pairs = ', '.join(f'{s}<-{t}' for s, t in self.pairs) or self.layers
        return f'{super().extra_repr()}, layers: {pairs}'


class ProjectedLoss(PairedLoss):
    """A paired loss with a projector for every pair, from the student's width to the teacher's.

    Args:
        student_dims: Width of the student. None takes it from the model.
        teacher_dims: Width of the teacher. None takes it from the model.
        weight: As in :class:`PairedLoss`.
        layers: As in :class:`PairedLoss`.
    """

    def __init__(
        self, student_dims: int | None, teacher_dims: int | None, weight: float, layers: Layers
    ) -> None:
        super().__init__(weight, layers)
        self.student_dims = self.number('student_dims', student_dims, **WIDTH)
        self.teacher_dims = self.number('teacher_dims', teacher_dims, **WIDTH)
        self.projectors = nn.ModuleList()

    def make_projector(self, student_dims: int, teacher_dims: int) -> nn.Module:
        """The projector of one pair."""
        raise NotImplementedError(f'{type(self).__name__} must define make_projector()')

    def bind(self, student: Anatomy, teacher: Anatomy) -> tuple[Needs, Needs]:
        needs = super().bind(student, teacher)
        dims = learned_dims(self, student, teacher)
        self.projectors = nn.ModuleList(self.make_projector(*dims) for _ in self.pairs)
        return needs


def learned_dims(loss: DistillationLoss, student: Anatomy, teacher: Anatomy) -> tuple[int, int]:
    """The widths of both models, for a loss that has ``student_dims`` and ``teacher_dims``.

    Raises:
        ConfigError: If one of these is neither None nor the model's, naming both.
    """
    for model in (student, teacher):
        stated = getattr(loss, f'{model.role}_dims')
        if stated not in (None, model.dim):
            raise ConfigError(
                f'{type(loss).__name__}.{model.role}_dims={stated}, but the {model.role} is '
                f'{model.dim} wide'
            )
    return student.dim, teacher.dim


def unbound(loss: DistillationLoss) -> ConfigError:
    """The error of a loss that was called before it knows its models."""
    return ConfigError(f'{type(loss).__name__} is not bound: call bind(student, teacher) first')
