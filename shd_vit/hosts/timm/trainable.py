"""What is trained, as timm's optimisers ask of a model."""

from __future__ import annotations

from collections.abc import Callable

from timm.models import group_parameters
from timm.utils import unwrap_model

from shd_vit.distillation import Trainable


class SHDTrainableModule(Trainable):
    """A student and its distillation losses, with what timm's optimisers ask of a model."""

    def no_weight_decay(self) -> set[str]:
        """Names of the student's own list, as timm's optimiser factory asks for it."""
        names: set[str] = getattr(unwrap_model(self.student), 'no_weight_decay', set)()
        return {f'student.{name}' for name in names}

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int] | dict:
        """The student's layers, for layer-wise decay; parameters of losses go with the last."""
        student = unwrap_model(self.student)
        if not hasattr(student, 'group_matcher'):
            return {}
        layers = group_parameters(student, student.group_matcher(coarse=coarse), reverse=True)
        last = max(layers.values(), default=0)
        return lambda name: layers.get(name.removeprefix('student.'), last)
