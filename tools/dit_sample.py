"""Draw pictures with trained diffusion transformers, of every class, from the same noise.

python tools/dit_sample.py work_dirs/dit/samples teacher=work_dirs/dit/teacher \\
    student=work_dirs/dit/student --per-class 10 --sampler ddim --steps 50 --guidance 2
python tools/dit_sample.py out dit=facebook_dit --vae sd-vae-ft-ema --per-class 50 --steps 250 \\
    --guidance 3.8 --power 4 --guided-channels 3      # as MDT samples

Writes OUT/NAME.npz (arr_0: uint8 pictures, arr_1: classes; ADM's evaluator reads it) and
OUT/pictures.png.
"""

import argparse
from dataclasses import fields
from pathlib import Path

import torch

from shd_vit.command import run_tool
from shd_vit.lab.diffusion.drawing import (
    SAMPLERS,
    Drawing,
    class_names,
    draw,
    load_trained,
    picture,
)
from shd_vit.lab.diffusion.samples import save_samples
from shd_vit.lab.settings import named_folders

PRECISIONS = dict(fp32=None, bf16=torch.bfloat16, fp16=torch.float16)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('out', help='folder of what is written')
    add('models', nargs='+', metavar='NAME=FOLDER', help='that tools/dit_train.py has written')
    add('--per-class', type=int, default=10, help='pictures a class (default: %(default)s)')
    add('--sampler', choices=list(SAMPLERS), default='ddim', help='(default: %(default)s)')
    add('--steps', type=int, default=50, help='of the sampler (default: %(default)s)')
    add('--guidance', type=float, default=1.0, help='scale; 1 is none (default: %(default)s)')
    add('--power', type=float, help='of power-cosine guidance (default: constant)')
    add('--guided-channels', type=int, help='3 of 4 as DiT and MDT (default: all)')
    add('--vae', help='folder of the AutoencoderKL that decodes latents')
    add('--batch-size', type=int, default=100, help='(default: %(default)s)')
    add('--seed', type=int, default=0, help='of noise (default: %(default)s)')
    add('--precision', choices=list(PRECISIONS), default='fp32', help='(default: %(default)s)')
    add('--show', type=int, default=10, help='pictures a class in the figure (default: 10)')
    add('--cpu', action='store_true', help='leave a GPU alone')
    args = parser.parse_args()
    how = Drawing(**{f.name: getattr(args, f.name) for f in fields(Drawing)})
    models = named_folders(args.models)
    device = torch.device('cuda' if torch.cuda.is_available() and not args.cpu else 'cpu')
    precision = PRECISIONS[args.precision]
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for name, folder in models.items():
        model, scheduler = load_trained(folder, device)
        drawn[name] = images, labels = draw(model, scheduler, how, device, precision, name)
        names = class_names(folder)
        save_samples(out / f'{name}.npz', images, labels, names)
        print(f'{out / name}.npz: {len(images):,} pictures {tuple(images.shape[1:])}')
    picture(out / 'pictures.png', drawn, names, how.show)
    print(out / 'pictures.png')


if __name__ == '__main__':
    run_tool(main)
