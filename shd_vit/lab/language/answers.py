"""What a teacher answers to prompts: sequence-level distillation learns from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from shd_vit.errors import ConfigError


@torch.no_grad()
def answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_new_tokens: int,
    batch_size: int,
    seed: int | None = None,
) -> Iterator[str]:
    """The answer to each prompt, in their order.

    A model with a chat template is asked in it, as a user asks, without Alpaca's template.

    Args:
        model: A causal model in eval mode.
        tokenizer: Its own, with a padding token.
        prompts: Texts to go on from.
        max_new_tokens: Of an answer.
        batch_size: Prompts at a time.
        seed: Of sampling at temperature 1; None takes the most probable token.

    Raises:
        ConfigError: If a prompt and its answer do not fit into the model.
    """
    tokenizer.padding_side = 'left'
    places = getattr(model.config, 'max_position_embeddings', None)
    how: dict[str, Any] = dict(do_sample=False)
    if seed is not None:
        torch.manual_seed(seed)
        how = dict(do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
    for start in range(0, len(prompts), batch_size):
        texts = [_asked(tokenizer, prompt) for prompt in prompts[start : start + batch_size]]
        batch = tokenizer(texts, padding=True, return_tensors='pt').to(model.device)
        width = batch['input_ids'].shape[1]
        if places is not None and width + max_new_tokens > places:
            raise ConfigError(
                f'a prompt of {width} tokens and an answer of {max_new_tokens} are more than the '
                f'{places} positions of the model: lower --max-tokens'
            )
        drawn = model.generate(
            input_ids=batch['input_ids'],
            attention_mask=batch['attention_mask'],
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            **how,
        )
        texts = tokenizer.batch_decode(drawn[:, width:], skip_special_tokens=True)
        yield from (text.strip() for text in texts)


def _asked(tokenizer: Any, prompt: str) -> str:
    if tokenizer.chat_template is None:
        return prompt
    _, _, body = prompt.partition('### Instruction:\n')
    request = body.partition('\n\n### Response:')[0].replace('### Input:\n', '')
    message = [dict(role='user', content=request or prompt)]
    return tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
