"""ViTDistiller: a distillation step as mmengine's runner takes it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmpretrain.models import build_classifier
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor

from shd_vit.distillation import Distillation, refuse_non_finite, summary
from shd_vit.hosts.images import TeacherImages
from shd_vit.hosts.mmpretrain.checkpoint import save_student_as_alone
from shd_vit.hosts.mmpretrain.losses import build_loss, own_losses, read_schedules
from shd_vit.hosts.mmpretrain.model_config import read_model_config
from shd_vit.hosts.mmpretrain.refusals import (
    refuse_dropped_augments,
    refuse_own_loss,
    refuse_sigmoids,
    refuse_unstated_weights,
)
from shd_vit.hosts.mmpretrain.weights import initialise, normalisations, refuse_random_head
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
            None. ``image_size`` (pixels, or (height, width)) resizes the batch for it, and
            ``dtype='bfloat16'`` or ``'float16'`` halves its memory.
        losses: Distillation losses by name: ``dict(shd=dict(type='SHDLoss', beta=1.0), ...)``. A
            loss is logged as ``loss_<name>``, the student's own as ``loss_cls``. Each may have a
            ``schedule=dict(warm_up=..., stop=...)`` of its weight, see :class:`LossSchedule`.
        train_cfg: ``dict(augments=[...])``, mmpretrain's batch augmentations, applied once for
            both models.
        data_preprocessor: mmpretrain's; the student's normalisation and order of channels. The
            teacher's images are changed to those that its config, or its library, states.
        init_cfg: As in mmengine.

    Attributes:
        distillation: The losses, the taps on both models, and the order of events.
        teacher_images: From a batch for the student to the teacher's.

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
        refuse_dropped_augments(student_cfg)
        refuse_unstated_weights(teacher_cfg)
        preprocessor = dict(data_preprocessor or student_cfg.data_preprocessor or {})
        preprocessor.setdefault('type', 'ClsDataPreprocessor')
        preprocessor.setdefault('batch_augments', train_cfg)
        super().__init__(data_preprocessor=MODELS.build(preprocessor), init_cfg=init_cfg)

        teacher_cfg.model.pop('train_cfg', None)
        self.student = build_classifier(student_cfg.model)
        teacher_model = build_classifier(teacher_cfg.model)
        if teacher_cfg.dtype is not None:
            teacher_model.to(teacher_cfg.dtype)
        refuse_own_loss(self.student)
        built = {name: build_loss(name, cfg) for name, cfg in losses.items()}
        schedules = read_schedules(losses)
        self.distillation = Distillation(built, self.student, teacher_model, schedules)
        self.losses: Any = self.distillation.losses
        self.schedules = self.distillation.schedules
        for name in self.distillation.logit_losses:
            refuse_sigmoids(self.student, name)
            refuse_random_head(teacher_model, teacher_cfg, f'model.losses.{name}')

        self.teacher_images = TeacherImages(
            *normalisations(preprocessor, teacher_cfg, teacher_model), teacher_cfg.image_size
        )
        self.teacher_images.check(self.student, teacher_model)
        self._configs = student_cfg, teacher_cfg
        self._has_weights = False
        self._register_state_dict_hook(save_student_as_alone)

    @property
    def teacher(self) -> Any:
        """The frozen teacher. Not a submodule."""
        return self.distillation.teacher.model

    @property
    def teacher_checkpoint(self) -> str | None:
        """Where the teacher's weights are loaded from."""
        return self._configs[1].checkpoint

    def init_weights(self) -> None:
        """Initialise the student, load both checkpoints, and log what learns from what."""
        student_cfg, teacher_cfg = self._configs
        notes = [
            f'student weights: {initialise(self.student, student_cfg)}',
            f'teacher weights: {initialise(self.teacher, teacher_cfg)}',
            f'teacher images: {self.teacher_images}',
        ]
        self._has_weights = True
        print_log(summary(self.distillation, notes), logger='current')

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
        learned = self.distillation.record_student(self.student, inputs)
        losses, target = own_losses(self.student, learned.logits, data_samples)
        terms = self.distillation.teach(learned, target, self.call_teacher, inputs)
        return losses | {f'loss_{name}': term for name, term in terms.items()}

    def call_teacher(self, inputs: Tensor) -> Any:
        """The teacher's logits of a batch for the student."""
        if not self._has_weights:
            raise RuntimeError(
                "the teacher has no weights yet: call the distiller's init_weights()"
            )
        return self.teacher(self.teacher_images(inputs, self.teacher))

    def teacher_output(self, inputs: Tensor) -> ModelOutput:
        """What the teacher leaves for the losses, of a batch for the student."""
        return self.distillation.teacher(self.call_teacher, inputs)

    def settle(self, batches: Iterable[dict]) -> None:
        """Let the losses that ask for it see the teacher on images, before training.

        Args:
            batches: Of a training dataloader; not touched if no loss asks.
        """
        # Not augmented: mixed images are nothing that attention should be matched on.
        images = (self.data_preprocessor(batch, training=False)['inputs'] for batch in batches)
        self.distillation.settle(map(self.teacher_output, images))

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum the losses.

        Raises:
            NonFiniteLoss: Before the optimiser steps, naming the losses that are not finite.
        """
        total, log_vars = super().parse_losses(losses)
        refuse_non_finite(total, {k: v for k, v in log_vars.items() if k != 'loss'})
        return total, log_vars
