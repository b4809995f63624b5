"""Distillation terms in the loss of any Trainer of transformers, TRL's included."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, has_length

from shd_vit.distillation import Distillation, FrozenTeacher, read_schedule, refuse_non_finite
from shd_vit.distillation.registry import LOSSES
from shd_vit.errors import ConfigError, check_number
from shd_vit.hosts.transformers.batch import (
    MEANS,
    Predictions,
    counts,
    forward_names,
    give_positions,
    teacher_inputs,
)
from shd_vit.hosts.transformers.checks import (
    check_model,
    check_names,
    check_trainer,
    common_vocabulary,
)
from shd_vit.hosts.transformers.outputs import OutputTap
from shd_vit.hosts.transformers.progress import DistillationCallback
from shd_vit.losses import DistillationLoss
from shd_vit.pairing import ModelOutput
from shd_vit.taps import Anatomy, TapBank

Host: Any = Trainer if TYPE_CHECKING else object


class DistillMixin(Host):
    """Adds distillation terms to the loss of a Trainer, before which it stands::

        class DistillSFTTrainer(DistillMixin, SFTTrainer): ...

    The loss is ``task_loss_weight * the trainer's own + sum of terms``. Each term is in the log
    under its name, the trainer's own loss as ``task_loss``. Evaluation, generation and saving are
    the student's alone, as without terms.

    Of batches that are accumulated, or spread over processes, each term has the gradient of the
    joint batch wherever it is a mean over tokens, predictions or sequences, as the trainer's own.

    Args:
        args: Of the trainer.
        teachers: The model to learn from, or several: the logits of several are averaged. Frozen,
            in eval mode, moved to the student's device, not saved. None: the trainer has a teacher
            and calls it, as TRL's ``GKDTrainer``: then both models are listened to.
        losses: By name: ``dict(shd=True)``, ``dict(shd=dict(beta=2.0))``, a name's settings;
            ``dict(soft=dict(type='KDLoss', temperature=2.0))``; or a loss.
        schedules: Of weights, by name: ``dict(shd=dict(warm_up=1, stop=4))``, in epochs.
        task_loss_weight: Of the trainer's own loss.
        attention_teacher: Which of several teachers, from 0, gives maps and hidden states.
        teacher_tokenizers: Of the teachers, to hold against the student's: of each, or one of all.
        kwargs: Of the trainer.

    Raises:
        ConfigError: If the pair, or the way it is trained, cannot be distilled.
        UnsupportedAttention: If a loss needs attention that cannot be tapped.
    """

    def __init__(
        self,
        *args: Any,
        teachers: nn.Module | Sequence[nn.Module] | None = None,
        losses: Mapping[str, Any],
        schedules: Mapping[str, dict[str, float]] | None = None,
        task_loss_weight: float = 1.0,
        attention_teacher: int = 0,
        teacher_tokenizers: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.is_listening = teachers is None
        given = self._teachers_of_host() if teachers is None else _listed(teachers)
        check_names(list(losses), list(schedules or ()))
        self.task_loss_weight = check_number('task_loss_weight', task_loss_weight)
        planned = {n: read_schedule(cfg, f'schedules.{n}') for n, cfg in (schedules or {}).items()}
        if planned and self.train_dataset is not None and not has_length(self.train_dataset):
            raise ConfigError(
                f'schedules.{next(iter(planned))} counts epochs, but train_dataset has no length'
            )
        if not 0 <= attention_teacher < len(given):
            raise ConfigError(
                f'attention_teacher={attention_teacher!r} must be between 0 and {len(given) - 1}'
            )

        self.vocabulary = self._check_models(given, teacher_tokenizers)
        first, *others = (
            given[attention_teacher],
            *given[:attention_teacher],
            *given[attention_teacher + 1 :],
        )
        built = {name: build_loss(name, loss) for name, loss in losses.items()}
        self.distillation = d = Distillation(built, self.model, first, planned)
        d.losses.to(self.args.device)
        d.schedules.to(self.args.device)
        banks = d.student_bank, d.teacher.bank
        check_trainer(self, any(bank.layers or bank.tokens for bank in banks))
        self.other_teachers = [FrozenTeacher(m, TapBank(Anatomy(m), [])) for m in others]
        self.outputs = [
            OutputTap(self.model, 'student', is_learning=True),
            OutputTap(first, 'teacher', is_learning=False),
        ]
        self._callback = DistillationCallback(d)
        self.add_callback(self._callback)
        self._log = TermLog(self)
        self._joint: Tensor | None = None
        self._teachers_own: dict[str, Any] = {}

    def _teachers_of_host(self) -> list[nn.Module]:
        """The teacher of a trainer that has one and calls it."""
        teacher = getattr(self, 'teacher_model', None)
        if teacher is None:
            raise ConfigError(
                f'teachers=None: {type(self).__name__} has no teacher of its own; give teachers'
            )
        return [self.accelerator.unwrap_model(teacher)]

    def _check_models(self, teachers: list[nn.Module], tokenizers: Any) -> int | None:
        """Check and place the models; returns how many tokens all have in common."""
        if not self.is_listening and getattr(self, 'teacher_model', None) is not None:
            raise ConfigError(
                f'{type(self).__name__} has a teacher and calls it: leave teachers out, and it is '
                'listened to'
            )
        device, least = self.args.device, []
        check_model(self.model, 'student', device)
        is_one = not isinstance(tokenizers, (list, tuple))
        theirs = [tokenizers] * len(teachers) if is_one else tokenizers
        if len(theirs) != len(teachers):
            raise ConfigError(
                f'teacher_tokenizers has {len(theirs)} entries, teachers {len(teachers)}: give one '
                'of each, or one of all'
            )
        for teacher, tokenizer in zip(teachers, theirs, strict=True):
            check_model(teacher, 'teacher', device)
            ours = getattr(self, 'processing_class', None)
            least.append(common_vocabulary(self.model, teacher, ours, tokenizer))
            if not getattr(teacher, 'hf_device_map', None):
                teacher.to(device)
        for model in (self.model, *teachers):
            give_positions(model)
        return min((n for n in least if n is not None), default=None)

    @property
    def teachers(self) -> list[nn.Module]:
        """The teachers; the first gives maps and hidden states."""
        if not hasattr(self, 'other_teachers'):
            return []  # while the trainer is being built
        return [t.model for t in (self.distillation.teacher, *self.other_teachers)]

    def settle(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Show training batches to the losses that ask for it (SHD's ``head_matching``), once.

        Args:
            batches: Of a data loader; not touched if no loss asks.
        """
        teacher, move = self.distillation.teacher, super()._prepare_inputs
        self.distillation.settle(
            teacher(self._call, teacher.model, move(dict(batch)), None) for batch in batches
        )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The trainer's own loss; in training, weighted, with all terms added.

        Raises:
            NonFiniteLoss: Naming the terms that are not finite.
        """
        kwargs: dict[str, Any] = dict(
            return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
        )
        if not torch.is_grad_enabled():
            return super().compute_loss(model, inputs, **kwargs)
        batch, d = {**inputs, **self._teachers_own}, self.distillation
        self._teachers_own = {}
        rows = Predictions.of(batch, self._loss_shifts_labels) if d.logit_losses else None
        student, teacher = self.outputs
        taught: ModelOutput | None
        if self.is_listening:
            with d.listening(), student.listening(), teacher.listening():
                result = super().compute_loss(model, inputs, **kwargs)
            learned, taught = d.heard(
                *(self._rows(tap.logits(), rows, tap.role) for tap in self.outputs)
            )
        else:
            with self.accelerator.autocast():
                taught = d.record_teacher(self._teach, batch, rows)
            # A trainer may run the student once more, without gradients, for its metrics.
            with d.student_bank.record(first=True), student.listening():
                result = super().compute_loss(model, inputs, **kwargs)
            logits = self._rows(student.logits(), rows, 'student')
            learned = ModelOutput.recorded(d.student_bank, logits)
        if rows is not None:
            learned = learned._replace(sequences=len(rows.rows))
        terms = d.terms(learned, taught, None if rows is None else rows.target)
        own = result[0] if return_outputs else result
        total = self._total(own, terms, batch, num_items_in_batch)
        return (total, result[1]) if return_outputs else total

    def _total(
        self, own: Tensor, terms: dict[str, Tensor], batch: dict[str, Any], num_items: Any
    ) -> Tensor:
        """The weighted sum, scaled as Trainer expects it, and logged."""
        steps = 1 if self._is_scaled(num_items) else self._accumulated
        shares = self._shares(batch)
        parts = {'task_loss': self.task_loss_weight * own}
        for name, term in terms.items():
            loss: Any = self.distillation.losses[name]
            parts[name] = term * (shares[loss.mean_over] * steps)
        total: Any = sum(parts.values())
        refuse_non_finite(total, {'task_loss': own, **terms})
        self._log.add({name: part.detach() / steps for name, part in parts.items()})
        return total

    def _shares(self, batch: dict[str, Any]) -> dict[str, float]:
        """Which part of the joint batch this is, for each kind of mean.

        Times the processes whose gradients are averaged; their own parts sum to 1.
        """
        if self.is_listening or self._joint is None:
            return dict.fromkeys(MEANS, 1 / self._accumulated)
        part = counts(batch, self._loss_shifts_labels) / self._joint.clamp(min=1)
        processes = self.args.world_size if self.args.average_tokens_across_devices else 1
        return dict(zip(MEANS, (part * processes).tolist(), strict=True))

    @property
    def _accumulated(self) -> int:
        """Batches of this step; 1 before any."""
        return getattr(self, 'current_gradient_accumulation_steps', 1)

    def _is_scaled(self, num_items: Any) -> bool:
        """Whether Trainer takes the loss as it is, instead of dividing by the accumulated steps."""
        if self.loss_is_scaled_for_ga is not None:
            return self.loss_is_scaled_for_ga
        by_model = self.model_accepts_loss_kwargs and num_items is not None
        return by_model or self.compute_loss_func is not None

    def _teach(self, batch: dict[str, Any], rows: Predictions | None) -> Tensor | None:
        """Run the teachers: the mean of their logits (R, C), if a loss reads them."""
        logits = [self._call(self.distillation.teacher.model, batch, rows)]
        if rows is None:
            return logits[0]
        for other in self.other_teachers:
            logits.append(other(self._call, other.model, batch, rows).logits)
        return logits[0] if len(logits) == 1 else torch.stack([x.float() for x in logits]).mean(0)

    def _call(self, teacher: nn.Module, batch: dict[str, Any], rows: Predictions | None) -> Any:
        output = teacher(**teacher_inputs(teacher, batch, wants_logits=rows is not None))
        return self._rows(getattr(output, 'logits', None), rows, 'teacher')

    def _rows(self, logits: Any, rows: Predictions | None, role: str) -> Any:
        """(R, C): predictions whose label counts, of the tokens that all models have."""
        return None if rows is None else rows.logits(logits, role)[:, : self.vocabulary]

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """Trainer's batches of one step; what counts in all of them is counted."""
        samples, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not self.is_listening and samples:
            joint: Any = sum(counts(batch, self._loss_shifts_labels) for batch in samples)
            if self.args.average_tokens_across_devices and self.args.world_size > 1:
                joint = self.accelerator.gather(joint.to(device).view(1, -1)).sum(0).cpu()
            self._joint = joint
        return samples, num_items

    def _set_signature_columns_if_needed(self) -> None:
        """Keep the columns that a teacher takes as well."""
        super()._set_signature_columns_if_needed()
        wanted = [name for teacher in self.teachers for name in forward_names(teacher)]
        self._signature_columns += [n for n in wanted if n not in self._signature_columns]

    def _prepare_inputs(self, inputs: Any) -> Any:
        """Trainer's, of which the student gets what its own forward names, as it would alone."""
        inputs = super()._prepare_inputs(inputs)
        if self.is_listening:
            return inputs
        ours = forward_names(self.model)
        theirs = {n for teacher in self.teachers for n in forward_names(teacher)} - {*ours}
        self._teachers_own = {name: inputs.pop(name) for name in theirs if name in inputs}
        return inputs

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's, with what losses learn as one more group."""
        optimizer = super().create_optimizer(*args, **kwargs)
        self._callback.add_to(optimizer)
        return optimizer

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            self._callback.save(checkpoint_folder(self, trial))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._callback.load(resume_from_checkpoint)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Trainer's, with the mean of each term since the last time beside its loss."""
        if 'loss' in logs:
            logs.update(self._log.means())
        super().log(logs, *args, **kwargs)


