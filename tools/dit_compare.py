"""Show trainings of diffusion transformers side by side: their pictures and their curves.

python tools/dit_compare.py out student=work_dirs/dit/student shd=work_dirs/dit/shd --show 5

Of runs by tools/dit_train.py whose recipe has ``pictures``. Writes OUT/pictures.png, of the last
pictures of each, and OUT/curves.svg, each term of all runs on an axis of its own.
"""

import argparse
from pathlib import Path

from shd_vit.command import run_tool
from shd_vit.errors import ConfigError
from shd_vit.lab.diffusion.drawing import class_names, picture
from shd_vit.lab.diffusion.gallery import SAMPLES, draw_curves
from shd_vit.lab.diffusion.samples import load_samples
from shd_vit.lab.diffusion.training import LOG
from shd_vit.lab.settings import named_folders


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('out', help='folder of what is written')
    parser.add_argument('runs', nargs='+', metavar='NAME=FOLDER', help='folder of a training')
    parser.add_argument('--show', type=int, default=5, help='pictures a class (default: 5)')
    args = parser.parse_args()
    runs = {name: Path(folder) for name, folder in named_folders(args.runs).items()}
    for folder in runs.values():
        missing = [file for file in (SAMPLES, LOG) if not (folder / file).is_file()]
        if missing:
            raise ConfigError(
                f'{str(folder)!r} has no {missing[0]}: it is no run that drew pictures'
            )
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    drawn = {name: load_samples(folder / SAMPLES) for name, folder in runs.items()}
    names = class_names(str(next(iter(runs.values()))))
    picture(out / 'pictures.png', drawn, names, args.show)
    draw_curves({name: folder / LOG for name, folder in runs.items()}, out / 'curves.svg')
    print(f'{out / "pictures.png"}, {out / "curves.svg"}')


if __name__ == '__main__':
    run_tool(main)
