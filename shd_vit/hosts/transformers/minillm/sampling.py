"""Responses of which each token is drawn from a mixture of student and teacher."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList

from shd_vit.hosts.transformers.batch import forward_names
from shd_vit.hosts.transformers.minillm.objective import log_mixture


class TeacherMix(LogitsProcessor):
    """Mixes the teacher's distribution into the student's, with a cache of the teacher's own.

    Args:
        teacher: In eval mode, of the student's vocabulary.
        mask: (B, N), of the prompts.
        share: Of the teacher.
        temperature: That ``generate`` divides by afterwards. Both distributions have it, then
            they are mixed.
    """

    def __init__(self, teacher: nn.Module, mask: Tensor, share: float, temperature: float) -> None:
        self.teacher, self.mask = teacher, mask
        self.share, self.temperature = share, temperature
        self._names = forward_names(teacher)
        self._cached = 'cache' if 'cache' in self._names else 'past_key_values'  # its older name
        self._cache: Any = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        student, teacher = (
            (x.float() / self.temperature).log_softmax(-1) for x in (scores, self._run(input_ids))
        )
        return log_mixture(student, teacher, self.share) * self.temperature

    def _run(self, input_ids: Tensor) -> Tensor:
        """The teacher's logits (B, V) of the next token."""
        new = input_ids if self._cache is None else input_ids[:, -1:]
        grown = input_ids.shape[1] - self.mask.shape[1]
        self.mask = torch.nn.functional.pad(self.mask, (0, grown), value=1)
        given: dict[str, Any] = dict(input_ids=new, attention_mask=self.mask, use_cache=True)
        if 'position_ids' in self._names:
            positions = self.mask.long().cumsum(1).sub(1).clamp(min=0)
            given['position_ids'] = positions[:, -new.shape[1] :]
        if 'logits_to_keep' in self._names:
            given['logits_to_keep'] = 1
        if self._cache is not None:
            given[self._cached] = self._cache
        output = self.teacher(**given)
        self._cache = output[self._cached]
        return output.logits[:, -1]


@contextmanager
def mixed(student: Any, teacher: nn.Module, share: float, temperature: float) -> Iterator[None]:
    """Inside, ``student.generate`` draws each token from (1 - share) student + share teacher."""
    plain = student.generate

    def generate(*args: Any, attention_mask: Tensor, **kwargs: Any) -> Any:
        mix = TeacherMix(teacher, attention_mask, share, temperature)
        processors = LogitsProcessorList([mix])
        return plain(*args, attention_mask=attention_mask, logits_processor=processors, **kwargs)

    student.generate = generate
    try:
        yield
    finally:
        del student.generate
