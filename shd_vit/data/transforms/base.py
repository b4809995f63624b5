"""What a transform is, and how configs become transforms."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from random import Random
from typing import Any, NoReturn

import numpy as np

from shd_vit.errors import ConfigError


class Transform:
    """Changes one image (h, w, 3) uint8.

    All randomness is in :meth:`draw`, which knows the size only, so that :meth:`apply` is a
    function of the image and the parameters and may run on any thread.
    """

    def draw(self, rng: Random, height: int, width: int) -> tuple:
        """Parameters for one image of that size."""
        return ()

    def box(self, *params: Any) -> tuple[int, int, int, int] | None:
        """Top, left, height and width of all that :meth:`apply` reads; None: it may read anything.

        Of the first transform of a pipeline, the loader asks this before it decodes the image.
        """
        return None

    def apply(self, image: np.ndarray, *params: Any) -> np.ndarray:
        """The changed image, which may be ``image`` itself, overwritten."""
        raise NotImplementedError(f'{type(self).__name__} must define apply()')

    def warm_up(self) -> None:
        """Run every kernel once, so that none is compiled between images."""

    def __call__(self, image: np.ndarray, rng: Random) -> np.ndarray:
        """Draw and apply.

        Raises:
            ValueError: If ``image`` is not (h, w, 3) uint8 of at least one pixel.
        """
        image = as_image(image)
        return self.apply(image, *self.draw(rng, *image.shape[:2]))


class TransformRegistry:
    """Transforms by name, with the decorator of mmengine's registries.

    Attributes:
        module_dict: Classes by the name that a config's ``type`` gives.
    """

    def __init__(self) -> None:
        self.module_dict: dict[str, type[Transform]] = {}

    def register_module(
        self, name: str | None = None, force: bool = False, module: type[Transform] | None = None
    ) -> Any:
        """A decorator for a class; with ``module``, that class, registered.

        Args:
            name: Default: the class's.
            force: Whether another class of that name is replaced.
            module: The class, where this is no decorator.

        Raises:
            ConfigError: If the name is taken, or what is decorated is no :class:`Transform`.
        """

        def register(cls: type[Transform]) -> type[Transform]:
            key = name or cls.__name__
            if not (isinstance(cls, type) and issubclass(cls, Transform)):
                raise ConfigError(f'{key} is no Transform: derive it from shd_vit.data.transforms')
            if key in self.module_dict and not force:
                raise ConfigError(f'a transform {key!r} is registered already: name it otherwise')
            self.module_dict[key] = cls
            return cls

        return register if module is None else register(module)


# Add a transform with `@FFCV_TRANSFORMS.register_module()`.
FFCV_TRANSFORMS = TransformRegistry()


def build_transforms(cfgs: Sequence[dict], channel_order: str = 'rgb') -> list[Transform]:
    """Transforms of mmpretrain's configs.

    Args:
        cfgs: Dicts with a registered ``type``, and its arguments.
        channel_order: 'rgb' or 'bgr', the order of the images' channels. Colours in configs are in
            the same order.

    Raises:
        ConfigError: If a type or a field is not known, or a value not supported.
    """
    if channel_order not in ('rgb', 'bgr'):
        refuse('build_transforms', 'channel_order', channel_order, "'rgb' or 'bgr'")
    return [_build(dict(cfg), channel_order) for cfg in cfgs]


def _build(cfg: dict, channel_order: str) -> Transform:
    name = cfg.pop('type', None)
    known = FFCV_TRANSFORMS.module_dict
    if name not in known:
        refuse('pipeline', 'type', name, f'one of {sorted(known)}')
    fields = inspect.signature(known[name]).parameters
    if 'channel_order' in fields:
        cfg.setdefault('channel_order', channel_order)
    anything = any(field.kind is field.VAR_KEYWORD for field in fields.values())
    for field in cfg:
        if field not in fields and not anything:
            refuse(name, field, cfg[field], f'no such field, only {sorted(fields)}')
    missing = [
        field.name
        for field in fields.values()
        if field.default is field.empty and field.kind is field.POSITIONAL_OR_KEYWORD
    ]
    for field in missing:
        if field not in cfg:
            refuse(name, field, None, 'it has no default')
    return known[name](**cfg)


def small_image() -> np.ndarray:
    """(20, 20, 3) zeros, for :meth:`Transform.warm_up`."""
    return np.zeros((20, 20, 3), np.uint8)


def refuse(transform: str, field: str, value: Any, allowed: str) -> NoReturn:
    """Raise the :class:`ConfigError` of a field of a transform."""
    raise ConfigError(f'{transform}: {field}={value!r} is not supported; allowed: {allowed}')


def check_pillow_bicubic(transform: str, backend: str, interpolation: str) -> None:
    """Refuse any other resampling than Pillow's bicubic, which is the recipe's."""
    if backend != 'pillow':
        refuse(transform, 'backend', backend, "'pillow'")
    if interpolation != 'bicubic':
        refuse(transform, 'interpolation', interpolation, "'bicubic'")


def size_pair(transform: str, field: str, value: int | Sequence[int]) -> tuple[int, int]:
    """An int, or two, as two positive ints."""
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(size, int) and size > 0 for size in pair):
        refuse(transform, field, value, 'a positive int, or two')
    return pair


def triple(transform: str, field: str, value: float | Sequence[float]) -> tuple[float, ...]:
    """A number for each channel."""
    values = (value,) * 3 if isinstance(value, (int, float)) else tuple(value)
    if len(values) != 3 or not all(isinstance(x, (int, float)) for x in values):
        refuse(transform, field, value, 'a number, or one for each of three channels')
    return values


def check_range(
    transform: str, field: str, value: Sequence[float], low: float, high: float
) -> tuple[float, float]:
    """Two numbers, low <= first <= second <= high."""
    value = tuple(value)
    if len(value) != 2 or not low <= value[0] <= value[1] <= high:
        refuse(transform, field, value, f'(min, max) with {low} <= min <= max <= {high}')
    return value


def check_probability(transform: str, field: str, value: float) -> float:
    if not isinstance(value, (int, float)) or not 0 <= value <= 1:
        refuse(transform, field, value, 'a number from 0 to 1')
    return value


def as_image(image: np.ndarray) -> np.ndarray:
    """``image``, C-contiguous.

    Raises:
        ValueError: If it is not (h, w, 3) uint8 of at least one pixel.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f'expected a uint8 image (h, w, 3) of at least one pixel, '
            f'got {image.dtype} {image.shape}'
        )
    return np.ascontiguousarray(image)


def check_box(image: np.ndarray, top: int, left: int, height: int, width: int) -> None:
    """Refuse a box that kernels, which check no bounds, would read or write outside ``image``.

    Raises:
        ValueError: If the box is empty or sticks out.
    """
    h, w = image.shape[:2]
    if not (0 <= top < top + height <= h and 0 <= left < left + width <= w):
        raise ValueError(
            f'the box top={top}, left={left}, height={height}, width={width} is not in the image '
            f'of {h} x {w} pixels'
        )
