"""What tools that write weights share."""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import Tensor

from shd_vit.convert.architecture import LIBRARIES, Architecture
from shd_vit.convert.files import save_weights
from shd_vit.convert.huggingface import save_folder
from shd_vit.convert.weights import convert, to_timm


def add_options(parser: argparse.ArgumentParser, **to) -> None:
    """Options that :func:`write` takes. ``to`` is about ``--to``."""
    parser.add_argument('--to', choices=LIBRARIES, **to)
    parser.add_argument(
        '--heads',
        type=int,
        help="attention heads, for a Hugging Face folder's config (default: width / 64)",
    )
    parser.add_argument(
        '--class-head',
        action='store_true',
        help="leave out the distillation token's classifier, for DeiTForImageClassification",
    )


def write(state: dict[str, Tensor], args: argparse.Namespace, meta: dict | None = None) -> str:
    """Convert weights and write them as the command line says; returns what was written.

    Args:
        state: In any layout that is known.
        args: ``out`` and the options above. ``out`` is a file, or for Hugging Face a folder.
        meta: Plain data for a ``.pth``; a folder takes the names of the classes from it.
    """
    state = convert(state, args.to, class_head=args.class_head)
    name = Architecture.of(to_timm(state)).class_of(args.to)
    if args.to == 'huggingface' and not Path(args.out).suffix:
        labels = (meta or {}).get('dataset_meta', {}).get('classes')
        save_folder(state, args.out, heads=args.heads, labels=labels)
    else:
        save_weights(state, args.out, meta)
    return f'{summary(state, args.out)}, for {name} of {args.to}'


def summary(state: dict[str, Tensor], out: str) -> str:
    """What a file holds, in one line."""
    parameters = sum(weight.numel() for weight in state.values())
    return f'{out}: {len(state)} tensors, {parameters:,} parameters'
