"""transformers, and TRL: distillation terms in the loss of any ``Trainer``."""

from typing import Any

from shd_vit.hosts.transformers.start import initialise_from_teacher
from shd_vit.hosts.transformers.trainer import DistillMixin, DistillTrainer

OF_TRL = ('DistillMiniLLMTrainer', 'MiniLLMConfig', 'MiniLLMTrainer')  # which may be missing
__all__ = ['DistillMixin', 'DistillTrainer', 'initialise_from_teacher', *OF_TRL]


def __getattr__(name: str) -> Any:
    if name not in OF_TRL:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from shd_vit.hosts.transformers import minillm

    return getattr(minillm, name)
