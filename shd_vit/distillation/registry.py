"""Losses by name, for configs and command lines of every host."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from shd_vit import losses
from shd_vit.errors import ConfigError
from shd_vit.losses import DistillationLoss

Loss = TypeVar('Loss', bound=type[DistillationLoss])


class LossRegistry:
    """Classes of distillation losses, each by its class's name and by a short one.

    Attributes:
        classes: By class name.
        short: Class names by short name, as in flags: ``dict(shd='SHDLoss', ...)``.
    """

    def __init__(self) -> None:
        self.classes: dict[str, type[DistillationLoss]] = {}
        self.short: dict[str, str] = {}
        self._followers: list[Callable[[type[DistillationLoss]], Any]] = []

    def register(self, short: str | None = None) -> Callable[[Loss], Loss]:
        """Decorate a loss with its short name, if it is to have one.

        Raises:
            ValueError: If a name is taken, or the class is no :class:`DistillationLoss`.
        """

        def decorate(cls: Loss) -> Loss:
            if not _is_loss(cls):
                raise ValueError(f'{cls!r} must be a subclass of DistillationLoss')
            for name in filter(None, (cls.__name__, short)):
                if self.get(name) is not None:
                    raise ValueError(f'a loss named {name!r} is registered already')
            self.classes[cls.__name__] = cls
            if short is not None:
                self.short[short] = cls.__name__
            for take in self._followers:
                take(cls)
            return cls

        return decorate

    def follow(self, take: Callable[[type[DistillationLoss]], Any]) -> None:
        """Have a host's own registry ``take`` every class, now and whenever one is registered."""
        self._followers.append(take)
        for cls in self.classes.values():
            take(cls)

    def get(self, name: object) -> type[DistillationLoss] | None:
        """The class of that name, long or short; None if there is none."""
        if not isinstance(name, str):
            return None
        return self.classes.get(self.short.get(name, name))

    def build(self, loss: str | Mapping[str, Any], field: str = 'losses') -> DistillationLoss:
        """A loss from its name, or from ``dict(type=name, ...)`` with its arguments.

        Args:
            loss: The name or the dict. ``type`` may be a class, too.
            field: How errors name it, such as 'model.losses.shd'.

        Raises:
            ConfigError: If there is no such loss, or it does not take these arguments.
        """
        options: dict[str, Any] = dict(loss) if isinstance(loss, Mapping) else dict(type=loss)
        kind = options.pop('type', None)
        cls: Any = kind if _is_loss(kind) else self.get(kind)
        if cls is None:
            raise ConfigError(
                f'{field}: type={kind!r}; allowed types are {_listed(self.classes)}'
                f'{_meant(kind, [*self.classes, *self.short])}'
            )
        parameters = inspect.signature(cls).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            for name in options:
                if name not in parameters:
                    raise ConfigError(
                        f'{field}.{name} is unknown to {cls.__name__}; allowed are '
                        f'{", ".join(parameters)}{_meant(name, list(parameters))}'
                    )
        try:
            inspect.signature(cls).bind(**options)
        except TypeError as error:
            raise ConfigError(f'{field}: {cls.__name__}: {error}') from None
        return cls(**options)


def _is_loss(cls: object) -> bool:
    return isinstance(cls, type) and issubclass(cls, DistillationLoss)


def _listed(names: Iterable[str]) -> str:
    return ', '.join(sorted(names))


def _meant(name: object, known: list[str]) -> str:
    close = get_close_matches(name, known, n=1) if isinstance(name, str) else []
    return f'; did you mean {close[0]}?' if close else ''


LOSSES = LossRegistry()
for _short, _cls in dict(
    shd=losses.SHDLoss,
    vitkd=losses.ViTKDLoss,
    nkd=losses.NKDLoss,
    kd=losses.KDLoss,
    output=losses.OutputLoss,
    vkd=losses.VkDLoss,
    fd=losses.FeatureProjectorLoss,
    cor=losses.SelfCorrelationLoss,
    at=losses.AttentionTransferLoss,
).items():
    LOSSES.register(_short)(_cls)
