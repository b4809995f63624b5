"""The model that learns: made of a config's fields, or loaded."""

from __future__ import annotations

import inspect
from typing import Any

import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModelForCausalLM, PretrainedConfig

from shd_vit.errors import ConfigError
from shd_vit.hosts.transformers import initialise_from_teacher
from shd_vit.lab.language.models import load_causal, quiet
from shd_vit.lab.language.settings import check_names
from shd_vit.lab.study.source import short

INITIALISE = 'initialise_from_teacher'
OF_TOKENIZER = ('vocab_size', 'pad_token_id', 'bos_token_id', 'eos_token_id')


def make_student(model: str | dict[str, Any], tokenizer: Any, teachers: list[Any]) -> Any:
    """A causal model for a tokenizer, in float32, with random weights unless it has a path.

    Args:
        model: A path, or ``dict(type='LlamaConfig', ...)``; with ``initialise_from_teacher`` in it,
            'uniform' or what else that function takes, weights are those of the first teacher of
            its architecture.
        tokenizer: Gives vocabulary and special tokens.
        teachers: To start from.

    Raises:
        ConfigError: If a field is unknown or its value cannot be.
        CheckpointError: If there is no model at the path.
    """
    if isinstance(model, str):
        student = load_causal(model)
        size = student.get_input_embeddings().num_embeddings
        if size < len(tokenizer):
            raise ConfigError(
                f'model={model!r} knows {size} tokens, the tokenizer {len(tokenizer)}'
            )
        return student
    options = dict(model)
    layers = options.pop(INITIALISE, None)
    student = _made(options, tokenizer)
    if layers is not None:
        alike = [teacher for teacher in teachers if type(teacher) is type(student)]
        if not alike:
            raise ConfigError(
                f'model.{INITIALISE}: no teacher is a {type(student).__name__} to start from'
            )
        chosen = layers if isinstance(layers, dict) else dict(layers=layers)
        allowed = list(inspect.signature(initialise_from_teacher).parameters)[2:]
        check_names(chosen, allowed, f'model.{INITIALISE}')
        initialise_from_teacher(student, alike[0], **chosen)
    return student


def longest(model: Any) -> int | None:
    """How many tokens a model can see; None if nothing limits them."""
    return getattr(model.config, 'max_position_embeddings', None)


def _made(options: dict[str, Any], tokenizer: Any) -> Any:
    quiet()
    kind = options.pop('type', None)
    cls = getattr(transformers, kind, None) if isinstance(kind, str) else None
    if not isinstance(cls, type) or not issubclass(cls, PretrainedConfig):
        raise ConfigError(
            f'model.type={short(kind)} must be a config of transformers, such as LlamaConfig'
        )
    for name in OF_TOKENIZER:
        if name in options:
            raise ConfigError(f'model.{name} is taken from the tokenizer: leave it out')
    made: Any = cls
    fields = {**made.__dataclass_fields__, **made.attribute_map}
    check_names(options, sorted(set(fields) - set(OF_TOKENIZER)), 'model')
    special = {name: getattr(tokenizer, name) for name in OF_TOKENIZER[1:]}
    try:
        config = made(vocab_size=len(tokenizer), **special, **options)
        return AutoModelForCausalLM.from_config(config)
    except (
        StrictDataclassError,
        ValueError,
        TypeError,
        AssertionError,
        ZeroDivisionError,
    ) as error:
        raise ConfigError(f'model: {" ".join(str(error).split())[:300]}') from None
