"""Reading the student's and the teacher's configuration."""

from __future__ import annotations

import copy
import os
from typing import Any, NamedTuple

import torch
from mmengine.config import Config, ConfigDict

from shd_vit.errors import ConfigError

MISSING = object()


class ModelConfig(NamedTuple):
    """A classifier's configuration, read from whatever form the user wrote.

    Attributes:
        model: What the registry builds the classifier from.
        data_preprocessor: The one that the classifier was made for, or None if not stated.
        checkpoint: Local path or URL; None if the user wrote None, MISSING if nothing.
        image_size: That a teacher's images are resized to, or None.
        dtype: Of a teacher's weights, or None.
    """

    model: ConfigDict
    data_preprocessor: ConfigDict | None
    checkpoint: Any
    image_size: Any = None
    dtype: torch.dtype | None = None


def read_model_config(cfg: str | dict, field: str) -> ModelConfig:
    """Read ``model.student`` or ``model.teacher``.

    Args:
        cfg: A classifier's dict with ``type``; a config path, local or ``mmpretrain::...``; or a
            dict with ``config`` (such a path or dict), whose other keys are merged over that
            config's model. Both dicts may hold ``checkpoint``, ``image_size`` and ``dtype``.
        field: How errors name it.

    Raises:
        ConfigError: If there is no such file, or it holds no classifier.
    """
    cfg = {'config': cfg} if isinstance(cfg, str) else copy.deepcopy(dict(cfg))
    checkpoint = cfg.pop('checkpoint', MISSING)
    options = cfg.pop('image_size', None), _dtype(cfg.pop('dtype', None), f'{field}.dtype')
    source = cfg.pop('config', None)
    if isinstance(source, str):
        whole = plain_classifier(_load(source, f'{field}.config'))
        model = whole.get('model', {})
        preprocessor = model.get('data_preprocessor') or whole.get('data_preprocessor')
    else:
        model, preprocessor = dict(source or {}), None
    if cfg:
        model = Config(dict(model=model))
        model.merge_from_dict(dict(model=cfg))
        model = model.model
    model = ConfigDict(model)
    if 'type' not in model:
        raise ConfigError(
            f"{field} has neither 'type' nor 'config': write a classifier's dict, or "
            "dict(config='mmpretrain::...', checkpoint=...)"
        )
    # One preprocessor serves both models; what a classifier was made for is only compared.
    preprocessor = model.pop('data_preprocessor', None) or preprocessor
    return ModelConfig(model, preprocessor and ConfigDict(preprocessor), checkpoint, *options)


def plain_classifier(cfg: Config) -> Config:
    """The config of the student alone, for a distiller's config; any other config as it is."""
    if cfg.get('model', {}).get('type') != 'ViTDistiller':
        return cfg
    cfg = copy.deepcopy(cfg)
    student = read_model_config(cfg.model.student, 'model.student')
    # The order in which the runner and ViTDistiller look for it.
    cfg.data_preprocessor = (
        cfg.model.get('data_preprocessor')
        or cfg.get('data_preprocessor')
        or student.data_preprocessor
    )
    cfg.model = student.model
    return cfg


def _dtype(value: Any, field: str) -> torch.dtype | None:
    if value is None or isinstance(value, torch.dtype):
        return value
    if value not in ('float32', 'bfloat16', 'float16'):
        raise ConfigError(f"{field}={value!r} must be 'float32', 'bfloat16' or 'float16'")
    return getattr(torch, value)


def _load(path: str, field: str) -> Config:
    if '::' not in path:
        if not os.path.isfile(path):
            raise ConfigError(f'{field}={path!r} does not exist: expected a config file')
        return Config.fromfile(path)
    try:
        return Config.fromfile(path)
    except FileNotFoundError:
        raise ConfigError(f'{field}={path!r}: there is no such config in that package') from None
