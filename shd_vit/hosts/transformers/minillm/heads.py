"""The last layer over a vocabulary, in TRL's chunks: no logits of all tokens exist at once."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor
from trl.kernels.chunked_divergence import VOCAB_CHUNK_SIZE, ChunkedDivergenceFunction
from trl.kernels.chunked_logprob import ChunkedLogProbFunction


class Head(NamedTuple):
    """What makes logits of hidden states.

    Attributes:
        weight: (V, E).
        bias: (V,), or None.
        temperature: That logits are divided by.
    """

    weight: Tensor
    bias: Tensor | None
    temperature: float

    @classmethod
    def of(cls, model: Any, temperature: float) -> Head:
        """That of a causal model."""
        layer = model.get_output_embeddings()
        return cls(layer.weight, layer.bias, temperature)

    def log_probs(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Log-probabilities (R,) of tokens (R,), each after a hidden state (R, E)."""
        sizes = self.temperature, VOCAB_CHUNK_SIZE
        nothing_more = None, 1.0, ()  # a soft cap, a scale, other outputs
        found = ChunkedLogProbFunction.apply(
            hidden, self.weight, self.bias, ids, *sizes, *nothing_more
        )
        return found[0]


def divergence(
    student: Head, hidden: Tensor, teacher: Head, taught: Tensor, *, reverse: bool
) -> tuple[Tensor, Tensor]:
    """KL over the vocabulary at each place, and the student's entropy, (R,) each, in nats.

    Args:
        student: With gradients.
        hidden: (R, E) of the student.
        teacher: Of as many tokens.
        taught: (R, E') of the teacher.
        reverse: KL(student || teacher); else KL(teacher || student).
    """
    ours, theirs = (student.weight, student.bias), (teacher.weight, teacher.bias)
    kl, entropy = ChunkedDivergenceFunction.apply(
        hidden, *ours, taught, *theirs, float(reverse), student.temperature
    )
    return kl, entropy.detach()
