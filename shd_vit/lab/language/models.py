"""Language models from folders, names on the hub and GGUF files, as command lines name them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from shd_vit.errors import CheckpointError, ConfigError

GGUF = '.gguf'
TOKENIZERS = ('tokenizer.json', 'tokenizer.model', 'vocab.json', 'vocab.txt')


def named_models(arguments: list[str]) -> dict[str, str]:
    """Paths by name of NAME=PATH, or of PATH alone, which is called by its last part.

    Raises:
        ConfigError: If two have one name.
    """
    models: dict[str, str] = {}
    for argument in arguments:
        name, given, path = argument.partition('=')
        if not given:
            path, name = argument, Path(argument).name
        if not name or not path:
            raise ConfigError(f'{argument!r}: expected MODEL or NAME=MODEL')
        if name in models:
            raise ConfigError(f'{argument!r}: there is a model named {name!r} already')
        models[name] = path
    return models


def load_causal(path: str) -> Any:
    """A causal model in eval mode and float32, on the GPU if there is one.

    Args:
        path: A folder of ``save_pretrained``, a name on the hub, or a .gguf file.

    Raises:
        CheckpointError: If there is none, or its weights are not all there.
    """
    model, missing = load(AutoModelForCausalLM, path)
    if missing:
        raise CheckpointError(
            f'{path!r} has no weights for {missing[0]!r}: what it answers would be random'
        )
    return model.to(device()).eval()


def load(kind: Any, path: str, **settings: Any) -> tuple[Any, list[str]]:
    """A model of transformers in float32, and the names of weights that its file lacks.

    Args:
        kind: The class whose ``from_pretrained`` is called.
        path: As of :func:`load_causal`.
        settings: Of ``from_pretrained``.

    Raises:
        CheckpointError: If it cannot be loaded.
    """
    quiet()
    try:
        model, info = kind.from_pretrained(
            **_where(path), dtype=torch.float32, output_loading_info=True, **settings
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f'{path!r} is no such model: {_first_line(error)}') from None
    return model, sorted(info['missing_keys'])


def load_tokenizer(path: str) -> Any:
    """The tokenizer beside a model, padding with its end of text where it has no padding.

    Raises:
        CheckpointError: If there is none.
    """
    quiet()
    if not has_tokenizer(path):
        raise CheckpointError(f'{path!r} has no tokenizer beside it')
    try:
        tokenizer = AutoTokenizer.from_pretrained(**_where(path))
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f'{path!r} has no tokenizer: {_first_line(error)}') from None
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise CheckpointError(f'the tokenizer of {path!r} has neither padding nor an end')
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def has_tokenizer(path: str) -> bool:
    """Whether a model has a tokenizer beside it; AutoTokenizer makes one up where there is none."""
    if path.endswith(GGUF):
        return True
    missing = dict(_raise_exceptions_for_missing_entries=False)
    try:
        return any(cached_file(path, file, **missing) for file in TOKENIZERS)
    except OSError as error:
        raise CheckpointError(f'{path!r} is no such model: {_first_line(error)}') from None


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device('cuda' if torch.cuda.is_available() else 'cpu')


def parameters(model: Any) -> int:
    """How many, those that are used twice counted once."""
    return sum(p.numel() for p in model.parameters())


def quiet() -> None:
    """No bars of libraries about files, and nothing below an error, among our tables."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger('transformers').setLevel(logging.ERROR)


def _where(path: str) -> dict[str, str]:
    """Arguments of ``from_pretrained``."""
    if not path.endswith(GGUF):
        return dict(pretrained_model_name_or_path=path)
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(f'{path!r} does not exist')
    return dict(pretrained_model_name_or_path=str(file.parent), gguf_file=file.name)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:200]
