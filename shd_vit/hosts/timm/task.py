"""SHD, ViTKD and NKD as a timm training task. Needs neither mmengine nor mmpretrain."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from timm.task import DistillationTeacher, TrainingTask, resolve_classification_loss
from timm.utils import unwrap_model
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from shd_vit.distillation import Distillation, refuse_non_finite, summary
from shd_vit.functional.logits import check_labels
from shd_vit.hosts.images import Normalisation, TeacherImages
from shd_vit.hosts.timm.checks import check_student, check_teacher, choose_losses, read_schedules
from shd_vit.hosts.timm.pretrained import refuse_head_without_weights
from shd_vit.hosts.timm.teacher import make_teacher
from shd_vit.hosts.timm.trainable import SHDTrainableModule
from shd_vit.losses import DistillationLoss
from shd_vit.pairing import ModelOutput

_logger = logging.getLogger(__name__)


class SHDDistillationTask(TrainingTask):
    """Squeezing-Heads Distillation, with ViTKD and NKD by flags, beside timm's own tasks.

    ``loss = task_loss_weight * task_loss + distill_loss_weight * (sum of distillation losses)``,
    where each distillation loss includes its own weight, such as ``beta`` of SHD. The two weights
    are chosen as in timm's ``FeatureDistillationTask``: 1 by default; if ``task_loss_weight`` alone
    is given, ``distill_loss_weight`` is 1 minus it.

    Checkpoints by timm's ``CheckpointSaver(task=...)`` hold the plain student in ``state_dict``,
    and what losses have learned in ``task_state``.

        task = SHDDistillationTask(student, 'deit3_small_patch16_224', nkd=True)
        result = task(images, labels)
        result['loss'].backward()

    Args:
        student_model: The model to train.
        teacher_model: A model name (created with pretrained weights, and with the student's number
            of classes), a module, or a DistillationTeacher. Frozen, in eval mode.
        criterion: The task loss. Made by timm's create_classification_loss from criterion_kwargs
            if None.
        criterion_kwargs: Arguments of create_classification_loss.
        teacher_pretrained_path: The teacher's weights, where it is given by name.
        teacher_pretrained_cfg_overlay: Its pretrained cfg overrides, where it is given by name.
        teacher_image_size: Side, or (height, width), that images are resized to for the teacher.
        shd: SHDLoss: True or False (or None), or its arguments, ``dict(beta=1.0)``.
        vitkd: ViTKDLoss, likewise.
        nkd: NKDLoss, likewise.
        losses: More losses by name, such as ``dict(vkd=VkDLoss())``.
        schedules: Of weights, by name of the loss: ``dict(shd=dict(warm_up=5, stop=200))``, as
            :class:`shd_vit.distillation.LossSchedule`; then :meth:`set_epoch` before each step.
        distill_loss_weight: Weight of all distillation losses together.
        task_loss_weight: Weight of the task loss.
        device: Of the task's tensors. Models stay where they are.
        dtype: Of the task's tensors.
        verbose: Whether to log what is distilled.

    Raises:
        ConfigError: If there is no loss, or a loss cannot distil this pair.
        UnsupportedAttention: If a loss needs attention that cannot be tapped.
    """

    def __init__(
        self,
        student_model: nn.Module,
        teacher_model: str | nn.Module | DistillationTeacher,
        criterion: nn.Module | Callable | None = None,
        criterion_kwargs: dict[str, Any] | None = None,
        teacher_pretrained_path: str | None = None,
        teacher_pretrained_cfg_overlay: dict[str, Any] | None = None,
        teacher_image_size: int | tuple[int, int] | None = None,
        shd: bool | dict[str, Any] | None = True,
        vitkd: bool | dict[str, Any] | None = False,
        nkd: bool | dict[str, Any] | None = False,
        losses: Mapping[str, DistillationLoss] | None = None,
        schedules: Mapping[str, dict[str, float]] | None = None,
        distill_loss_weight: float | None = None,
        task_loss_weight: float | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        verbose: bool = True,
    ) -> None:
        super().__init__(device=device, dtype=dtype, verbose=verbose)
        student = unwrap_model(student_model)
        check_student(student)
        is_zoos = isinstance(teacher_model, str) and not teacher_pretrained_path
        of_name = teacher_pretrained_path, teacher_pretrained_cfg_overlay
        self.teacher = make_teacher(teacher_model, student, *of_name, self.device, self.dtype)
        teacher = unwrap_model(self.teacher.model)
        check_teacher(teacher)
        self.criterion = resolve_classification_loss(
            criterion, self.device, criterion_kwargs=criterion_kwargs
        )
        if distill_loss_weight is None:
            distill_loss_weight = 1.0 if task_loss_weight is None else 1.0 - task_loss_weight
        self.distill_loss_weight = distill_loss_weight
        self.task_loss_weight = 1.0 if task_loss_weight is None else task_loss_weight

        chosen = choose_losses(dict(shd=shd, vitkd=vitkd, nkd=nkd), losses or {})
        planned = read_schedules(schedules or {}, chosen)
        self.distillation = Distillation(chosen, student, teacher, planned)
        if is_zoos and self.distillation.logit_losses:
            refuse_head_without_weights(teacher, self.distillation.logit_losses[0])
        self.trainable_module: nn.Module = SHDTrainableModule(student_model, self.distillation)
        self._is_compiled = False
        self.trainable_module.losses.to(self.device, self.dtype)
        self.trainable_module.schedules.to(self.device)

        wanted = [self.teacher.mean_kd.flatten().tolist(), self.teacher.std_kd.flatten().tolist()]
        given = [student.pretrained_cfg[name] for name in ('mean', 'std')]
        self.teacher_images = TeacherImages(
            Normalisation(*given), Normalisation(*wanted), teacher_image_size
        )
        self.teacher_images.check(student, teacher)
        if self.verbose:
            weights = f'task x {self.task_loss_weight:g}, distillation x {distill_loss_weight:g}'
            notes = [f'teacher images: {self.teacher_images}', weights]
            _logger.info('%s', summary(self.distillation, notes))

    def train(self, mode: bool = True) -> SHDDistillationTask:
        """Set the mode of what is trained; the teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def set_epoch(self, epoch: float) -> None:
        """Set scheduled weights to those of this moment, such as 1.5 in the middle of epoch 2."""
        self.distillation.schedules.set_epoch(epoch)

    def call_teacher(self, input: Tensor) -> Tensor:
        """The teacher's logits of images (B, C, h, w) that are normalised for the student."""
        return self.teacher(self.teacher_images(input, self.teacher))

    def teacher_output(self, input: Tensor) -> ModelOutput:
        """What the teacher leaves for the losses, of images that are normalised for the student."""
        return self.distillation.teacher(self.call_teacher, input)

    def settle(self, batches: Iterable[Tensor]) -> None:
        """Show training images to the losses that ask for it (SHD's ``head_matching``), once.

        Args:
            batches: Images (B, C, h, w), normalised for the student; not touched if no loss asks.
        """
        self.distillation.settle(self.teacher_output(batch.to(self.device)) for batch in batches)

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """One training step's losses.

        Args:
            input: Images (B, C, h, w), normalised for the student.
            target: (B,) class indices, or (B, classes) scores where images were mixed.

        Returns:
            ``loss`` to go backward from, the student's logits ``output``, ``task_loss``, and
            ``<name>_loss`` of each distillation loss with its own weight.

        Raises:
            NonFiniteLoss: Naming the terms that are not finite.
        """
        teacher: Any = self.call_teacher
        if self._is_compiled:
            teacher = self.distillation.record_teacher(teacher, input)
        logits, terms = self.trainable_module(input, teacher, target)
        check_labels(target, logits.shape[1])
        named = {'task_loss': self.criterion(logits, target)}
        named |= {f'{name}_loss': value for name, value in terms.items()}
        distill_loss = sum(terms.values())
        loss = self.task_loss_weight * named['task_loss'] + self.distill_loss_weight * distill_loss
        refuse_non_finite(loss, named)
        return {'loss': loss, 'output': logits, **named}

    def prepare_distributed(
        self, device_ids: list | None = None, **ddp_kwargs: Any
    ) -> SHDDistillationTask:
        """Wrap what is trained in DistributedDataParallel; the teacher stays outside."""
        self.trainable_module = DistributedDataParallel(
            self.trainable_module, device_ids=device_ids, **ddp_kwargs
        )
        return self

    def compile(
        self, backend: str = 'inductor', mode: str | None = None, **compile_kwargs: Any
    ) -> nn.Module:
        """Compile training, evaluation and the teacher; before :meth:`prepare_distributed`.

        Returns:
            The compiled student, for evaluation.
        """
        settings: dict[str, Any] = dict(backend=backend, mode=mode, **compile_kwargs)
        trainable: Any = self.trainable_module
        self.eval_model: Any = torch.compile(trainable.student, **settings)
        self.trainable_module = cast(nn.Module, torch.compile(trainable, **settings))
        self._is_compiled = True
        self.teacher.compile(**settings)
        return cast(nn.Module, self.eval_model)

    def get_eval_model(
        self, module: nn.Module | None = None, ema: bool = False
    ) -> nn.Module | None:
        """The student, compiled if :meth:`compile` was called."""
        model = super().get_eval_model(module=module, ema=ema)
        if model is None:
            return None
        inner = unwrap_model(model)
        return inner.student if isinstance(inner, SHDTrainableModule) else model

    def get_clip_parameters(self, exclude_head: bool = False) -> list[nn.Parameter]:
        """Parameters of student and losses, for clipping gradients."""
        trainable = unwrap_model(self.trainable_module)
        parameters = list(trainable.student.parameters())
        return (parameters[:-2] if exclude_head else parameters) + [*trainable.losses.parameters()]

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> dict[str, Any]:
        """What the losses have learned, if anything: ``{'losses': state dict}``."""
        trainable = self._trainable(module, ema)
        state = {} if trainable is None else trainable.losses.state_dict()
        return {'losses': state} if state else {}

    def load_task_state(
        self,
        state: dict[str, Any] | None,
        strict: bool = True,
        module: nn.Module | None = None,
        ema: bool = False,
    ) -> None:
        """Take up what :meth:`get_task_state` gave.

        Raises:
            RuntimeError: If it does not fit these losses, or there is no EMA model to load it into.
        """
        if not state:
            return
        trainable = self._trainable(module, ema)
        if trainable is None:
            raise RuntimeError('there is no EMA model: call setup_ema() before loading its state')
        trainable.losses.load_state_dict(state['losses'], strict=strict)

    def _trainable(self, module: nn.Module | None, ema: bool) -> SHDTrainableModule | None:
        module = module if module is not None else self.get_trainable_module(ema=ema)
        return None if module is None else unwrap_model(module)
