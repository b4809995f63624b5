"""Encode a folder of pictures with a VAE once, for latent diffusion.

python tools/dit_latents.py data/imagenet/train sd-vae-ft-mse data/imagenet_latents --flip

Pictures stand in a folder a class. ImageNet at 256 with mirror images is 2.6 M latents of
32 x 32 x 4 in float16, 21 GB; training reads them from the file as it goes.
"""

import argparse
from pathlib import Path

import torch

from shd_vit.command import run_tool
from shd_vit.errors import check_number
from shd_vit.lab.diffusion.encoding import Pictures, encode


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('pictures', help='folder with a folder a class')
    add('vae', help='folder of an AutoencoderKL, as sd-vae-ft-mse')
    add('out', help='folder of latents.npy and labels.npy')
    add('--size', type=int, default=256, help='of pictures (default: %(default)s)')
    add('--flip', action='store_true', help='mirror images as well')
    add('--batch-size', type=int, default=64, help='(default: %(default)s)')
    add('--workers', type=int, default=4, help='processes that read (default: %(default)s)')
    add('--cpu', action='store_true', help='leave a GPU alone')
    args = parser.parse_args()
    for name in ('size', 'batch_size'):
        check_number(f'--{name.replace("_", "-")}', getattr(args, name), positive=True, whole=True)
    is_cuda = torch.cuda.is_available() and not args.cpu
    shape = encode(
        Pictures(args.pictures, args.size),
        args.vae,
        Path(args.out),
        flip=args.flip,
        batch_size=args.batch_size,
        workers=args.workers,
        device=torch.device('cuda' if is_cuda else 'cpu'),
    )
    print(f'{args.out}/latents.npy: {shape[0]:,} latents {shape[1:]}')


if __name__ == '__main__':
    run_tool(main)
