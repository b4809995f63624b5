"""Convert a vision transformer's weights between timm, mmpretrain and Hugging Face.

ViT, DeiT (with its distillation token or without) and DeiT3. What SRC is in is recognised by its
names; of a distillation's checkpoint the student is taken. See docs/export.md.
"""

import argparse
import os

from shd_vit.checkpoint import safe_load, weights_of
from shd_vit.convert.cli import add_options, write
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
    file = os.path.join(args.src, 'model.safetensors') if is_folder else args.src
    checkpoint = safe_load(file)
    meta = checkpoint.get('meta')
    state = fit_names(weights_of(checkpoint, file), ())
    print(write(state, args, meta if isinstance(meta, dict) else None))


if __name__ == '__main__':
    run_tool(main)
