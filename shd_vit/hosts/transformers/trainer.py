"""Distillation terms in the loss of any Trainer of transformers, TRL's included."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, has_length

from shd_vit.distillation import Distillation, read_schedule, refuse_non_finite
from shd_vit.distillation.registry import LOSSES
from shd_vit.errors import ConfigError, check_number
from shd_vit.hosts.transformers.batch import Predictions, forward_names, whole_sequences
from shd_vit.hosts.transformers.checks import check_names, check_trainer
from shd_vit.hosts.transformers.completion import check_rows, of_completion
from shd_vit.hosts.transformers.devices import read_devices
from shd_vit.hosts.transformers.joint import JointBatch
from shd_vit.hosts.transformers.outputs import OutputTap
from shd_vit.hosts.transformers.packing import Packing, count_sequences
from shd_vit.hosts.transformers.progress import DistillationCallback
from shd_vit.hosts.transformers.teachers import Teachers, listed, place
from shd_vit.hosts.transformers.term_log import TermLog
from shd_vit.losses import DistillationLoss
from shd_vit.pairing import ModelOutput

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
        rows: Which query rows of maps, and which tokens of hidden states, count: 'all' that are no
            padding, or those of the 'completion', whose next label counts. Keys are always all.
        teacher_devices: Of each teacher, or one of all: batches go there, and logits, maps and
            hidden states come back. None: the student's device.
        teacher_tokenizers: Of the teachers, to hold against the student's: of each, or one of all.
            None: those that the teachers were saved with, where they are on this machine.
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
        rows: str = 'all',
        teacher_devices: Any = None,
        teacher_tokenizers: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_names(losses, schedules or {})
        self.rows = check_rows(rows)
        self.task_loss_weight = check_number('task_loss_weight', task_loss_weight)
        planned = {n: read_schedule(cfg, f'schedules.{n}') for n, cfg in (schedules or {}).items()}
        if planned and self.train_dataset is not None and not has_length(self.train_dataset):
            raise ConfigError(
                f'schedules.{next(iter(planned))} counts epochs, but train_dataset has no length'
            )
        self.is_listening = teachers is None
        given = self._choose(teachers)
        if attention_teacher not in range(len(given)):
            raise ConfigError(
                f'attention_teacher={attention_teacher!r} must be between 0 and {len(given) - 1}'
            )
        if self.is_listening and teacher_devices is not None:
            raise ConfigError(
                f'teacher_devices={teacher_devices!r}: {type(self).__name__} places its teacher'
            )
        devices = read_devices(teacher_devices, len(given), self.args.device)
        vocabulary = place(self, given, devices, teacher_tokenizers)
        first = given.pop(attention_teacher)
        built = {name: build_loss(name, loss) for name, loss in losses.items()}
        self.distillation = d = Distillation(built, self.model, first, planned)
        d.losses.to(self.args.device)
        d.schedules.to(self.args.device)
        banks = d.student_bank, d.teacher.bank
        check_trainer(self, d.losses, any(bank.layers or bank.tokens for bank in banks))
        self.teachers = Teachers(d, given, vocabulary, self.args.device)
        self._taps = (
            OutputTap(self.model, 'student', is_learning=True),
            OutputTap(first, 'teacher', is_learning=False),
        )
        self._callback = DistillationCallback(d)
        self.add_callback(self._callback)
        self._term_log = TermLog(self)
        self._joint = JointBatch(self)
        self._teachers_own: dict[str, Any] = {}

    def _choose(self, teachers: Any) -> list[nn.Module]:
        """Those given, or the trainer's own."""
        own = getattr(self, 'teacher_model', None)
        name = type(self).__name__
        if teachers is None and own is None:
            raise ConfigError(f'teachers=None: {name} has no teacher of its own; give teachers')
        if teachers is not None and own is not None:
            raise ConfigError(
                f'{name} has a teacher and calls it: leave teachers out, and it is listened to'
            )
        return listed(self.accelerator.unwrap_model(own) if teachers is None else teachers)

    def settle(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Show training batches to the losses that ask for it (SHD's ``head_matching``), once.

        Args:
            batches: Of a data loader; not touched if no loss asks.
        """
        move = Trainer._prepare_inputs  # not what TRL makes of it: it would draw responses
        self.distillation.settle(self._seen(move(self, dict(batch))) for batch in batches)

    def _seen(self, batch: Mapping[str, Any]) -> ModelOutput:
        """What the teacher that gives maps leaves of a batch."""
        first, found = self.teachers.first, None
        if self.rows == 'completion':
            found = Predictions.of(batch, self._loss_shifts_labels)
        output = self.teachers.seen(first(self.teachers.call, first.model, batch, None))
        return self._counted(output, batch, found)

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
        batch, d = {**whole_sequences(inputs), **self._teachers_own}, self.distillation
        self._teachers_own = {}
        reads_labels = d.logit_losses or self.rows == 'completion'
        found = Predictions.of(batch, self._loss_shifts_labels) if reads_labels else None
        rows = found if d.logit_losses else None
        student, teacher = self._taps
        if self.is_listening:
            with d.listening(), student.listening(), teacher.listening():
                result = super().compute_loss(model, inputs, **kwargs)
            learned, taught = d.heard(*(self.teachers.cut(tap.logits(rows)) for tap in self._taps))
        else:
            # A trainer may run the student once more, without gradients, for its metrics.
            with d.student_bank.record(first=True), student.listening():
                result = super().compute_loss(model, inputs, **kwargs)
            logits = self.teachers.cut(student.logits(rows))
            learned = ModelOutput.recorded(d.student_bank, logits)
        if rows is not None:
            learned = learned._replace(sequences=count_sequences(batch, len(rows.rows)))
        learned = self._counted(learned, batch, found)
        target = None if rows is None else rows.target
        if self.is_listening:
            terms = d.terms(learned, self._counted(taught, batch, found), target)
        else:
            with self.accelerator.autocast():
                terms = d.teach(
                    *(learned, target, self.teachers, batch, rows),
                    view=lambda output: self._counted(self.teachers.seen(output), batch, found),
                )
        own = result[0] if return_outputs else result
        total = self._total(own, terms, batch, num_items_in_batch)
        return (total, result[1]) if return_outputs else total

    def _counted(
        self, output: ModelOutput, batch: Mapping[str, Any], found: Predictions | None
    ) -> ModelOutput:
        """What a model left of a batch, a sequence a sample, with the rows that count."""
        if found is not None and self.rows == 'completion':
            output = of_completion(output, found)
        packing = Packing.of(batch)
        return output if packing is None else packing.unpack(output)

    def _total(
        self, own: Tensor, terms: dict[str, Tensor], batch: dict[str, Any], num_items: Any
    ) -> Tensor:
        """The weighted sum, scaled as Trainer expects it, and logged."""
        steps = 1 if self._is_scaled(num_items) else self._accumulated
        shares = self._joint.shares(batch, self._accumulated)
        parts = {'task_loss': self.task_loss_weight * own}
        for name, term in terms.items():
            loss: Any = self.distillation.losses[name]
            parts[name] = term * (shares[loss.mean_over] * steps)
        total: Any = sum(parts.values())
        refuse_non_finite(total, {'task_loss': own, **terms})
        self._term_log.add({name: part.detach() / steps for name, part in parts.items()})
        return total

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

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """Trainer's batches of one step; what counts in all of them is counted."""
        samples, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._joint.take(samples)
        return samples, num_items

    def _set_signature_columns_if_needed(self) -> None:
        """Keep the columns that a teacher takes as well."""
        super()._set_signature_columns_if_needed()
        if not hasattr(self, 'teachers') or self.is_listening:
            return  # while the trainer is being built; and what calls both brings what both take
        wanted = [name for teacher in self.teachers.models for name in forward_names(teacher)]
        self._signature_columns += [n for n in wanted if n not in self._signature_columns]

    def _prepare_inputs(self, inputs: Any) -> Any:
        """Trainer's, of which the student gets what its own forward names, as it would alone."""
        inputs = super()._prepare_inputs(inputs)
        if self.is_listening:
            return inputs
        ours = forward_names(self.model)
        theirs = {n for teacher in self.teachers.models for n in forward_names(teacher)} - {*ours}
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
            logs.update(self._term_log.means())
        super().log(logs, *args, **kwargs)


class DistillTrainer(DistillMixin, Trainer):
    """transformers' Trainer, with distillation terms."""


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
