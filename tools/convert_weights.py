"""Convert a vision transformer's weights between timm, mmpretrain and Hugging Face.

ViT, DeiT (with its distillation token or without) and DeiT3. What SRC is in is recognised by its
names; of a distillation's checkpoint the student is taken. The model of these weights and what was
written are run on the same random images; where they differ, nothing is written. See
docs/export.md.
"""

import argparse
import os

from shd_vit.checkpoint import model_weights, safe_load
from shd_vit.convert.cli import add_options, write
from shd_vit.convert.models import from_folder
from shd_vit.hosts.mmpretrain.checkpoint import fit_names
from shd_vit.hosts.mmpretrain.cli import run_tool


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('src', help='.pth or .safetensors, or a Hugging Face folder')
    parser.add_argument(
        'out', help='.pth or .safetensors to write; for huggingface a folder as well'
    )
    add_options(parser, required=True, help='the library that is to read OUT')
    args = parser.parse_args()

    is_folder = os.path.isdir(args.src)
    path = os.path.join(args.src, 'model.safetensors') if is_folder else args.src
    checkpoint = safe_load(path)
    state, which = model_weights(checkpoint, path, ema=args.ema)
    print(f'{args.src}: {which}')
    source = from_folder(args.src) if is_folder else None
    print(write(fit_names(state, ()), args, checkpoint, source))


if __name__ == '__main__':
    run_tool(main)
