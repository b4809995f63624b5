"""mmpretrain's data sets of class folders, read as every other host of shd_vit reads them."""

from __future__ import annotations

import logging
from functools import wraps
from typing import Any

from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.logging import print_log

from shd_vit.data.folders import check_same_classes, listed, scan_images
from shd_vit.errors import DatasetError


def repair_class_folders() -> None:
    """Let mmpretrain's data sets of class folders see what is hidden as nothing, and say the rest.

    mmpretrain 1.2.0 takes a hidden folder (`.ipynb_checkpoints`) for the first class, which shifts
    all labels; it leaves out files of other types and broken links without a word, and trains with
    classes that have no images. Data on this machine's disks alone are changed, and only where a
    data set's own way to choose files is mmpretrain's.
    """
    from mmpretrain.datasets import CustomDataset

    theirs = CustomDataset._find_samples
    if hasattr(theirs, '__wrapped__'):
        return

    @wraps(theirs)
    def find_samples(self: Any) -> list[tuple[str, int]]:
        is_local = isinstance(get_file_backend(self.img_prefix), LocalBackend)
        is_theirs = type(self).is_valid_file is CustomDataset.is_valid_file
        return _find_samples(self) if is_local and is_theirs and self.with_label else theirs(self)

    CustomDataset._find_samples = find_samples


def _find_samples(self: Any) -> list[tuple[str, int]]:
    """Path relative to the data set's prefix, and label, of each image, in mmpretrain's order."""
    found = scan_images(self.img_prefix, self.extensions)
    found.check()
    if found.left_out():
        print_log(f'{found.root}: {found.left_out()}', 'current', logging.WARNING)
    names = list(found.files)
    classes = self.CLASSES
    if classes is None:
        self._metainfo['classes'] = tuple(names)
    elif set(classes) & set(names):  # labels go by the folders' order, whatever the names say
        check_same_classes(classes, names, "the data set's classes", found.root)
    elif len(classes) != len(names):
        raise DatasetError(
            f'{found.root!r} has {len(names):,} class folders ({listed(names)}), but '
            f'{type(self).__name__} has {len(classes):,} classes'
        )
    self.folder_to_idx = {name: label for label, name in enumerate(names)}
    return [(path, self.folder_to_idx[name]) for name in names for path in found.files[name]]
