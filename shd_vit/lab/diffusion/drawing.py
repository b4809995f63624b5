"""Samples of several models from the same noise, in files and in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler
from torch import Tensor, nn
from tqdm import tqdm

from shd_vit.errors import ConfigError, check_number
from shd_vit.files import write_whole
from shd_vit.hosts.diffusers.checks import fact
from shd_vit.hosts.diffusers.labels import count_labels
from shd_vit.hosts.diffusers.sampling import Guidance, in_batches, sample
from shd_vit.lab.diffusion.recipe import load_model, load_scheduler
from shd_vit.lab.figures import pyplot
from shd_vit.lab.report import read_json

CLASSES = 'classes.json'
SAMPLERS = dict(ddpm=DDPMScheduler, ddim=DDIMScheduler)


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn.

    Attributes:
        per_class: Pictures of each class.
        sampler: 'ddpm' or 'ddim'.
        steps: Of the sampler.
        guidance: As :class:`~shd_vit.hosts.diffusers.sampling.Guidance` has it, ``scale``.
        power: Likewise.
        guided_channels: Likewise, ``channels``.
        batch_size: Pictures at a time.
        seed: Of noise.
        vae: Folder of the ``AutoencoderKL`` that decodes latents; None for pixels.
        show: Pictures of each class in a figure.

    Raises:
        ConfigError: Naming the field, as ``pictures.steps``.
    """

    per_class: int = 10
    sampler: str = 'ddim'
    steps: int = 50
    guidance: float = 1.0
    power: float | None = None
    guided_channels: int | None = None
    batch_size: int = 100
    seed: int = 0
    vae: str | None = None
    show: int = 10

    def __post_init__(self) -> None:
        for name in ('per_class', 'steps', 'batch_size', 'show'):
            check_number(f'pictures.{name}', getattr(self, name), positive=True, whole=True)
        check_number('pictures.seed', self.seed, whole=True)
        if self.sampler not in SAMPLERS:
            allowed = ', '.join(SAMPLERS)
            raise ConfigError(f'pictures.sampler={self.sampler!r} must be one of {allowed}')


def draw(
    model: nn.Module,
    trained: Any,
    how: Drawing,
    device: torch.device,
    precision: torch.dtype | None = None,
    name: str = 'pictures',
) -> tuple[Tensor, Tensor]:
    """Pictures of a model: uint8 (n, h, w, channels), and labels (n,), class after class.

    Noise depends on the seed and the picture alone: model after model gets the same.

    Args:
        model: In eval mode, on the device.
        trained: The scheduler that it was trained with.
        how: See :class:`Drawing`.
        device: To draw on.
        precision: Of autocast; None is float32.
        name: Of the bar.

    Raises:
        ConfigError: If the model has channels that are no picture's.
    """
    scheduler = SAMPLERS[how.sampler].from_config(trained.config)
    channels, size, classes = (
        fact(model, 'in_channels'),
        fact(model, 'sample_size'),
        count_labels(model),
    )
    decoder = None if how.vae is None else _decoder(how.vae, device)
    if decoder is None and channels not in (1, 3):
        raise ConfigError(f'{name} has latents of {channels} channels: give the vae')
    guidance = Guidance(how.guidance, how.power, how.guided_channels)
    labels = torch.arange(classes or 1).repeat_interleave(how.per_class)
    generator = torch.Generator().manual_seed(how.seed)
    noise = torch.randn(len(labels), channels, size, size, generator=generator)
    parts = []
    for rows in tqdm(list(in_batches(len(labels), how.batch_size)), desc=name, leave=False):
        with torch.autocast(device.type, precision, enabled=precision is not None):
            x = sample(
                model,
                scheduler,
                noise[rows].to(device),
                None if classes is None else labels[rows].to(device),
                how.steps,
                guidance,
                generator,
            )
            x = x if decoder is None else decoder(x)
        parts.append(to_bytes(x).permute(0, 2, 3, 1).cpu())
    return torch.cat(parts), labels


def load_trained(folder: str, device: torch.device) -> tuple[nn.Module, Any]:
    """Model, in eval mode, and scheduler that ``tools/dit_train.py`` has written.

    Raises:
        ConfigError: If one of them is missing.
    """
    model, scheduler = load_model(folder).to(device).eval(), load_scheduler(folder)
    if scheduler is None:
        raise ConfigError(f'{folder}/scheduler is missing: which noise the model knows is unknown')
    return model, scheduler


def class_names(folder: str) -> list[str] | None:
    """Names of the labels of a trained model, if it was left some."""
    path = Path(folder, CLASSES)
    return read_json(path) if path.is_file() else None


def to_bytes(x: Tensor) -> Tensor:
    """Pixels in [-1, 1] as uint8."""
    return (x.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)


def _decoder(folder: str, device: torch.device) -> Any:
    vae: Any = AutoencoderKL.from_pretrained(folder).to(device).eval()

    @torch.no_grad()
    def decode(latents: Tensor) -> Tensor:
        return vae.decode(latents / vae.config.scaling_factor).sample

    return decode


def picture(
    path: Path, drawn: dict[str, tuple[Tensor, Tensor]], names: Sequence[str] | None, columns: int
) -> None:
    """A row a class, a block of columns a model: pictures in one place are of the same noise.

    Args:
        path: Of the figure.
        drawn: Pictures and labels by the model's name.
        names: Of classes; None numbers them.
        columns: Pictures of a class to show.
    """
    plt = pyplot()
    labelled = [set(labels.tolist()) for _, labels in drawn.values()]
    classes = sorted(set.intersection(*labelled))
    fewest = min(int(labels.bincount()[classes].min()) for _, labels in drawn.values())
    side, columns = 0.34, min(columns, fewest)
    figure, axes = plt.subplots(
        1,
        len(drawn),
        figsize=(side * columns * len(drawn) + 1, side * len(classes) + 0.4),
        squeeze=False,
        layout='constrained',
    )
    for number, (axis, (name, (images, labels))) in enumerate(
        zip(axes[0], drawn.items(), strict=True)
    ):
        rows = [torch.cat(list(images[labels == c][:columns]), dim=1) for c in classes]
        grid = torch.cat(rows).squeeze(-1)
        axis.imshow(grid.numpy(), cmap='gray', vmin=0, vmax=255, interpolation='nearest')
        axis.set_title(name)
        height = images.shape[1]
        axis.set_xticks([])
        axis.set_yticks([])
        if number == 0:
            axis.set_yticks([(n + 0.5) * height for n in range(len(classes))])
            axis.set_yticklabels([names[c] if names else str(c) for c in classes])
        axis.tick_params(length=0)
        for spine in axis.spines.values():
            spine.set_visible(False)
    with write_whole(path) as part:
        figure.savefig(part, format=path.suffix[1:])
    plt.close(figure)
