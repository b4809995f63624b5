"""Squeezing-Heads Distillation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from shd_vit.errors import ConfigError
from shd_vit.functional.shd import BACKENDS, DISTANCES, shd_loss
from shd_vit.losses.base import PairedLoss
from shd_vit.merging import MERGING_STRATEGIES
from shd_vit.pairing import ModelOutput, Needs
from shd_vit.pairing.layers import check_attended_tokens
from shd_vit.pairing.tokens import TOKENS, TokenAlignment, align_tokens
from shd_vit.taps import Anatomy, select_heads


class SHDLoss(PairedLoss):
    """The student's attention maps follow the teacher's squeezed ones (arXiv 2502.07436, Eq. 11).

    ``weight * sum over layers and student heads of KL(squeezed teacher map || student map)``, where
    KL is the mean over batch and query rows. It has no weights.

    ``strategy`` and ``distance`` are for comparisons: the defaults are the paper's method.

    Args:
        weight: Weight of the loss. None is 1.0.
        temperature: Attention temperature T_a of both maps, above 0. The merging weights are
            computed from the softened maps as well.
        layers: 'uniform': student layer l of L_s learns from teacher layer ceil(l L_t / L_s), so
            that last learns from last; in hierarchical models, stage by stage. 'last': the last
            pair alone. Or a list of (student, teacher) layers, counted from 1.
        tokens: 'all': both models need the same tokens. 'shared': the prefix tokens (class,
            distillation, registers) that both have, by name, and all patches. 'patches': those
            alone. Tokens that are left out are neither queries nor keys: the maps are softmaxes
            over the keys that are kept.
        strategy: How teacher heads are merged: 'linear', 'constant', 'hard', 'head_matching',
            'simplex', or ``dict(type=name, ...)``; see :mod:`shd_vit.merging`.
        distance: 'kl', or 'mse': the squared error summed over keys, with no other change.
        compile: False is ``backend='torch'``; True, as None, leaves ``backend`` as it is.
        backend: 'auto': on a GPU by Triton kernels where they agree with plain torch and are faster
            (both is found out at the first batch of its size), the default method for float32 on a
            CPU as a C++ kernel, anything else through torch.compile, and in plain torch where no
            compiler is found. Compiling takes its time at the first batch and saves passes over the
            maps. 'torch', 'compile', 'cpp' or 'triton' insist on one of these.
        beta: The paper's name of ``weight``; one of the two may be given.
    """

    is_token_wise = False  # tokens are matched by name

    def __init__(
        self,
        weight: float | None = None,
        temperature: float = 1.0,
        layers: str | Sequence[tuple[int, int]] = 'uniform',
        tokens: str = 'all',
        strategy: str | dict = 'linear',
        distance: str = 'kl',
        compile: bool | None = None,
        backend: str = 'auto',
        beta: float | None = None,
    ) -> None:
        if weight is not None and beta is not None:
            raise ConfigError(f'SHDLoss.beta={beta} is another name of weight={weight}: give one')
        super().__init__(1.0, layers)
        name, value = ('weight', weight) if beta is None else ('beta', beta)
        self.weight = 1.0 if value is None else self.number(name, value)
        self.temperature = self.number('temperature', temperature, positive=True)
        self.tokens = self.choice('tokens', tokens, TOKENS)
        self.distance = self.choice('distance', distance, DISTANCES)
        self.choice('backend', backend, BACKENDS)
        if compile is not None and not isinstance(compile, bool):  # 0 and 1 are equal to bools
            raise ConfigError(f'SHDLoss.compile={compile!r} must be True, False or None')
        if compile is False and backend not in ('auto', 'torch'):
            raise ConfigError(f"SHDLoss.compile=False is backend='torch', not {backend!r}")
        self.backend = 'torch' if compile is False else backend
        self.strategy: Any = MERGING_STRATEGIES.build(strategy)
        self.alignment = TokenAlignment()

    @property
    def beta(self) -> float:
        """The paper's name of ``weight``."""
        return self.weight

    @beta.setter
    def beta(self, value: float) -> None:
        self.weight = value

    def bind(self, student: Anatomy, teacher: Anatomy) -> tuple[Needs, Needs]:
        super().bind(student, teacher)
        self.alignment = align_tokens(self.tokens, student, teacher, 'SHDLoss')
        heads = {(s, t): (student.heads[s - 1], teacher.heads[t - 1]) for s, t in self.pairs}
        for (s, t), (heads_s, heads_t) in heads.items():
            if heads_s > heads_t:
                raise ConfigError(
                    f'student layer {s} has {heads_s} heads, teacher layer {t} has {heads_t}: '
                    'SHDLoss squeezes heads, so the student may have as many or fewer'
                )
        self.strategy.bind(heads)
        students, teachers = zip(*self.pairs, strict=True)
        return Needs(attention=students), Needs(attention=teachers)

    @property
    def is_settled(self) -> bool:  # type: ignore[override]
        return self.strategy.is_settled

    def observe(self, teacher: ModelOutput) -> None:
        for s, t in self.pairs:
            self.strategy.observe(self.alignment.teacher.of(teacher.attention[t]), (s, t))

    def settle(self) -> None:
        self.strategy.settle()

    def total(
        self, student: ModelOutput, teacher: ModelOutput, known: Mapping[int, Tensor]
    ) -> Tensor:
        if not self.is_settled:
            raise ConfigError(
                f'{type(self.strategy).__name__} must see training images first: use '
                "DistillRunner, or call observe() with the teacher's output for some batches, then "
                'settle()'
            )
        return super().total(student, teacher, known)

    def of_pair(self, number: int, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        s, t = pair = self.pairs[number]
        learned = self.alignment.student.of(student.attention[s])
        taught = self.alignment.teacher.of(teacher.attention[t])
        check_attended_tokens(learned, taught, pair, 'SHDLoss')
        merging = self.strategy
        sizes, order = merging.groups(pair, (learned.q.shape[1], taught.q.shape[1]))
        if order is not None:
            taught = select_heads(taught, order)
        v, out_proj = (taught.v, taught.out_proj) if merging.uses_values else (None, None)
        return shd_loss(
            learned.q, learned.k, taught.q, taught.k, v, out_proj, learned.scale, taught.scale,
            self.temperature, sizes=sizes, weigh=merging.weigh, distance=self.distance,
            bias=learned.bias, teacher_bias=taught.bias, mask=learned.mask,
            teacher_mask=taught.mask, backend=self.backend,
        )  # fmt: skip

    def extra_repr(self) -> str:
        pairs = ', '.join(f'{s}<-{t}' for s, t in self.pairs) or self.layers
        prefix = self.alignment.prefix
        tokens = f' ({", ".join([*prefix, "patches"])})' if prefix is not None else ''
        return (
            f'weight={self.weight}, temperature={self.temperature}, distance={self.distance}, '
            f'strategy={type(self.strategy).__name__}, '
            f'tokens={self.tokens}{tokens}, '
            f'backend={self.backend}, '
            f'layers: {pairs}'
        )
