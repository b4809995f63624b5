"""A training of a diffusion transformer, as a YAML file has it."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import diffusers
from torch import nn

from shd_vit.errors import ConfigError, check_number
from shd_vit.lab.settings import build, check_names, read_merged

# What is not diffusers' own, by the name that configs have for it.
OWN = {
    'MDTv2Model': 'shd_vit.hosts.diffusers.mdt.MDTv2Model',
    'mdt': 'shd_vit.hosts.diffusers.mdt_passes.mdt_passes',
}
PRECISIONS = ('fp32', 'bf16', 'fp16')


@dataclasses.dataclass
class Training:
    """How a model is trained.

    Attributes:
        steps: Of the optimiser.
        batch_size: Of a step, over all processes and accumulated batches.
        accumulate: Batches that make a step, in each process.
        optimizer: ``opt`` of timm's ``create_optimizer_v2``, and its other arguments.
        lr: Learning rate after ``warm_up`` steps.
        lr_schedule: Of diffusers' ``get_scheduler``: 'constant_with_warmup', 'cosine', ...
        max_grad_norm: Gradients are clipped to it; None clips nothing.
        ema_decay: Of the averaged weights, which are what is saved; rises to it as diffusers' does.
        label_dropout: With which probability a label becomes the null class.
        min_snr_gamma: Of the weights of timesteps; None is 1 for all.
        precision: 'fp32', or 'bf16' or 'fp16' by accelerate's autocast.
        log_every: Steps.
        save_every: Steps, after which a killed run goes on from here.
    """

    steps: int
    batch_size: int
    accumulate: int = 1
    optimizer: dict[str, Any] = dataclasses.field(default_factory=lambda: dict(opt='adamw'))
    lr: float = 1e-4
    warm_up: int = 0
    lr_schedule: str = 'constant_with_warmup'
    max_grad_norm: float | None = None
    ema_decay: float = 0.9999
    label_dropout: float = 0.1
    min_snr_gamma: float | None = None
    precision: str = 'fp32'
    log_every: int = 50
    save_every: int = 1000

    def __post_init__(self) -> None:
        for name in ('steps', 'batch_size', 'accumulate', 'log_every', 'save_every'):
            check_number(f'training.{name}', getattr(self, name), whole=True, positive=True)
        check_number('training.warm_up', self.warm_up, whole=True)
        check_number('training.lr', self.lr, positive=True)
        check_number('training.ema_decay', self.ema_decay, at_most=1)
        check_number('training.max_grad_norm', self.max_grad_norm, positive=True, optional=True)
        if self.precision not in PRECISIONS:
            raise ConfigError(f'training.precision={self.precision!r} must be fp32, bf16 or fp16')
        if not isinstance(self.optimizer, dict) or 'opt' not in self.optimizer:
            raise ConfigError(f"training.optimizer={self.optimizer!r} must be a dict with 'opt'")


@dataclasses.dataclass
class Recipe:
    """One training.

    Attributes:
        data: ``type`` and its arguments, of :func:`shd_vit.lab.diffusion.data.read_data`.
        model: ``type``, a class of diffusers or MDTv2Model, and its arguments; and
            ``initialise_from_teacher``: 'uniform', 'last' or pairs of blocks to start from.
        scheduler: Arguments of diffusers' ``DDPMScheduler``.
        training: See :class:`Training`.
        teacher: A folder that this tool or ``save_pretrained`` has written; None trains alone.
        losses: Distillation losses by name; only with a teacher.
        schedules: Of their weights, in epochs.
        passes: ``type: mdt`` and its arguments; None is one pass.
        pictures: That are drawn at the end, and as the run goes on, as
            :class:`shd_vit.lab.diffusion.gallery.Gallery` takes them; empty draws none.
        scores: Of these pictures, likewise.
        seed: Of weights, data order and noise.
    """

    data: dict[str, Any]
    model: dict[str, Any]
    scheduler: dict[str, Any]
    training: Training
    teacher: str | None = None
    losses: dict[str, Any] = dataclasses.field(default_factory=dict)
    schedules: dict[str, Any] = dataclasses.field(default_factory=dict)
    passes: dict[str, Any] | None = None
    pictures: dict[str, Any] = dataclasses.field(default_factory=dict)
    scores: dict[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0


def read_recipe(path: str | Path, options: list[str] | None = None) -> Recipe:
    """A recipe from a YAML file.

    Args:
        path: Of the file, which may have a ``base``.
        options: ``key.key=value``, put over what the file says; null leaves a key out.

    Raises:
        ConfigError: If the file, or an option, is none; naming the field.
    """
    given = read_merged(path, options or [], 'fields, such as model and training')
    check_names(given, [f.name for f in dataclasses.fields(Recipe)], '', ['training'])
    recipe = build(Recipe, given | dict(training=build(Training, given['training'], 'training')))
    for name in ('data', 'model'):
        value = getattr(recipe, name)
        if not isinstance(value, dict) or 'type' not in value:
            raise ConfigError(f'{name}={value!r} must be fields, one of them type')
    for name in ('pictures', 'scores', 'losses', 'schedules'):
        if not isinstance(getattr(recipe, name), dict):
            raise ConfigError(f'{name}={getattr(recipe, name)!r} must be fields')
    if recipe.scores and not recipe.pictures:
        raise ConfigError('scores are of pictures: give that section too')
    if recipe.losses and recipe.teacher is None:
        raise ConfigError(f'losses.{next(iter(recipe.losses))} needs a teacher')
    return recipe


def build_model(cfg: dict[str, Any]) -> nn.Module:
    """A model with random weights.

    Raises:
        ConfigError: If there is no such class, or it does not take these arguments.
    """
    options = dict(cfg)
    cls = find(options.pop('type'))
    try:
        return cls(**options)
    except TypeError as error:
        raise ConfigError(f'model: {error}') from None


def load_model(folder: str | Path) -> nn.Module:
    """What ``save_pretrained`` has written, by the class that its config names.

    Args:
        folder: With config.json, or with such a folder inside: ``model``, or ``transformer`` as in
            pipelines.

    Raises:
        ConfigError: If there is no model.
    """
    for inner in ('.', 'model', 'transformer'):
        place = Path(folder, inner)
        if (place / 'config.json').is_file():
            config = json.loads((place / 'config.json').read_text(encoding='utf-8'))
            return find(config.get('_class_name')).from_pretrained(str(place))
    raise ConfigError(f'{folder} holds no model: neither config.json nor model/config.json')


def load_scheduler(folder: str | Path) -> Any:
    """The DDPM scheduler beside a model; None if there is none."""
    place = Path(folder, 'scheduler')
    if not (place / 'scheduler_config.json').is_file():
        return None
    return diffusers.DDPMScheduler.from_pretrained(str(place))


def find(name: str) -> Any:
    """A class of diffusers, or one of ours, by name.

    Raises:
        ConfigError: If there is none.
    """
    if name in OWN:
        module, _, attribute = OWN[name].rpartition('.')
        return getattr(importlib.import_module(module), attribute)
    found = getattr(diffusers, str(name), None)
    if not isinstance(found, type):
        raise ConfigError(f'type={name!r} must be a class of diffusers or one of {", ".join(OWN)}')
    return found
