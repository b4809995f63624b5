"""What cannot be distilled in a Trainer, refused when it is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from shd_vit.errors import ConfigError
from shd_vit.hosts.transformers.batch import base_model


def check_trainer(trainer: Any, losses: nn.ModuleDict, reads_layers: bool) -> None:
    """Refuse ways of training in which terms would be wrong, or were never tried.

    Args:
        trainer: A Trainer.
        losses: By name.
        reads_layers: Whether a loss reads what is inside the student.

    Raises:
        ConfigError: Naming the setting.
    """
    args = trainer.args
    if trainer.model_init is not None:
        raise ConfigError(
            'model_init makes the student anew in train(), where nothing listens to it: give model'
        )
    if args.n_gpu > 1:
        raise ConfigError(
            f'n_gpu={args.n_gpu}: one process for several devices copies the student at each step; '
            'start one process a device with torchrun or accelerate launch'
        )
    learning = [name for name, loss in losses.items() if list(loss.parameters())]
    if learning and trainer.lr_scheduler is not None:
        raise ConfigError(
            f'optimizers has a schedule, made without the weights of losses.{learning[0]}: let the '
            'trainer make it (args.lr_scheduler_type)'
        )
    for name in ('deepspeed', 'fsdp'):
        if getattr(trainer, f'is_{name}_enabled'):
            raise ConfigError(
                f'{name} shards or wraps weights in ways that distillation was never run with: use '
                'plain data parallelism (torchrun, accelerate launch --multi_gpu)'
            )
    settings = args.gradient_checkpointing_kwargs or {}
    if reads_layers and args.gradient_checkpointing and settings.get('use_reentrant'):
        raise ConfigError(
            'gradient_checkpointing_kwargs.use_reentrant=True runs layers without gradients, so '
            'that nothing inside them can be distilled: set it to False'
        )


def check_model(model: nn.Module, role: str, device: Any) -> None:
    """Refuse an encoder-decoder, and layers that are spread over devices.

    Raises:
        ConfigError: Naming the model's class.
    """
    config = getattr(base_model(model), 'config', None)
    if getattr(config, 'is_encoder_decoder', False):
        raise ConfigError(
            f'the {role} {type(model).__name__} is an encoder-decoder: its layers see two '
            'sequences; models of one sequence can be distilled'
        )
    places = set(map(str, (getattr(model, 'hf_device_map', None) or {}).values()))
    here = {str(device), str(device.index), device.type}
    if len(places) > 1 or (role == 'teacher' and places - here):
        raise ConfigError(
            f'the {role} is spread over {", ".join(sorted(places))} (device_map): load it onto '
            f'{device} alone'
        )


def common_vocabulary(
    student: nn.Module, teacher: nn.Module, tokenizer: Any, teacher_tokenizer: Any
) -> int | None:
    """How many tokens two models have in common; None of models that do not embed tokens.

    Sizes may differ by padding alone.

    Args:
        student: With input embeddings.
        teacher: The same.
        tokenizer: The student's, or None if it is not known.
        teacher_tokenizer: The teacher's, or None if it is not known.

    Raises:
        ConfigError: If the tokens are others, or the sizes differ and no tokenizer says why.
    """
    sizes = [_embedded(model) for model in (student, teacher)]
    vocabulary: dict[str, int] = getattr(tokenizer, 'get_vocab', dict)()
    theirs: dict[str, int] = getattr(teacher_tokenizer, 'get_vocab', dict)()
    if vocabulary and theirs and vocabulary != theirs:
        _refuse_other_tokens(vocabulary, theirs)
    if None in sizes:
        return None
    least = min(size for size in sizes if size is not None)
    if sizes[0] != sizes[1]:
        known = vocabulary or theirs
        if not known:
            raise ConfigError(
                f'the student knows {sizes[0]} tokens, the teacher {sizes[1]}: whether they are '
                'the same but for padding is unknown; give processing_class and '
                'teacher_tokenizers, or use models of one tokenizer'
            )
        if max(known.values()) >= least:
            raise ConfigError(
                f'the student knows {sizes[0]} tokens, the teacher {sizes[1]}, and the tokenizer '
                f'has {max(known.values()) + 1}: one of them lacks tokens; use models of one '
                'tokenizer'
            )
    return least


def check_names(losses: Any, schedules: Any) -> None:
    """Refuse names of losses that a log has already, and schedules of none.

    Raises:
        ConfigError: Naming the first; or if these are no dicts.
    """
    for field, given in (('losses', losses), ('schedules', schedules)):
        if not isinstance(given, Mapping):
            raise ConfigError(f'{field}={given!r} must be a dict by name of the loss')
    names = list(losses)
    if not names:
        raise ConfigError('there is nothing to distil: give losses, such as dict(shd=True)')
    for name in names:
        if name in ('loss', 'task_loss', 'grad_norm', 'learning_rate', 'epoch', 'step'):
            raise ConfigError(f'losses.{name}: the log of the trainer has that name already')
    if unknown := sorted(set(schedules) - set(names)):
        raise ConfigError(f'schedules.{unknown[0]}: there is no such loss in {sorted(names)}')


def _embedded(model: nn.Module) -> int | None:
    try:
        return base_model(model).get_input_embeddings().num_embeddings
    except (AttributeError, NotImplementedError):
        return None


def _refuse_other_tokens(ours: dict[str, int], theirs: dict[str, int]) -> None:
    differing = [token for token in {**ours, **theirs} if ours.get(token) != theirs.get(token)]
    first = min(differing, key=lambda token: ours.get(token, theirs.get(token, 0)))
    raise ConfigError(
        f'the tokenizers of student and teacher differ in {len(differing)} tokens: {first!r} is '
        f'{ours.get(first, "no token")} of the student, {theirs.get(first, "no token")} of the '
        'teacher, which would read other words; use a teacher of the same tokenizer, or give '
        'teacher_tokenizers if this is not its own'
    )
