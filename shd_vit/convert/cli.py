"""What tools that write weights share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from shd_vit.convert.architecture import LIBRARIES, Architecture
from shd_vit.convert.facts import ACTIVATIONS, POOLS, facts_of
from shd_vit.convert.files import plain_meta, save_weights
from shd_vit.convert.huggingface import save_folder
from shd_vit.convert.models import build_model, check_same, from_folder
from shd_vit.convert.source import source_model, stated_facts
from shd_vit.convert.weights import convert, to_timm
from shd_vit.errors import ConfigError


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
        'It is run beside what is written. A Hugging Face folder tells it, and a checkpoint of\n'
        'a timm script; otherwise --config or --model, or the four last options.',
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


def summary(state: dict[str, Tensor], out: str) -> str:
    """What a file holds, in one line."""
    parameters = sum(weight.numel() for weight in state.values())
    return f'{out}: {len(state)} tensors, {parameters:,} parameters'
