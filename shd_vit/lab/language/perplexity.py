"""Validation loss and perplexity of causal models, genre by genre."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor
from torch.nn.functional import cross_entropy

from shd_vit.data.text.tokens import TokenFile
from shd_vit.errors import ConfigError, NonFiniteLoss
from shd_vit.hosts.transformers.batch import base_model
from shd_vit.lab.language.models import device, load_tokenizer
from shd_vit.lab.report import Table

ALL = 'all'


class Loss(NamedTuple):
    """Of some tokens that were predicted.

    Attributes:
        nats: Their negative log-likelihoods, summed.
        tokens: How many they are.
    """

    nats: float = 0.0
    tokens: int = 0

    def plus(self, other: Loss) -> Loss:
        return Loss(self.nats + other.nats, self.tokens + other.tokens)

    @property
    def mean(self) -> float:
        return self.nats / self.tokens

    def record(self) -> dict[str, float]:
        """Loss in nats a token, perplexity, and of how many tokens."""
        return dict(loss=self.mean, perplexity=math.exp(self.mean), tokens=self.tokens)


@torch.no_grad()
def losses_by_part(
    model: Any,
    parts: Mapping[str, np.ndarray],
    length: int,
    batch: int,
    progress: Progress | None = None,
) -> dict[str, Loss]:
    """The loss of each part of a text.

    A part is cut into windows one after the other, without overlap. Within a window each token but
    the first is predicted from those before it; a last window may be shorter. So every token is
    predicted once, but for the first of each window.

    Args:
        model: Causal, in eval mode.
        parts: Token ids by name of the part.
        length: Tokens of a window, 2 or more.
        batch: Windows at a time.
        progress: Where a bar is drawn.

    Raises:
        ConfigError: If a part has no token to predict.
        NonFiniteLoss: If a model's loss is no number, naming the part.
    """
    task = progress and progress.add_task('perplexity', total=sum(map(len, parts.values())))
    losses = {}
    for name, tokens in parts.items():
        if len(tokens) < 2:
            raise ConfigError(f'part {name!r} has {len(tokens)} tokens: none can be predicted')
        total = Loss()
        for windows in _windows(tokens, length, batch):
            total = total.plus(_loss(model, windows))
            if progress:
                progress.advance(task, windows.numel())
        if not math.isfinite(total.nats):
            raise NonFiniteLoss(f'the loss on part {name!r} is {total.nats}')
        losses[name] = total
    return losses


def records(losses: Mapping[str, Loss]) -> dict[str, dict[str, float]]:
    """By part, and over all of them, token by token, under 'all'."""
    total = Loss()
    for loss in losses.values():
        total = total.plus(loss)
    return {name: loss.record() for name, loss in {**losses, ALL: total}.items()}


def check_fits(model: Any, tokenizer: Any, text: TokenFile, length: int, name: str) -> None:
    """Refuse a model to which a text's ids mean something else, or too long a window.

    Args:
        model: Causal.
        tokenizer: The one it was saved with; None if there is none.
        text: The ids.
        length: Tokens of a window.
        name: How errors name the model.

    Raises:
        ConfigError: Naming what differs.
    """
    size = base_model(model).get_input_embeddings().num_embeddings
    if size < text.vocabulary:
        raise ConfigError(
            f'model {name!r} knows {size} tokens, the text has {text.vocabulary}: it is of another '
            'tokenizer'
        )
    own = load_tokenizer(str(text.tokenizer)).get_vocab()
    if tokenizer is not None and tokenizer.get_vocab() != own:
        raise ConfigError(
            f"model {name!r} was saved with another tokenizer than the text's: prepare the text "
            'with its own, since losses a token of different tokens cannot be compared'
        )
    check_length(model, length, name)


def check_length(model: Any, length: int, name: str) -> None:
    """Refuse sequences longer than the positions that a model was built for."""
    most = getattr(model.config, 'max_position_embeddings', None)
    if most is not None and length > most:
        raise ConfigError(f'--length {length}: model {name!r} has {most} positions')


def table_of(results: Mapping[str, Mapping[str, dict[str, float]]], length: int) -> Table:
    """Perplexity by part, a model a row; the loss over all of them last."""
    parts = list(next(iter(results.values())))
    rows = [['perplexity', *parts, 'nats a token']]
    for name, by_part in results.items():
        cells = [f'{by_part[part]["perplexity"]:.2f}' for part in parts]
        rows.append([name, *cells, f'{by_part[ALL]["loss"]:.4f}'])
    counts = next(iter(results.values()))
    rows.append(['tokens predicted', *(f'{counts[part]["tokens"]:,}' for part in parts), ''])
    return f'Validation text in windows of {length} tokens without overlap', rows


def _windows(tokens: np.ndarray, length: int, batch: int) -> Iterator[Tensor]:
    """(b, n) of ids, n = length but for what is left at the end."""
    whole = len(tokens) // length
    ids = torch.from_numpy(np.asarray(tokens, dtype=np.int64))
    if whole:
        yield from ids[: whole * length].reshape(whole, length).split(batch)
    if len(tokens) - whole * length > 1:
        yield ids[None, whole * length :]


def _loss(model: Any, ids: Tensor) -> Loss:
    ids = ids.to(device())
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1).float()
    nats = cross_entropy(logits, ids[:, 1:].flatten(), reduction='none')
    return Loss(nats.double().sum().item(), nats.numel())
