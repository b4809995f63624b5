"""Latents of a folder of pictures, encoded once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import hflip, pil_to_tensor
from tqdm import tqdm

from shd_vit.errors import ConfigError, DatasetError


class Pictures(ImageFolder):
    """Pictures in a folder a class, cropped as ADM crops, uint8 (3, size, size)."""

    def __init__(self, root: str, size: int) -> None:
        try:
            super().__init__(root)
        except (FileNotFoundError, OSError) as error:
            raise DatasetError(f'{root}: {error}') from None
        self.size = size

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        try:
            picture = Image.open(path).convert('RGB')
        except OSError as error:
            raise DatasetError(f'{path} cannot be read: {error}') from None
        return pil_to_tensor(centre_crop(picture, self.size)), label


def centre_crop(picture: Image.Image, size: int) -> Image.Image:
    """The middle of a picture whose shorter side is made ``size``: halved by boxes, then bicubic.

    As guided-diffusion's ``image_datasets.py``.
    """
    while min(picture.size) >= 2 * size:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = size / min(picture.size)
    sides = round(picture.width * scale), round(picture.height * scale)
    picture = picture.resize(sides, Image.Resampling.BICUBIC)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    return picture.crop((left, top, left + size, top + size))


@torch.no_grad()
def encode(
    pictures: Pictures,
    vae_folder: str,
    out: Path,
    *,
    flip: bool,
    batch_size: int,
    workers: int,
    device: torch.device,
    seed: int = 0,
) -> tuple[int, ...]:
    """Write latents.npy (float16, times the VAE's scaling factor) and labels.npy; their shape.

    A latent is one draw of what the VAE gives for a picture, the same in every epoch.

    Args:
        pictures: Of all classes.
        vae_folder: That ``AutoencoderKL.save_pretrained`` has written.
        out: Folder. It gets labels last, so that what was stopped is seen to be unfinished.
        flip: Whether mirror images follow, with their labels.
        batch_size: Pictures at a time.
        workers: Processes that read them.
        device: To encode on.
        seed: Of the draws.

    Raises:
        ConfigError: If there is no such VAE.
        DatasetError: If a picture cannot be read.
    """
    try:
        vae: Any = AutoencoderKL.from_pretrained(vae_folder)
    except (OSError, ValueError) as error:
        line = str(error).split('\n', 1)[0]
        raise ConfigError(f'--vae {vae_folder!r} holds no AutoencoderKL: {line}') from None
    vae = vae.to(device).eval()
    out.mkdir(parents=True, exist_ok=True)
    (out / 'labels.npy').unlink(missing_ok=True)
    generator = torch.Generator(device).manual_seed(seed)
    loader: DataLoader = DataLoader(pictures, batch_size, num_workers=workers)
    part, count = out / '.latents.npy.part', len(pictures)
    latents, labels = None, np.zeros(count * (1 + flip), np.int64)
    for number, (images, found) in enumerate(tqdm(loader, desc='encoding', unit='batch')):
        rows = slice(number * batch_size, number * batch_size + len(images))
        for mirror in range(1 + flip):
            x = (hflip(images) if mirror else images).to(device).float() / 127.5 - 1
            drawn = vae.encode(x).latent_dist.sample(generator) * vae.config.scaling_factor
            if latents is None:
                shape = (len(labels), *drawn.shape[1:])
                latents = np.lib.format.open_memmap(part, 'w+', np.float16, shape)
            place = slice(rows.start + mirror * count, rows.stop + mirror * count)
            latents[place], labels[place] = drawn.half().cpu().numpy(), found.numpy()
    if latents is None:
        raise DatasetError('there are no pictures')
    latents.flush()
    shape = latents.shape
    del latents
    os.replace(part, out / 'latents.npy')
    np.save(out / 'labels.npy', labels)
    return shape
