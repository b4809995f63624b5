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
    """

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, model: Any) -> Head:
        """That of a causal model."""
        layer = model.get_output_embeddings()
        return cls(layer.weight, layer.bias)

    def log_probs(self, hidden: Tensor, ids: Tensor, temperature: float = 1.0) -> Tensor:
        """Log-probabilities (R,) of tokens (R,), each after a hidden state (R, E)."""
        sizes = temperature, VOCAB_CHUNK_SIZE
        nothing_more = None, 1.0, ()  # a soft cap, a scale, other outputs
        found = ChunkedLogProbFunction.apply(
            hidden, self.weight, self.bias, ids, *sizes, *nothing_more
        )
        return found[0]


def divergence(
    student: tuple[Head, Tensor],
    teacher: tuple[Head, Tensor],
    *,
    reverse: bool,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """KL over the vocabulary at each place, and the student's entropy, (R,) each, in nats.

    Args:
        student: Its head, and hidden states (R, E), with gradients.
        teacher: The same, of as many tokens; no gradients.
        reverse: KL(student || teacher); else KL(teacher || student).
        temperature: That the logits of both are divided by.
    """
    (ours, hidden), (theirs, taught) = student, teacher
    kl, entropy = ChunkedDivergenceFunction.apply(
        hidden, *ours, taught, *theirs, float(reverse), temperature
    )
    return kl, entropy.detach()
