"""ViTDistiller: the order of events in a training step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmpretrain.models import build_classifier
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from shd_vit.distillation import bind_losses, settle_losses
from shd_vit.distillation.schedule import LossSchedule, LossSchedules, read_schedule
from shd_vit.distillation.summary import summary
from shd_vit.distillation.teacher import FrozenTeacher, renormalisation
from shd_vit.errors import ConfigError, NonFiniteLoss
from shd_vit.hosts.mmpretrain.checkpoint import load_weights, mmengine_loads_safely
from shd_vit.hosts.mmpretrain.model_config import MISSING, ModelConfig, read_model_config
from shd_vit.losses import DistillationLoss
from shd_vit.pairing import ModelOutput


@MODELS.register_module()
class ViTDistiller(BaseModel):
    """Trains a student with its own loss and any number of distillation losses.

    Only the student and the losses' weights are trained and saved. ``tensor`` and ``predict`` are
    the student's alone.

    Args:
        student: A classifier's config dict, or ``dict(config=path, ...)``, or a config path; with
            an optional ``checkpoint`` to start from. ``ImageClassifier``, ``TimmClassifier`` or
            ``HuggingFaceClassifier``.
        teacher: The same. Its ``checkpoint`` (local path or URL) must be written out, if only as
            None.
        losses: Distillation losses by name: ``dict(shd=dict(type='SHDLoss', beta=1.0), ...)``. A
            loss is logged as ``loss_<name>``, the student's own as ``loss_cls``. Each may have a
            ``schedule=dict(warm_up=..., stop=...)`` of its weight, see :class:`LossSchedule`.
        train_cfg: ``dict(augments=[...])``, mmpretrain's batch augmentations, applied once for
            both models.
        data_preprocessor: mmpretrain's; the student's normalisation. The teacher's images are
            renormalised if its config states another.
        init_cfg: As in mmengine.

    Raises:
        ConfigError: If a field cannot work.
        UnsupportedAttention: If a loss needs attention that cannot be tapped.
    """

    def __init__(
        self,
        student: str | dict,
        teacher: str | dict,
        losses: dict[str, dict],
        train_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        student_cfg = read_model_config(student, 'model.student')
        teacher_cfg = read_model_config(teacher, 'model.teacher')
        _refuse_dropped_augments(student_cfg)
        if teacher_cfg.checkpoint is MISSING:
            raise ConfigError(
                'model.teacher.checkpoint is missing: give a path or URL, or write '
                'checkpoint=None to distil from a teacher with random weights'
            )
        preprocessor = dict(data_preprocessor or student_cfg.data_preprocessor or {})
        preprocessor.setdefault('type', 'ClsDataPreprocessor')
        preprocessor.setdefault('batch_augments', train_cfg)
        super().__init__(data_preprocessor=MODELS.build(preprocessor), init_cfg=init_cfg)

        teacher_cfg.model.pop('train_cfg', None)
        self.student = build_classifier(student_cfg.model)
        teacher_model = build_classifier(teacher_cfg.model)
        built = {name: _build_loss(name, cfg) for name, cfg in losses.items()}
        self.losses: Any = nn.ModuleDict(built)
        self.schedules = LossSchedules(_read_schedules(losses))

        self.student_bank, teacher_bank = bind_losses(built, self.student, teacher_model)
        self._teacher = FrozenTeacher(
            teacher_model,
            teacher_bank,
            renormalisation(preprocessor, teacher_cfg.data_preprocessor or preprocessor),
        )
        self._checkpoints = student_cfg.checkpoint, teacher_cfg.checkpoint
        self._register_state_dict_hook(_save_student_as_alone)

    @property
    def teacher(self) -> Any:
        """The frozen teacher. Not a submodule."""
        return self._teacher.model

    def init_weights(self) -> None:
        """Initialise the student, load both checkpoints, and log what learns from what."""
        student_checkpoint, teacher_checkpoint = self._checkpoints
        with mmengine_loads_safely():
            self.student.init_weights()
        if student_checkpoint not in (MISSING, None):
            load_weights(self.student, student_checkpoint)
        if teacher_checkpoint is None:
            with mmengine_loads_safely():
                self.teacher.init_weights()
        else:
            load_weights(self.teacher, teacher_checkpoint)
        self._teacher.is_ready = True
        print_log(summary(self), logger='current')

    def train(self, mode: bool = True) -> ViTDistiller:
        super().train(mode)
        self.teacher.eval()
        return self

    def _apply(self, fn, recurse: bool = True) -> ViTDistiller:
        """``to``, ``cuda``, ``half`` and the like move the teacher along."""
        self.teacher._apply(fn)
        return super()._apply(fn, recurse)

    def forward(
        self, inputs: Tensor, data_samples: list[DataSample] | None = None, mode: str = 'tensor'
    ) -> dict[str, Tensor] | list[DataSample] | Tensor:
        """As mmengine's models: ``loss`` distils, ``predict`` and ``tensor`` are the student's."""
        if mode == 'loss':
            return self.loss(inputs, data_samples or [])
        return self.student(inputs, data_samples, mode)

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """All losses of a batch.

        Args:
            inputs: (B, 3, h, w), normalised for the student.
            data_samples: With labels, or scores where images were mixed.
        """
        self.schedules.check_is_set()
        student = ModelOutput.of(self.student, self.student_bank, inputs)
        is_over = {name: self.schedules.is_over(name) for name in self.losses}
        teacher = None if all(is_over.values()) else self._teacher(inputs)
        if 'gt_score' in data_samples[0]:
            target = torch.stack([sample.gt_score for sample in data_samples])
        else:
            target = torch.cat([sample.gt_label for sample in data_samples])

        # The student's own loss, from the logits at hand: ImageClassifier keeps it in its head.
        owner = getattr(self.student, 'head', self.student)
        losses = owner._get_loss(student.logits, data_samples)
        losses['loss_cls'] = losses.pop('loss')
        for name, loss in self.losses.items():
            if is_over[name]:
                losses[f'loss_{name}'] = _zero(loss, student.logits)
            else:
                losses[f'loss_{name}'] = self.schedules(name, loss(student, teacher, target))
        return losses

    def show_to_losses(self, batches: Iterable[dict]) -> None:
        """Let the losses that ask for it see the teacher on images, before training.

        Args:
            batches: Of a training dataloader; not touched if no loss asks.
        """
        # Not augmented: mixed images are nothing that attention should be matched on.
        images = (self.data_preprocessor(batch, training=False)['inputs'] for batch in batches)
        settle_losses(self.losses, map(self._teacher, images))

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum the losses.

        Raises:
            NonFiniteLoss: Before the optimiser steps, naming the losses that are not finite.
        """
        total, log_vars = super().parse_losses(losses)
        if not torch.isfinite(total):
            bad = {k: v.item() for k, v in log_vars.items() if k != 'loss' and not v.isfinite()}
            named = ', '.join(f'{name}={value}' for name, value in bad.items())
            raise NonFiniteLoss(
                f'{named or "the sum of losses"} is not finite; the step was not taken. Lower '
                'optim_wrapper.optimizer.lr or the weight of that loss, or clip gradients'
            )
        return total, log_vars


