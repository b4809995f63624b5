"""What of a run's data is refused before the first batch."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmpretrain.registry import DATASETS
from torch import nn

from shd_vit.data.beton import Beton
from shd_vit.data.folders import check_same_classes, listed
from shd_vit.distillation.step import num_classes
from shd_vit.errors import ConfigError, DatasetError, ShdVitError
from shd_vit.hosts.mmpretrain.hooks import unwrapped


@contextmanager
def reading(dataset: Any) -> Iterator[None]:
    """Errors of a data set that is being built from a config, as one line that names it.

    Raises:
        ConfigError: If its folder or annotation file does not exist.
        DatasetError: If it cannot be read.
    """
    if not isinstance(dataset, dict):
        yield
        return
    check_paths(dataset)
    try:
        yield
    except ShdVitError:
        raise
    except (AssertionError, OSError, RuntimeError, ValueError) as error:
        place = dataset.get('ann_file') or dataset.get('data_root') or dataset.get('data_prefix')
        reason = ' '.join(f'{type(error).__name__}: {error}'.split())
        raise DatasetError(
            f'{dataset.get("type")} of {place!r} cannot be read: {reason}'
        ) from error


def check_paths(dataset: dict) -> None:
    """Refuse a folder that is not there, unless the data set would download itself into it."""
    kind, root = dataset.get('type'), dataset.get('data_root') or ''
    if '://' in root:
        return
    if root and not os.path.isdir(root):
        cls = DATASETS.get(kind) if isinstance(kind, str) else kind
        parameter = cls and inspect.signature(cls).parameters.get('download')
        if not dataset.get('download', parameter and parameter.default):
            raise ConfigError(
                f'dataset.data_root={root!r} of {kind} does not exist: expected a folder'
            )
    file = dataset.get('ann_file') or ''
    if isinstance(file, str) and file and '://' not in file:
        path = os.path.join(root, os.path.expanduser(file))
        if os.path.exists(path):
            return
        raise ConfigError(f'dataset.ann_file={file!r} of {kind} does not exist: no {path!r}')


@HOOKS.register_module()
class DataCheckHook(Hook):
    """Refuses data whose labels do not mean the model's classes, before training or testing."""

    def before_run(self, runner) -> None:
        loops = {split: getattr(runner, f'_{split}_loop') for split in ('train', 'val', 'test')}
        found = {
            f'{split}_dataloader': loop.dataloader.dataset
            for split, loop in loops.items()
            if hasattr(getattr(loop, 'dataloader', None), 'dataset')
        }
        check_data(found, number_of_classes(unwrapped(runner.model)))


def check_data(datasets: dict[str, Any], classes: int | None) -> None:
    """Compare the data sets of a run with each other and with the model.

    Args:
        datasets: By the names of their loaders.
        classes: Outputs of the model's head, where that is known.

    Raises:
        ConfigError: If a data set has another number of classes than the model.
        DatasetError: If a label is outside the model's classes, or if the classes of validation are
            not those of training.
    """
    names = {loader: _Names.of(dataset) for loader, dataset in datasets.items()}
    train = names.get('train_dataloader')
    for loader, dataset in datasets.items():
        own, place = names[loader], _place(loader, dataset)
        if train and loader == 'val_dataloader':
            train.check_same(own, _place('train_dataloader', datasets['train_dataloader']), place)
        if classes is None:
            continue
        if own.classes and len(own.classes) != classes:
            raise ConfigError(
                f"the model's head has num_classes={classes}, but {place} has "
                f'{len(own.classes):,} classes: {listed(own.classes)}'
            )
        _check_labels(dataset, loader, classes)


def _place(loader: str, dataset: Any) -> str:
    """A loader's name, and the file or folder that it reads."""
    place = getattr(dataset, 'path', None) or getattr(dataset, 'data_prefix', None)
    place = place.get('img_path') if isinstance(place, dict) else place
    return f'{loader} ({place})' if place else loader


def number_of_classes(model: nn.Module) -> int | None:
    """Outputs of a classifier's head, or of a distiller's student's, where they can be told."""
    return num_classes(getattr(model, 'student', model)) or None


class _Names(NamedTuple):
    """What a data set calls its classes, in the order of labels.

    Attributes:
        classes: By its meta data.
        folders: The folders that they were read from.
    """

    classes: list[str] | None
    folders: list[str] | None

    @classmethod
    def of(cls, dataset: Any) -> _Names:
        classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
        folders = getattr(dataset, 'folder_to_idx', None)
        if isinstance(folders, dict):
            folders = sorted(folders, key=folders.__getitem__)
        elif isinstance(dataset, Beton):
            folders = (dataset.manifest.get('source') or {}).get('folders')
        return cls(*(list(names) if names else None for names in (classes, folders)))

    def check_same(self, other: _Names, name: str, other_name: str) -> None:
        if self.folders and other.folders:
            check_same_classes(self.folders, other.folders, name, other_name)
        elif self.classes and other.classes and self.classes != other.folders:
            check_same_classes(self.classes, other.classes, name, other_name)


def _check_labels(dataset: Any, loader: str, classes: int) -> None:
    labels = getattr(dataset, 'labels', None)  # a .beton file's
    if isinstance(labels, np.ndarray):
        wrong = np.flatnonzero((labels < 0) | (labels >= classes))
        if len(wrong):
            where = f'sample {wrong[0]} of {dataset.path!r}'
            raise _outside(loader, where, int(labels[wrong[0]]), classes)
        return
    info = getattr(dataset, 'get_data_info', None)
    if info is None or getattr(dataset, 'folder_to_idx', None):
        return  # folders have been counted
    for index in range(len(dataset)):
        sample = info(index)
        for label in np.ravel(sample.get('gt_label', ())):
            if not 0 <= label < classes:
                where = sample.get('img_path') or getattr(dataset, 'ann_file', '')
                raise _outside(loader, f'sample {index} ({where})', int(label), classes)


def _outside(loader: str, where: str, label: int, classes: int) -> DatasetError:
    return DatasetError(
        f'{loader}: {where} has label {label}, but the model has {classes} classes: '
        f'labels are 0 to {classes - 1}'
    )
