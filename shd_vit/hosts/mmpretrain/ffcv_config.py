"""Train any config from a .beton file."""

from __future__ import annotations

from typing import Any

from mmengine.config import Config, ConfigDict

from shd_vit.errors import ConfigError


def train_from_ffcv(cfg: Config, beton: str) -> None:
    """Let a config's training images come from a .beton file: its own transforms, order and batch.

    Args:
        cfg: Changed in place: ``train_dataloader`` becomes an FFCVLoader.

    Raises:
        ConfigError: If the training loader's transforms cannot be told.
    """
    loader: Any = cfg.get('train_dataloader') or {}
    if loader.get('type') == 'FFCVLoader':
        loader.beton = beton
        return
    if 'pipeline' not in loader.get('dataset', {}):
        raise ConfigError('train_dataloader.dataset.pipeline is missing: nothing to take over')
    kept = {key: loader[key] for key in ('batch_size', 'sampler', 'drop_last') if key in loader}
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    grey = len(preprocessor.get('mean') or ()) == 1
    cfg.train_dataloader = ConfigDict(
        type='FFCVLoader',
        beton=beton,
        pipeline=loader.dataset.pipeline,
        # As mmpretrain's readers give it, for the data_preprocessor that the config has.
        channel_order='grayscale' if grey else 'bgr',
        **kept,
    )
