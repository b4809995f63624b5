"""A distillation step: the order of events, the same in every host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from shd_vit.distillation.passing import Distances, PassingPairs, View
from shd_vit.distillation.schedule import LossSchedule, LossSchedules
from shd_vit.distillation.teacher import FrozenTeacher
from shd_vit.errors import ConfigError, NonFiniteLoss
from shd_vit.losses import DistillationLoss
from shd_vit.pairing import ModelOutput, Needs
from shd_vit.taps import Anatomy, TapBank


def _as_it_is(output: ModelOutput) -> ModelOutput:
    return output


class Distillation:
    """Losses between a student and a teacher. A host calls the models, and sums and steps::

        d = Distillation(dict(shd=SHDLoss(), nkd=NKDLoss()), student, teacher)
        learned = d.record_student(student, images)
        terms = d.teach(learned, labels, teacher, images)
        (own_loss(learned.logits, labels) + sum(terms.values())).backward()

    Where somebody else calls both models, it listens::

        with d.listening():
            own_loss = trainer.compute_loss(...)
        terms = d.terms(*d.heard(student_logits, teacher_logits), labels)

    Constructing it binds the losses to the pair, freezes the teacher and installs taps on both
    models. Student and ``losses`` are what is trained, saved and averaged; the teacher is neither.

    Args:
        losses: By name.
        student: The model that learns.
        teacher: The model that it learns from.
        schedules: Of the losses' weights, by name; others keep theirs.

    Raises:
        ConfigError: If the pair cannot be distilled with one of the losses.
        UnsupportedAttention: If a loss needs attention that cannot be tapped.
    """

    def __init__(
        self,
        losses: Mapping[str, DistillationLoss],
        student: nn.Module,
        teacher: nn.Module,
        schedules: Mapping[str, LossSchedule] | None = None,
    ) -> None:
        _refuse_shared(student, teacher)
        anatomies = Anatomy(student, 'student'), Anatomy(teacher, 'teacher')
        needs = {name: loss.bind(*anatomies) for name, loss in losses.items()}
        self.logit_losses = [name for name, (of_student, _) in needs.items() if of_student.logits]
        if self.logit_losses:
            _refuse_other_classes(student, teacher, self.logit_losses[0])
        self._passing = PassingPairs(losses, {name: n for name, (_, n) in needs.items()})
        self.losses = nn.ModuleDict(losses)
        self.schedules = LossSchedules(dict(schedules or {}))
        self.student_bank = _bank(anatomies[0], [n for n, _ in needs.values()])
        self.teacher = FrozenTeacher(teacher, _bank(anatomies[1], [n for _, n in needs.values()]))

    @property
    def is_over(self) -> bool:
        """Whether no loss will count any more, so that the teacher need not be run."""
        return all(self.schedules.is_over(name) for name in self.losses)

    def record_student(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> ModelOutput:
        """Run the student, by a call that gives its logits."""
        self.schedules.check_is_set()
        return ModelOutput.of(self.student_bank, call, *args, **kwargs)

    def teach(
        self,
        student: ModelOutput,
        target: Any,
        call: Callable[..., Any],
        *args: Any,
        view: View = _as_it_is,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """Run the teacher, if a loss still counts: every loss, as of :meth:`terms`.

        Losses on maps alone count a pair when the teacher's layer has run, whose queries, keys and
        values are then let go: not those of all layers are in memory.

        Args:
            student: With gradients.
            target: (R,) class indices or (R, C) scores; None where no loss reads it.
            call: Gives the teacher's logits of the other arguments.
            view: What losses are to see of what the teacher left, all of it or one layer.
        """
        self.schedules.check_is_set()
        if self.is_over:
            return self.terms(student, None, target)
        counting = {n: loss for n, loss in self.losses.items() if not self.schedules.is_over(n)}
        distances: Distances = {}
        readers = self._passing.readers(counting, student, view, distances)
        teacher = view(self.teacher.read(readers, call, *args, **kwargs))
        return self._terms(student, teacher, target, distances)

    def record_teacher(
        self, call: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> ModelOutput | None:
        """Run the teacher before the student, by a call that gives its logits; or None, if over."""
        self.schedules.check_is_set()
        return None if self.is_over else self.teacher(call, *args, **kwargs)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, both models are recorded while a host calls them, once each."""
        self.schedules.check_is_set()
        with self.student_bank.record(), self.teacher.bank.record():
            yield

    def heard(
        self, student_logits: Any = None, teacher_logits: Any = None
    ) -> tuple[ModelOutput, ModelOutput]:
        """What :meth:`listening` has recorded, with logits (R, C) if a loss reads them."""
        return (
            ModelOutput.recorded(self.student_bank, student_logits),
            ModelOutput.recorded(self.teacher.bank, teacher_logits),
        )

    def terms(
        self, student: ModelOutput, teacher: ModelOutput | None, target: Any
    ) -> dict[str, Tensor]:
        """Every loss with its weight and schedule, a scalar each.

        Args:
            student: With gradients.
            teacher: Without; None if all is over.
            target: (R,) class indices or (R, C) scores; None where no loss reads it.
        """
        return self._terms(student, teacher, target, {})

    def _terms(
        self, student: ModelOutput, teacher: ModelOutput | None, target: Any, passed: Distances
    ) -> dict[str, Tensor]:
        """The terms, given the distances of pairs that were counted before."""
        loss: Any
        terms = {}
        for name, loss in self.losses.items():
            if self.schedules.is_over(name):
                terms[name] = _zero(loss, student)
                continue
            if teacher is None:
                raise ValueError(f'{name} is not over: it needs the output of the teacher')
            known = passed.get(name)
            value = loss.total(student, teacher, known) if known else loss(student, teacher, target)
            terms[name] = self.schedules(name, value)
        return terms

    def settle(self, outputs: Iterable[ModelOutput]) -> None:
        """Show the teacher's output on training images to the losses that ask for it, once.

        Args:
            outputs: Batch by batch; not touched if no loss asks.
        """
        asking: list[Any] = [loss for loss in self.losses.values() if not loss.is_settled]
        if not asking:
            return
        for output in outputs:
            for loss in asking:
                loss.observe(output)
        for loss in asking:
            loss.settle()


