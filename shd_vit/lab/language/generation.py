"""Responses of causal models to prompts, sampled in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.progress import Progress
from transformers import GenerationConfig

from shd_vit.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """How responses are made.

    Attributes:
        temperature: Of the softmax over the whole vocabulary (no top-k, no top-p); 0 takes the
            likeliest token.
        new_tokens: Of a response, at most.
        no_repeat_ngram_size: A sequence of so many tokens comes once at most, prompt included;
            0 leaves responses as the model has them.
        batch: Prompts at a time.
    """

    temperature: float
    new_tokens: int
    no_repeat_ngram_size: int
    batch: int


@torch.no_grad()
def respond(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    sampling: Sampling,
    seed: int,
    progress: Progress | None = None,
) -> tuple[list[str], int]:
    """A response to each prompt, and how many did not end within the tokens they may have.

    Prompts are padded on the left. What a model was saved with about generation is not used. The
    same seed and batch give the same responses.
    """
    model.generation_config = _config(tokenizer, sampling)
    tokenizer.padding_side = 'left'
    torch.manual_seed(seed)
    task = progress and progress.add_task(f'seed {seed}', total=len(prompts))
    texts, unfinished = [], 0
    for start in range(0, len(prompts), sampling.batch):
        batch = tokenizer(
            list(prompts[start : start + sampling.batch]),
            return_tensors='pt',
            padding=True,
            add_special_tokens=False,
        ).to(model.device)
        made = model.generate(input_ids=batch['input_ids'], attention_mask=batch['attention_mask'])
        for ids in made[:, batch['input_ids'].shape[1] :].tolist():
            end = ids.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in ids else None
            unfinished += end is None
            texts.append(tokenizer.decode(ids[:end], skip_special_tokens=True).strip())
        if progress:
            progress.advance(task, len(batch['input_ids']))
    return texts, unfinished


def long_prompts(tokenizer: Any, prompts: Sequence[str], most: int) -> set[int]:
    """Which prompts have more tokens.

    Raises:
        ConfigError: If the tokenizer has no end of text, or makes no token of a prompt.
    """
    if tokenizer.eos_token_id is None:
        raise ConfigError('the tokenizer has no end of text: where a response ends is not known')
    lengths = [len(x) for x in tokenizer(list(prompts), add_special_tokens=False)['input_ids']]
    if 0 in lengths:
        raise ConfigError(f'prompt {lengths.index(0) + 1} has no token')
    return {number for number, length in enumerate(lengths) if length > most}


def _config(tokenizer: Any, sampling: Sampling) -> GenerationConfig:
    how: dict[str, Any] = dict(do_sample=False)
    if sampling.temperature:
        how = dict(do_sample=True, temperature=sampling.temperature, top_k=0, top_p=1.0)
    return GenerationConfig(
        **how,
        max_new_tokens=sampling.new_tokens,
        no_repeat_ngram_size=sampling.no_repeat_ngram_size,
        repetition_penalty=1.0,
        num_beams=1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
