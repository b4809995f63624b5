"""Write a .beton file for FFCVLoader, with a manifest beside it. FFCV's own Loader reads it, too.

ImageNet, or any folder with a sub-folder of images a class:
  python tools/data/write_ffcv.py data/imagenet/train.beton --imagenet-folder data/imagenet/train
  python tools/data/write_ffcv.py data/imagenet/val.beton --imagenet-folder data/imagenet/val

Fashion-MNIST, stored as pixels:
  python tools/data/write_ffcv.py data/fashion_mnist/train.beton \\
      --fashion-mnist data/fashion_mnist --split train

The data set of a config's train_dataloader, whatever it is:
  python tools/data/write_ffcv.py train.beton --config configs/my_config.py --split train
"""

import argparse
import os
import re

import numpy as np
from mmengine.registry import init_default_scope
from mmpretrain.datasets import ImageNet
from mmpretrain.registry import DATASETS

from shd_vit.data.writer import write_beton
from shd_vit.errors import DatasetError
from shd_vit.hosts.mmpretrain.cli import read_config, run_tool
from shd_vit.hosts.mmpretrain.data_checks import reading
from shd_vit.hosts.mmpretrain.ffcv_config import reader_backend, split_pipeline


class Samples:
    """Pairs of image and label of an mmpretrain data set, its pipeline left out."""

    def __init__(self, dataset, limit=None):
        self._dataset = dataset
        self._length = min(len(dataset), limit or len(dataset))

    def __len__(self):
        return self._length

    def __getitem__(self, index):
        # Evenly spread: data sets are often sorted by class.
        info = self._dataset.get_data_info(index * len(self._dataset) // self._length)
        return info['img'] if 'img' in info else info['img_path'], int(info['gt_label'])


def dataset_config(args: argparse.Namespace) -> dict:
    """Config of the data set that the command line names."""
    if args.config:
        cfg = read_config(args.config)
        init_default_scope(cfg.get('default_scope', 'mmpretrain'))
        loader = cfg.get(f'{args.split}_dataloader')
        if not loader or 'dataset' not in loader:
            raise DatasetError(f'{args.config!r} has no dataset in {args.split}_dataloader')
        return dict(loader.dataset)
    init_default_scope('mmpretrain')
    if args.fashion_mnist:
        # test_mode, not split, is what mmpretrain chooses the files by.
        test = args.split != 'train'
        return dict(
            type='FashionMNIST', data_root=args.fashion_mnist, test_mode=test, download=False,
            split='test' if test else 'train',
        )  # fmt: skip
    return dict(type='CustomDataset', data_prefix=args.imagenet_folder)


def class_names(dataset) -> list[str] | None:
    """The 1,000 folders n01440764 ... get ImageNet's names of classes, other folders are names."""
    names = dataset.metainfo.get('classes') or ()
    are_synsets = len(names) == 1000 and all(re.fullmatch(r'n\d{8}', name) for name in names)
    return list(ImageNet.METAINFO['classes'] if are_synsets else names) or None


def build_dataset(args: argparse.Namespace):
    """The data set, and the library that its config reads image files with."""
    config = dataset_config(args)
    pipeline = config.get('pipeline')
    backend = reader_backend(split_pipeline(pipeline)[0] if pipeline else None)
    if 'pipeline' in config:
        config['pipeline'] = []
    with reading(config):
        dataset = DATASETS.build(config)
    return dataset, backend


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('out', help='file to write, such as train.beton')
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        '--imagenet-folder', metavar='FOLDER', help='folder with a sub-folder of images a class'
    )
    source.add_argument(
        '--fashion-mnist', metavar='FOLDER', help='folder with the four IDX files, unpacked'
    )
    source.add_argument('--config', help='config file, of which --split names the data loader')
    parser.add_argument(
        '--split', choices=['train', 'val', 'test'], default='train',
        help='of --config or --fashion-mnist (default: %(default)s)',
    )  # fmt: skip
    parser.add_argument(
        '--max-resolution', type=int, default=500, metavar='PIXELS',
        help='scale images with a longer side down to it; 0 keeps them (default: %(default)s)',
    )  # fmt: skip
    parser.add_argument(
        '--quality', type=int, default=90, help='of JPEGs, 1 to 100 (default: %(default)s)'
    )
    parser.add_argument(
        '--proportion', type=float, metavar='P',
        help='of images stored as JPEGs, 0 to 1; the others are stored as pixels, larger and '
        'with nothing to decode (default: 1, and 0 for data sets that hold arrays)',
    )  # fmt: skip
    parser.add_argument('--workers', type=int, help='threads (default: one a core)')
    parser.add_argument(
        '--skip-bad', action='store_true',
        help='leave out images that cannot be decoded, and list them; else the first is an error',
    )  # fmt: skip
    parser.add_argument(
        '--limit', type=int, metavar='N', help='write N samples, evenly spread over the data set'
    )
    parser.add_argument('--force', action='store_true', help='replace the file if it exists')
    args = parser.parse_args()
    if args.limit is not None and args.limit < 1:
        parser.error(f'--limit {args.limit}: expected at least 1')
    return args


def main() -> None:
    args = parse_args()
    if os.path.exists(args.out) and not args.force:
        raise DatasetError(f'{args.out!r} exists already: --force replaces it')
    dataset, backend = build_dataset(args)
    samples = Samples(dataset, args.limit)
    proportion = args.proportion
    if proportion is None:
        proportion = 0.0 if len(samples) and isinstance(samples[0][0], np.ndarray) else 1.0
    kind = next(k for k in ('imagenet_folder', 'fashion_mnist', 'config') if getattr(args, k))
    split = None if kind == 'imagenet_folder' else args.split
    manifest = write_beton(
        args.out,
        samples,
        classes=class_names(dataset),
        source=dict(
            kind=kind,
            path=getattr(args, kind),
            split=split,
            limit=args.limit,
            folders=list(getattr(dataset, 'folder_to_idx', None) or ()) or None,
        ),
        max_resolution=args.max_resolution or None,
        quality=args.quality,
        proportion=proportion,
        workers=args.workers,
        skip_bad=args.skip_bad,
        overwrite=args.force,
        backend=backend,
    )
    skipped = f', {len(manifest["skipped"])} skipped' if manifest['skipped'] else ''
    size = manifest['file_size'] / 2**20
    print(f'{args.out}: {manifest["entries"]:,} images{skipped}, {size:,.1f} MiB')


if __name__ == '__main__':
    run_tool(main)