def _build_loss(name: str, cfg: dict) -> DistillationLoss:
    known = sorted(n for n, c in MODELS.module_dict.items() if _is_loss(c))
    cls = MODELS.get(cfg.get('type', '')) if isinstance(cfg, dict) else None
    if not _is_loss(cls) or name == 'cls':
        wrong = f'type={cfg.get("type")!r}' if name != 'cls' else 'that name is the student loss'
        raise ConfigError(f'model.losses.{name}: {wrong}; allowed types are {", ".join(known)}')
    return MODELS.build({key: value for key, value in cfg.items() if key != 'schedule'})


def _read_schedules(losses: dict[str, dict]) -> dict[str, LossSchedule]:
    schedules = {name: cfg.get('schedule') for name, cfg in losses.items()}
    return {
        name: read_schedule(cfg, f'model.losses.{name}.schedule')
        for name, cfg in schedules.items()
        if cfg is not None
    }


def _zero(loss: DistillationLoss, like: Tensor) -> Tensor:
    """0, of which the loss's parameters have the gradient 0: DDP waits for every gradient."""
    nothing = [parameter.flatten()[:0].sum() for parameter in loss.parameters()]
    return sum(nothing, start=like.new_zeros((), dtype=torch.float32))


def _is_loss(cls: object) -> bool:
    return isinstance(cls, type) and issubclass(cls, DistillationLoss)


def _refuse_dropped_augments(student: ModelConfig) -> None:
    if (student.model.get('train_cfg') or {}).get('augments'):
        raise ConfigError(
            'model.student.train_cfg.augments would never be applied: batches are mixed once, for '
            'student and teacher. Move it to model.train_cfg and set model.student.train_cfg=None'
        )


def _save_student_as_alone(module, state_dict, prefix, local_metadata) -> None:
    """Save the student's weights under the names that it has when saved alone.

    A TimmClassifier drops 'model.' from its names when saved alone, keeps it when nested, and
    loads only names without it.
    """
    inner = f'{prefix}student.'
    for name in [name for name in state_dict if name.startswith(inner)]:
        del state_dict[name]
    state_dict.update(module.student.state_dict(prefix=inner))