class Trainable(nn.Module):
    """A student and its losses: all that is trained, in one forward for DDP.

    Args:
        student: The model to train, as it is called (compiled or not).
        distillation: Of that student.
    """

    def __init__(self, student: nn.Module, distillation: Distillation) -> None:
        super().__init__()
        self.student = student
        self.losses = distillation.losses
        self.schedules = distillation.schedules
        self.distillation = distillation

    def forward(
        self, inputs: Any, teacher: ModelOutput | Callable[[Any], Any] | None, target: Any
    ) -> tuple[Any, dict[str, Tensor]]:
        """The student's logits of ``inputs``, and each loss, weighted.

        Args:
            inputs: Of the student.
            teacher: A call that gives its logits of ``inputs``, for :meth:`Distillation.teach`; or
                what it left (None if all is over), as a module that is compiled needs it.
            target: As there.
        """
        d = self.distillation
        student = d.record_student(self.student, inputs)
        if callable(teacher):
            return student.logits, d.teach(student, target, teacher, inputs)
        return student.logits, d.terms(student, teacher, target)


def refuse_non_finite(total: Tensor, terms: Mapping[str, Tensor]) -> None:
    """Stop before a step that would ruin the student.

    Args:
        total: What would be gone backward from.
        terms: What it is the sum of, by the names that logs have for them.

    Raises:
        NonFiniteLoss: Naming the terms that are not finite.
    """
    if torch.isfinite(total):
        return
    bad = ', '.join(f'{name}={x.item()}' for name, x in terms.items() if not x.isfinite().all())
    raise NonFiniteLoss(
        f'{bad or "the sum of losses"} is not finite; the step was not taken. Lower the learning '
        'rate or the weight of that loss, or clip gradients'
    )


def _bank(anatomy: Anatomy, needs: list[Needs]) -> TapBank:
    """Taps on what any loss needs of a model."""
    layers = sorted({layer for need in needs for layer in need.attention})
    tokens = dict.fromkeys(token for need in needs for token in need.tokens)
    # Heads are merged by what the teacher's output projection makes of them; a student's is not
    # read, and may be sharded.
    out_proj = anatomy.role == 'teacher'
    return TapBank(anatomy, layers, tokens=list(tokens), out_proj=out_proj)


def _zero(loss: nn.Module, student: ModelOutput) -> Tensor:
    """0, of which the loss's parameters have the gradient 0: DDP waits for every gradient."""
    nothing: Any = [parameter.flatten()[:0].sum() for parameter in loss.parameters()]
    device = student.logits.device if isinstance(student.logits, Tensor) else None
    return sum(nothing, start=torch.zeros((), device=device))


def _refuse_shared(student: nn.Module, teacher: nn.Module) -> None:
    """Refuse models that have weights in common: freezing the teacher would freeze them.

    Raises:
        ConfigError: Naming the first.
    """
    taught = {id(p): name for name, p in teacher.named_parameters(remove_duplicate=False)}
    for name, parameter in student.named_parameters():
        if id(parameter) in taught:
            raise ConfigError(
                f'{name!r} of the student is also {taught[id(parameter)]!r} of the teacher, which '
                'is frozen: give the teacher a copy (copy.deepcopy)'
            )


def _refuse_other_classes(student: nn.Module, teacher: nn.Module, loss: str) -> None:
    """Refuse models that state different numbers of classes, for a loss on logits.

    Raises:
        ConfigError: Naming both.
    """
    learned, taught = num_classes(student), num_classes(teacher)
    if taught == 0 or (None not in (learned, taught) and learned != taught):
        raise ConfigError(
            f'the student has {learned} classes, the teacher {taught or "no classifier"}: '
            f'{loss} compares logits, so both need the same classes'
        )


def num_classes(model: nn.Module) -> int | None:
    """How many classes a classifier states, 0 if it has no classifier; None if it does not say."""
    owner: Any
    for owner in (model, getattr(model, 'model', None), getattr(model, 'head', None)):
        if 'Classification' in type(owner).__name__:  # of transformers; others state a default
            return owner.config.num_labels
        count = getattr(owner, 'num_classes', None)
        if isinstance(count, int):
            return count
    return 0 if getattr(model, 'head', 0) is None else None
