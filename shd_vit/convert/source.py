"""The model that weights are of, by what the command line or their checkpoint says."""

from __future__ import annotations

import argparse
import ast
from typing import Any

from torch import Tensor, nn

from shd_vit.convert.architecture import Architecture
from shd_vit.convert.facts import Facts
from shd_vit.convert.models import build_model, put_in
from shd_vit.convert.weights import library_of, to_timm
from shd_vit.errors import ConfigError, ShdVitError

# Arguments of a timm model that a checkpoint may note beside the sizes that its weights have, and
# those that make no other model of it.
_NOTED = {
    'img_size', 'num_heads', 'act_layer', 'global_pool', 'fc_norm', 'no_embed_class', 'qkv_bias',
    'init_values', 'class_token',
}  # fmt: skip
_NO_MATTER = {
    'num_classes', 'in_chans', 'drop_rate', 'drop_path_rate', 'pos_drop_rate', 'proj_drop_rate',
    'attn_drop_rate', 'patch_drop_rate', 'dynamic_img_size', 'weight_init',
}  # fmt: skip


def stated_facts(args: argparse.Namespace) -> dict[str, Any]:
    """Those of :class:`Facts` that the command line states.

    Raises:
        ConfigError: If ``--image-size`` is neither a side nor a height and a width.
    """
    stated = {name: getattr(args, name) for name in ('heads', 'activation', 'pool', 'image_size')}
    size = args.image_size
    if size is not None:
        if len(size) > 2 or min(size) < 1:
            raise ConfigError(f'--image-size={size} must be a side, or height and width, in pixels')
        stated['image_size'] = (size[0], size[-1])
    return {name: value for name, value in stated.items() if value is not None}


def source_model(state: dict[str, Tensor], args: argparse.Namespace, checkpoint: dict) -> nn.Module:
    """The model that weights are of, by what the command line and the checkpoint say.

    Raises:
        ConfigError: If they say too little.
        CheckpointError: If the weights do not fit it.
    """
    if args.model and args.config:
        raise ConfigError('--model and --config both name the model of the weights: state one')
    if args.config:
        return put_in(model_of_config(args.config, '--config'), state)
    to_timm(state)  # names what is missing or left over
    if args.model:
        pairs = (pair.partition('=') for pair in args.model_kwargs)
        kwargs = {key: _value(text) for key, _, text in pairs}
        if size := stated_facts(args).get('image_size'):
            kwargs.setdefault('img_size', size)
        return _timm_model(state, args.model, kwargs)
    recorded = _recorded(state, checkpoint)
    if recorded is not None:
        return _timm_model(state, *recorded)
    stated = stated_facts(args)
    missing = [name for name in Facts._fields[:4] if name not in stated]
    if missing:
        options = ', '.join(f'--{name.replace("_", "-")}' for name in missing)
        raise ConfigError(
            f'{options} must be stated, weights do not tell them; or name the model that the '
            'weights are of by --model (of timm) or --config (of mmpretrain)'
        )
    return build_model(state, Facts(**stated))


def model_of_config(path: str, option: str) -> nn.Module:
    """The classifier of a config of mmpretrain, or the student of a distillation's.

    Raises:
        ConfigError: If there is none, which names ``option``.
    """
    from mmpretrain.registry import MODELS

    from shd_vit.hosts.mmpretrain.model_config import read_model_config

    try:
        model = read_model_config(path, option).model
        if model.get('pretrained') is True:  # of timm's and Hugging Face's, which would fetch them
            model['pretrained'] = False
        return MODELS.build(model)
    except ShdVitError:
        raise
    except Exception as error:  # a config is code: of any kind
        reason = (str(error).strip().splitlines() or [''])[0][:300]
        raise ConfigError(
            f'{option}={path!r} cannot be built: {type(error).__name__}: {reason}'
        ) from None


def _timm_model(state: dict[str, Tensor], name: str, kwargs: dict[str, Any]) -> nn.Module:
    import timm

    if library_of(state) != 'timm':
        raise ConfigError(f'--model={name!r} is of timm, the weights are of {library_of(state)}')
    if not timm.is_model(name):
        raise ConfigError(f'--model={name!r} is no model of timm')
    classes, channels = len(state['head.weight']), state['patch_embed.proj.weight'].shape[1]
    try:
        model = timm.create_model(name, **{'num_classes': classes, 'in_chans': channels, **kwargs})
    except (TypeError, ValueError, RuntimeError, AssertionError, KeyError) as error:
        raise ConfigError(f'--model={name!r} cannot be built with {kwargs}: {error}') from None
    return put_in(model, state)


def _recorded(state: dict[str, Tensor], checkpoint: dict) -> tuple[str, dict[str, Any]] | None:
    """The model that timm's scripts and ours note in a checkpoint: name and arguments.

    The note is only data: the name must be of timm's own list, sizes are those of the weights, and
    no other argument is taken than those of a plain vision transformer.
    """
    record = checkpoint.get('args')
    record = record if isinstance(record, dict) else getattr(record, '__dict__', {})
    name = record.get('model') or checkpoint.get('arch')
    if library_of(state) != 'timm' or not isinstance(name, str):
        return None
    import timm

    if not timm.is_model(name):
        return None
    noted = record.get('model_kwargs')
    size = record.get('img_size') or record.get('input_size')
    size = size[1:] if isinstance(size, tuple | list) and len(size) == 3 else size
    noted = {
        'img_size': size,
        'global_pool': record.get('gp'),
        **(noted if isinstance(noted, dict) else {}),
    }
    width, _, patch, _ = state['patch_embed.proj.weight'].shape
    kwargs = {
        'embed_dim': width,
        'patch_size': patch,
        'depth': sum(key.endswith('.norm1.weight') for key in state),
        'mlp_ratio': (len(state['blocks.0.mlp.fc1.weight']) + 0.5) / width,  # is rounded down
        **{key: value for key, value in noted.items() if key in _NOTED and value is not None},
    }
    others = {key for key in noted if key not in kwargs and key not in _NOTED | _NO_MATTER}
    is_plain = all(isinstance(value, int | float | str | tuple | list) for value in kwargs.values())
    if others or not is_plain:
        what = sorted(map(str, others)) or kwargs
        raise ConfigError(f'the checkpoint notes {name} with {what}: state --model')
    if (size := kwargs.get('img_size')) is not None:
        sides = (size, size) if isinstance(size, int) else tuple(size)
        if [type(side) for side in sides] != [int, int]:
            raise ConfigError(f'the checkpoint notes img_size={size!r:.99}: state --model')
        Architecture.of(state, sides)  # nothing is built that weights do not fill
    return name, kwargs


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
