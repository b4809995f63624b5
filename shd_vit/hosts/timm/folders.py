"""Folders of images as timm's data sets, with what goes wrong in silence refused or said."""

from __future__ import annotations

import logging
from pathlib import Path

from timm.data import ImageDataset, get_img_extensions
from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.utils.misc import natural_key

from shd_vit.data.folders import ImageFolder, check_same_classes, scan_images
from shd_vit.errors import DatasetError

_logger = logging.getLogger(__name__)

# timm's names of the two folders, in its order; without one of them it reads all of the root.
SPLITS = dict(
    train=('train', 'training'),
    validation=('validation', 'val', 'valid', 'eval', 'evaluation'),
)


def image_folders(root: str) -> tuple[ImageDataset, ImageDataset]:
    """timm's data sets of training and validation images, of the classes of the training images.

    Classes are timm's: folders that hold images, called by their own names and in the order of
    timm's ``natural_key``. What is hidden, broken links, and images that stand in no class folder
    are left out, which timm takes for classes or for images.

    Args:
        root: With a folder for each split.

    Raises:
        DatasetError: If a folder is missing, has a class without images, or if the classes differ.
    """
    found = []
    for split in SPLITS:
        folder = scan_images(split_folder(root, split), get_img_extensions(), leaf=True)
        folder.check()
        found.append(folder)
        if folder.left_out():
            _logger.warning('%s: %s', folder.root, folder.left_out())
    train, validation = found
    check_same_classes([*train.files], [*validation.files], train.root, validation.root)
    classes = {name: i for i, name in enumerate(sorted(train.files, key=natural_key))}
    return _dataset(train, classes), _dataset(validation, classes)


def split_folder(root: str, split: str) -> Path:
    """The folder of a split.

    Raises:
        DatasetError: If there is none, naming those that were looked for.
    """
    for name in SPLITS[split]:
        if Path(root, name).is_dir():
            return Path(root, name)
    names = ', '.join(f'{name}/' for name in SPLITS[split])
    raise DatasetError(f'{root!r} has no folder of {split} images: looked for {names} in it')


def _dataset(folder: ImageFolder, classes: dict[str, int]) -> ImageDataset:
    return ImageDataset(folder.root, reader=_Reader(folder, classes))


class _Reader(ReaderImageFolder):
    """timm's reader of a folder that was scanned before."""

    def __init__(self, folder: ImageFolder, classes: dict[str, int]) -> None:
        self.root = folder.root
        self.class_to_idx = classes
        samples = [
            (str(Path(folder.root, path)), classes[name])
            for name, paths in folder.files.items()
            for path in paths
        ]
        self.samples = sorted(samples, key=lambda sample: natural_key(sample[0]))
