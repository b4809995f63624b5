"""What tools that write weights share."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from shd_vit.convert.architecture import LIBRARIES, Architecture
from shd_vit.convert.entries import plain_meta
from shd_vit.convert.facts import ACTIVATIONS, POOLS, Facts, facts_of
from shd_vit.convert.files import save_weights
from shd_vit.convert.huggingface import save_folder
from shd_vit.convert.models import build_model, check_same, from_folder, put_in
from shd_vit.convert.weights import convert, library_of, to_timm
from shd_vit.errors import ConfigError

# Arguments of a timm model that a checkpoint may note, beside the sizes that its weights have.
_NOTED = {
    'img_size', 'num_heads', 'act_layer', 'global_pool', 'fc_norm', 'no_embed_class', 'qkv_bias',
    'init_values', 'class_token',
}  # fmt: skip


def add_options(parser: argparse.ArgumentParser, **to) -> None:
    """Options that :func:`write` takes. ``to`` is about ``--to``."""
    parser.add_argument('--to', choices=LIBRARIES, **to)
    parser.add_argument(
        '--class-head',
        action='store_true',
        help="leave out the distillation token's classifier, for DeiTForImageClassification",
    )
    parser.add_argument(
        '--no-ema',
        dest='ema',
        action='store_false',
        help='take the plain weights, where the checkpoint also has their moving average',
    )
    group = parser.add_argument_group(
        'the model that the weights are of',
        'It is run beside what is written. A Hugging Face folder tells it, and a checkpoint of a '
        'timm script; otherwise one of --config and --model, or the four last options.',
    )
    group.add_argument('--config', metavar='FILE', help='config of mmpretrain or of a distillation')
    group.add_argument('--model', metavar='NAME', help="timm's name")
    group.add_argument('--model-kwargs', nargs='*', default=[], metavar='KEY=VALUE', help='for it')
    group.add_argument('--heads', type=int, help='attention heads of a layer')
    group.add_argument('--activation', choices=ACTIVATIONS, help='of the MLP')
    group.add_argument('--pool', choices=POOLS, help='what the classifier reads')
    group.add_argument(
        '--image-size', type=int, nargs='+', metavar='PIXELS', help='side, or height and width'
    )


def write(
    state: dict[str, Tensor],
    args: argparse.Namespace,
    checkpoint: dict | None = None,
    source: nn.Module | None = None,
) -> str:
    """Convert weights and write them as the command line says; returns what was written.

    Args:
        state: In any layout that is known.
        args: ``out`` and the options above. ``out`` is a file, or for Hugging Face a folder.
        checkpoint: What ``state`` is from; its epoch and classes go into a ``.pth``, the names of
            the classes into a folder.
        source: The model of these weights, where the caller knows it.

    Raises:
        ConfigError: If the source's model is not known, or an option says otherwise than it.
        CheckpointError: If the export would not answer as the source does. Nothing is written.
    """
    checkpoint = checkpoint or {}
    source = source or source_model(state, args, checkpoint)
    facts = facts_of(source)
    for name, stated in stated_facts(args).items():
        if stated != getattr(facts, name):
            raise ConfigError(
                f'--{name.replace("_", "-")}={stated} differs from {getattr(facts, name)}, which '
                'the model of these weights has'
            )
    state = convert(state, args.to, class_head=args.class_head, image_size=facts.image_size)
    arch = Architecture.of(to_timm(state), facts.image_size)
    name = arch.class_of(args.to)
    shape = (arch.channels, *facts.image_size)
    found = []

    def check(written: Any) -> None:
        is_folder = isinstance(written, Path)
        target = from_folder(written) if is_folder else build_model(written, facts)
        found.append(check_same(source, target, shape, class_head=args.class_head))

    meta = plain_meta(checkpoint)
    if args.to == 'huggingface' and not Path(args.out).suffix:
        labels = meta.get('dataset_meta', {}).get('classes')
        save_folder(state, args.out, check=check, labels=labels, **facts._asdict())
    else:
        save_weights(state, args.out, meta, check)
    print(f'{args.out}: as its source on random images, to {found[0]:.0e} of a logit ({facts})')
    return f'{summary(state, args.out)}, for {name} of {args.to}'


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
        from mmpretrain.registry import MODELS

        from shd_vit.hosts.mmpretrain.model_config import read_model_config

        return put_in(MODELS.build(read_model_config(args.config, '--config').model), state)
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


def summary(state: dict[str, Tensor], out: str) -> str:
    """What a file holds, in one line."""
    parameters = sum(weight.numel() for weight in state.values())
    return f'{out}: {len(state)} tensors, {parameters:,} parameters'


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
    width, _, patch, _ = state['patch_embed.proj.weight'].shape
    noted = dict(record.get('model_kwargs') or {})
    noted = {'img_size': record.get('img_size'), **noted}
    kwargs = {
        'embed_dim': width,
        'patch_size': patch,
        'depth': sum(key.endswith('.norm1.weight') for key in state),
        'mlp_ratio': (len(state['blocks.0.mlp.fc1.weight']) + 0.5) / width,  # is rounded down
        **{key: value for key, value in noted.items() if key in _NOTED and value is not None},
    }
    others = noted.keys() - kwargs.keys() - _NOTED - {'num_classes', 'in_chans'}
    if others or not all(isinstance(x, int | float | str | tuple | list) for x in kwargs.values()):
        raise ConfigError(
            f'the checkpoint notes {name} with {sorted(others) or kwargs}: state --model and '
            '--model-kwargs'
        )
    return name, kwargs


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
