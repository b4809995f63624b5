"""What of a config for image files goes for a .beton file, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.config import Config, ConfigDict

from shd_vit.data.beton import Beton
from shd_vit.errors import ConfigError

# mmpretrain's reader and its defaults, of which a .beton file holds the result.
READER = 'LoadImageFromFile'
DEFAULTS = dict(color_type='color', imdecode_backend='cv2', to_float32=False)
HONOURED = dict(
    color_type=('color', 'grayscale'), imdecode_backend=('cv2', 'pillow'), to_float32=(False,)
)


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
    reader, _ = split_pipeline(loader.dataset.pipeline)
    if reader is None:  # the data set holds arrays, of as many channels as are normalised
        preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
        grey = len(preprocessor.get('mean') or ()) == 1
    else:
        grey = reader.get('color_type') == 'grayscale'
    cfg.train_dataloader = ConfigDict(
        type='FFCVLoader',
        beton=beton,
        pipeline=loader.dataset.pipeline,
        # As mmpretrain's readers give it, for the data_preprocessor that the config has.
        channel_order='grayscale' if grey else 'bgr',
        **kept,
    )


def split_pipeline(pipeline: Sequence[dict]) -> tuple[dict | None, list[dict]]:
    """The reader of a pipeline, None if it has none, and what is between reading and packing."""
    pipeline, reader = list(pipeline), None
    if pipeline and pipeline[0]['type'] == READER:
        reader, *pipeline = pipeline
    if pipeline and pipeline[-1]['type'] == 'PackInputs':
        pipeline = pipeline[:-1]
    return reader, pipeline


def reader_backend(reader: dict | None) -> str:
    """The library that a pipeline reads files with, whose pixels a .beton file can hold.

    Raises:
        ConfigError: If the reader gives other pixels than such a file holds.
    """
    found = {**DEFAULTS, **(reader or {})}
    for field, allowed in HONOURED.items():
        if found[field] not in allowed:
            raise ConfigError(
                f'{READER}.{field}={found[field]!r}: a .beton file holds 8-bit colours, turned as '
                f'their EXIF data say; allowed: {", ".join(map(repr, allowed))}'
            )
    return found['imdecode_backend']


def check_reader(reader: dict | None, channel_order: str, beton: Beton) -> None:
    """Refuse a file that holds other pixels than the reader of a pipeline would give.

    Raises:
        ConfigError: Naming the reader's field.
    """
    if reader is None:
        return
    backend, color = reader_backend(reader), reader.get('color_type', 'color')
    if color == 'grayscale' != channel_order:
        raise ConfigError(
            f'{READER}.color_type={color!r}, but channel_order={channel_order!r} of FFCVLoader: '
            "expected 'grayscale'"
        )
    written = (beton.manifest.get('options') or {}).get('backend', 'cv2')
    if backend != written:
        raise ConfigError(
            f'{READER}.imdecode_backend={backend!r}, but {beton.path!r} holds what {written!r} '
            'reads, which differs for grey images with transparency: write it again with '
            'tools/data/write_ffcv.py --config, of this config'
        )
