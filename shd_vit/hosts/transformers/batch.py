"""What counts in a batch of a language model: predictions, tokens, sequences."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from shd_vit.errors import ConfigError
from shd_vit.hosts.transformers.packing import count_sequences
from shd_vit.taps.family import bound_arguments

IGNORED = -100  # the label that counts in no loss of transformers
MEANS = ('rows', 'tokens', 'sequences')  # what losses are means over


class Predictions(NamedTuple):
    """Where a model predicts a label that counts.

    Attributes:
        rows: Bool (B, N), or (B,) of a classifier.
        target: (R,) labels of these rows; R is how many rows are True.
    """

    rows: Tensor
    target: Tensor

    @classmethod
    def of(cls, batch: Mapping[str, Any], is_shifted: bool) -> Predictions:
        """Those of a batch.

        Args:
            batch: With ``labels`` (B, N) or (B,), or ``shift_labels`` (B, N).
            is_shifted: Whether position n predicts label n + 1, as in causal models.

        Raises:
            ConfigError: If there are no labels.
        """
        labels = _labels(batch, is_shifted)
        if labels is None:
            raise ConfigError(
                'the batch has no labels: which rows of logits count is unknown (a data '
                'collator such as DataCollatorForLanguageModeling(mlm=False) makes them)'
            )
        rows = labels != IGNORED
        return cls(rows, labels[rows])

    def take(self, x: Any, role: str) -> Tensor:
        """(R, C) of logits or hidden states (B, N, C), or (B, C) of a classifier.

        Raises:
            ConfigError: If there are none, or they have other positions.
        """
        if not isinstance(x, Tensor):
            raise ConfigError(
                f'the {role} gave no logits, which a loss compares: its trainer makes its own loss '
                'without them; leave losses on logits out'
            )
        if x.shape[:-1] != self.rows.shape:
            raise ConfigError(
                f'logits of the {role} are {tuple(x.shape)}, but there are labels for '
                f'{tuple(self.rows.shape)}'
            )
        return x[self.rows.to(x.device)]


def whole_sequences(batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """A batch of TRL's prompts and completions as one of sequences, with labels; others as is."""
    if not {'prompt_ids', 'completion_ids'} <= batch.keys():
        return batch
    ids, mask = (
        torch.cat([batch[f'prompt_{part}'], batch[f'completion_{part}']], dim=1)
        for part in ('ids', 'mask')
    )
    counted = batch['completion_mask'] * batch.get('tool_mask', 1)
    given = batch['completion_ids'].masked_fill(counted == 0, IGNORED)
    labels = torch.cat([torch.full_like(batch['prompt_ids'], IGNORED), given], dim=1)
    return dict(input_ids=ids, attention_mask=mask, labels=labels)


def counts(batch: Mapping[str, Any], is_shifted: bool, rows: str = 'all') -> Tensor:
    """How many rows of logits, tokens and sequences count in a batch, (3,), as in :data:`MEANS`.

    Args:
        batch: Of a trainer.
        is_shifted: Whether position n predicts label n + 1.
        rows: 'all' counts every token that is no padding, 'completion' those that predict.
    """
    x, mask = batch.get('input_ids'), batch.get('attention_mask')
    labels = _labels(batch, is_shifted)
    places: Any
    size, places = (len(x), x.numel()) if isinstance(x, Tensor) else (1, 1)
    if isinstance(mask, Tensor) and mask.dim() == 2:
        places = mask.ne(0).sum()
    predictions = 0 if labels is None else (labels != IGNORED).sum()
    found = (
        predictions,
        places if rows == 'all' else predictions,
        count_sequences(batch, size),
    )
    return torch.stack([torch.as_tensor(n, dtype=torch.float64).cpu() for n in found])


def _labels(batch: Mapping[str, Any], is_shifted: bool) -> Tensor | None:
    """Labels at the positions that predict them; None if there are none.

    What padding predicts counts not: before a sequence that is padded on the left, that is its
    first word, from nothing.
    """
    labels, mask = batch.get('shift_labels'), batch.get('attention_mask')
    if labels is None:
        labels = batch.get('labels')
        if labels is None or not is_shifted:
            return labels
        labels = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    if isinstance(mask, Tensor) and mask.shape == labels.shape:
        labels = labels.masked_fill(mask == 0, IGNORED)
    return labels


def base_model(model: Any) -> Any:
    """The model of transformers inside an adapter of peft, or itself."""
    return model.get_base_model() if hasattr(model, 'get_base_model') else model


def forward_names(model: nn.Module) -> list[str]:
    """Arguments that a model's forward names; an adapter's are those of the model inside."""
    return list(_names(type(base_model(model)).forward))


@cache
def _names(forward: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(
        name
        for name, p in inspect.signature(forward).parameters.items()
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and name != 'self'
    )


def teacher_inputs(
    teacher: nn.Module, batch: Mapping[str, Any], wants_logits: bool
) -> dict[str, Any]:
    """What a teacher is called with: all of a batch that its forward names, but no labels.

    Raises:
        ConfigError: If the batch has what changes the meaning of its tokens, and the teacher
            cannot take that.
    """
    names = forward_names(teacher)
    if not isinstance(batch.get('input_ids'), Tensor):
        raise ConfigError(
            f'the batch has no input_ids (it has {", ".join(batch)}): the teacher '
            f'{type(teacher).__name__} reads tokens, not embeddings of the student'
        )
    for name in ('attention_mask', 'position_ids'):
        if batch.get(name) is not None and name not in names:
            raise ConfigError(
                f'the batch has {name}, which {type(teacher).__name__} of the teacher does not '
                'take: it would see other tokens, or at other places'
            )
    given = {name: batch[name] for name in names if name in batch and 'labels' not in name}
    if 'use_cache' in names:
        given['use_cache'] = False
    if not wants_logits and 'logits_to_keep' in names:
        given['logits_to_keep'] = 1  # its classifier is the dearest layer of a small model
    return given


class Positions:
    """Forward pre-hook: positions of tokens that a mask tells, where the model would count padding.

    GPT-2 and its kin have learned positions and count them from the first token, padding or not.
    An object, not a closure, so that a copy of the model has its own.
    """

    def __call__(self, module, args, kwargs):
        call = bound_arguments(module, args, kwargs)
        ids, mask = call.get('input_ids'), call.get('attention_mask')
        if call.get('position_ids') is not None or ids is None or mask is None:
            return None
        if mask.shape != ids.shape:
            return None
        positions = mask.long().cumsum(1).sub(1).clamp(min=0)
        return args, {**kwargs, 'position_ids': positions}


def give_positions(model: nn.Module) -> None:
    """Have a model with learned positions count them from the first token that is no padding."""
    for module in base_model(model).modules():
        if isinstance(getattr(module, 'wpe', None), nn.Embedding):
            hooks = module._forward_pre_hooks.values()
            if not any(isinstance(hook, Positions) for hook in hooks):
                module.register_forward_pre_hook(Positions(), with_kwargs=True)
