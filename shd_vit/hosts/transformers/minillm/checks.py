"""What MiniLLM cannot be trained with, refused when the trainer is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.utils.data import IterableDataset as TorchStream
from transformers import PreTrainedTokenizerBase
from trl import DistillationTrainer

from shd_vit.errors import ConfigError
from shd_vit.hosts.transformers.batch import base_model
from shd_vit.hosts.transformers.checks import common_vocabulary
from shd_vit.hosts.transformers.outputs import SCALINGS


def fit_vocabulary(student: Any, teacher: Any, tokenizer: Any, teacher_tokenizer: Any) -> None:
    """Cut padding off a teacher's vocabulary, in place, where it is larger than the student's.

    The teacher's distribution is then that over the tokens that there are.

    Raises:
        ConfigError: If the tokens are others, or the student's vocabulary is the larger.
    """
    if not isinstance(student, nn.Module) or not isinstance(teacher, nn.Module):
        return  # paths, which TRL loads and holds against each other
    common = common_vocabulary(student, teacher, tokenizer, teacher_tokenizer)
    ours, theirs = (
        base_model(model).get_input_embeddings().num_embeddings for model in (student, teacher)
    )
    if ours > theirs:
        raise ConfigError(
            f'the student knows {ours} tokens, the teacher {theirs}: what the student gives to the '
            'rest has no probability in the teacher; cut it with '
            f'model.resize_token_embeddings({common})'
        )
    if ours < theirs:
        base_model(teacher).resize_token_embeddings(common)


def check_rollouts(trainer: Any, teacher: Any) -> None:
    """Refuse models and data of which responses could not be drawn, or scored.

    Args:
        trainer: Has the student.
        teacher: Not wrapped.

    Raises:
        ConfigError: Naming the setting.
    """
    if not isinstance(trainer.processing_class, PreTrainedTokenizerBase) or trainer.tools:
        raise ConfigError('MiniLLM takes texts alone: give a tokenizer, and no tools')
    for name in ('deepspeed', 'fsdp'):
        if getattr(trainer, f'is_{name}_enabled'):
            raise ConfigError(
                f'{name}: MiniLLM was never run with it; use plain data parallelism (torchrun, '
                'accelerate launch --multi_gpu)'
            )
    for role, model in (('student', trainer.model), ('teacher', teacher)):
        config = base_model(model).config.get_text_config()
        if scaled := [name for name in SCALINGS if getattr(config, name, None) is not None]:
            raise ConfigError(
                f'{scaled[0]} of the {role} changes its logits after the last layer, which MiniLLM '
                'does not; use models without'
            )
    if (data := trainer.train_dataset) is not None:
        _check_data(trainer, data)


def _check_data(trainer: Any, data: Any) -> None:
    args = trainer.args
    if isinstance(data, TorchStream) or not hasattr(data, '__len__'):
        raise ConfigError('train_dataset is a stream: MiniLLM draws each prompt several times')
    batch = trainer.accelerator.num_processes * args.per_device_train_batch_size
    if len(data) < (needed := batch * args.generation_steps):
        raise ConfigError(
            f'train_dataset has {len(data)} rows, a generation batch {needed} (processes * '
            'per_device_train_batch_size * steps_per_generation)'
        )
    if 'prompt' not in data[0]:
        raise ConfigError(f'train_dataset has no column prompt (it has {", ".join(data[0])})')
    for start in range(0, len(data), 1000):
        prompts = data[start : start + 1000]['prompt']
        ids, _, _ = DistillationTrainer._tokenize_prompts(trainer, prompts)
        check_prompts(ids, trainer.prompt_limit, 'train_dataset row', start)


def prompt_limit(args: Any, *models: Any) -> int | None:
    """How long a prompt may be in tokens, so that it and its response can be read.

    Raises:
        ConfigError: If no prompt can.
    """
    limits = [args.max_prompt_length]
    for model in models:
        config = base_model(model).config.get_text_config()
        places = getattr(config, 'max_position_embeddings', None)
        if places is not None and places <= args.max_completion_length:
            raise ConfigError(
                f'max_completion_length={args.max_completion_length} leaves no room for a prompt '
                f'in the {places} positions of {type(base_model(model)).__name__}'
            )
        limits.append(None if places is None else places - args.max_completion_length)
    return min((limit for limit in limits if limit is not None), default=None)


def check_prompts(
    ids: Sequence[Sequence[int]], limit: int | None, name: str, start: int = 0
) -> None:
    """Refuse prompts that are empty, or too long to be answered.

    Raises:
        ConfigError: Naming the first.
    """
    for number, prompt in enumerate(ids, start):
        if not prompt:
            raise ConfigError(f'{name} {number} has a prompt without tokens')
        if limit is not None and len(prompt) > limit:
            raise ConfigError(
                f'{name} {number} has a prompt of {len(prompt)} tokens, more than {limit} '
                '(max_prompt_length, or what max_completion_length leaves of the positions of '
                'the models): leave it out, or cut it'
            )