class DistillTrainer(DistillMixin, Trainer):
    """transformers' Trainer, with distillation terms."""


class TermLog:
    """Sums of terms, a step's batches together, until they are logged."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self._sums: dict[str, Tensor] = {}
        self._since = 0

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Take in the terms of a batch, each its part of the step's."""
        if not self._sums:
            self._since = self.trainer.state.global_step
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value

    def means(self) -> dict[str, float]:
        """The mean over steps and processes, and start anew."""
        sums, self._sums = self._sums, {}
        if not sums:
            return {}
        steps = max(self.trainer.state.global_step - self._since, 1)
        values = self.trainer.accelerator.gather(torch.stack([*sums.values()]).view(1, -1))
        return dict(zip(sums, (values.mean(0) / steps).tolist(), strict=True))


def build_loss(name: str, loss: Any) -> DistillationLoss:
    """A loss as it is, from its settings, or by its name alone where these are True."""
    if isinstance(loss, DistillationLoss):
        return loss
    if loss is True:
        loss = {}
    if not isinstance(loss, Mapping):
        raise ConfigError(f'losses.{name}={loss!r} must be True, a dict of settings, or a loss')
    return LOSSES.build({'type': name, **loss}, f'losses.{name}')


def checkpoint_folder(trainer: Any, trial: Any) -> str:
    """Where a Trainer has just saved."""
    step = f'{PREFIX_CHECKPOINT_DIR}-{trainer.state.global_step}'
    return os.path.join(trainer._get_output_dir(trial=trial), step)


def _listed(teachers: Any) -> list[nn.Module]:
    listed = [teachers] if isinstance(teachers, nn.Module) else teachers
    if (
        not isinstance(listed, Sequence)
        or not listed
        or not all(isinstance(teacher, nn.Module) for teacher in listed)
    ):
        raise ConfigError(f'teachers={teachers!r} must be a model, or several')
    return list(listed)
