"""Frechet distance, inception score, KID, precision and recall, by torch-fidelity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity import calculate_metrics

from shd_vit.errors import ConfigError, check_number
from shd_vit.lab.diffusion import efficientnet, features
from shd_vit.lab.diffusion.data import fashion_mnist
from shd_vit.lab.diffusion.extractor import register
from shd_vit.lab.diffusion.samples import load_samples

INCEPTION = 'inception-v3-compat'
# By torch-fidelity's names, in the order of tables.
COLUMNS = {
    'frechet_inception_distance': 'Frechet',
    'inception_score_mean': 'IS',
    'kernel_inception_distance_mean': 'KID x 1000',
    'precision': 'precision',
    'recall': 'recall',
}
FEATURES = ('fashion_mnist', 'inception', 'efficientnet')  # fields of Scoring
LEAST = 50  # pictures, under which no score says anything


class Pictures(Dataset):
    """uint8 pictures (n, h, w, channels) as torch-fidelity takes them, channels first.

    Args:
        images: The pictures.
        channels: 3 repeats a grey one.
    """

    def __init__(self, images: Tensor, channels: int) -> None:
        self.images = images.permute(0, 3, 1, 2)
        self.channels = channels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index].expand(self.channels, -1, -1).contiguous()


def score(
    images: Tensor, reference: Tensor, extractor: str, weights: str | Path | None, k: int = 3
) -> dict[str, float]:
    """The scores of pictures.

    Args:
        images: uint8 (n, h, w, channels), drawn.
        reference: Likewise, real.
        extractor: 'fashion-mnist-cnn' (ours), 'efficientnet-lite0', or one of torch-fidelity, as
            'inception-v3-compat'.
        weights: The extractor's file.
        k: Of the nearest neighbours of precision and recall.

    Returns:
        By the names of ``COLUMNS``: distances in the extractor's own features, so comparable only
        under one extractor and one number of pictures.

    Raises:
        ConfigError: If there are too few pictures.
    """
    count = min(len(images), len(reference))
    if count < LEAST:
        raise ConfigError(f'{count} pictures are too few to score: at least {LEAST}')
    register(features.NAME, features.FashionFeatures)
    register(efficientnet.NAME, efficientnet.LiteFeatures)
    channels = 1 if extractor == features.NAME else 3
    layers = dict(feature_layer_prc='2048') if extractor == INCEPTION else {}  # ADM's, not VGG's
    found: dict[str, Any] = calculate_metrics(
        input1=Pictures(images, channels),
        input2=Pictures(reference, channels),
        cuda=torch.cuda.is_available(),
        fid=True,
        isc=True,
        kid=True,
        prc=True,
        prc_neighborhood=k,
        kid_subset_size=min(1000, count),
        feature_extractor=extractor,
        feature_extractor_weights_path=None if weights is None else str(weights),
        cache=False,
        save_cpu_ram=True,
        verbose=False,
        **layers,
    )
    scores = {title: float(found[name]) for name, title in COLUMNS.items()}
    scores['KID x 1000'] *= 1000
    return scores


@dataclass(frozen=True)
class Scoring:
    """What pictures are held against, and in which features.

    Attributes:
        fashion_mnist: Its root: in features of a classifier of it.
        classifier: That classifier's file, which is trained if it is missing.
        epochs: To train it.
        inception: torch-fidelity's Inception, a file: in its features.
        efficientnet: EfficientNet-Lite0, a file, or 'installed' for that of the package: in its
            features.
        reference: Real pictures to go with these two, an .npz as ADM's.
        real: Other real pictures, whose scores are the floor; None takes some of the reference.
        reference_size: How many real pictures.

    Raises:
        ConfigError: If it is not one of the three, or a file is missing.
    """

    fashion_mnist: str | None = None
    classifier: str = 'work_dirs/dit/classifier.safetensors'
    epochs: int = 3
    inception: str | None = None
    efficientnet: str | None = None
    reference: str | None = None
    real: str | None = None
    reference_size: int = 10_000

    def __post_init__(self) -> None:
        given = [name for name in FEATURES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigError(f'give one of {", ".join(FEATURES)}, to score in features of')
        if given != ['fashion_mnist'] and self.reference is None:
            raise ConfigError(f'{given[0]} needs a reference, real pictures in an .npz')
        if self.inception is not None and not Path(self.inception).is_file():
            raise ConfigError(f'inception={self.inception!r} must be a file')
        if self.efficientnet is not None:
            efficientnet.weights_file(self.efficientnet)
        for name in ('epochs', 'reference_size'):
            check_number(name, getattr(self, name), positive=True, whole=True)

    def extractor(self) -> tuple[str, str, str]:
        """What tables call the features, the extractor's name, and its file."""
        if self.fashion_mnist is not None:
            path = Path(self.classifier)
            called = features.trained_classifier(path, self.fashion_mnist, self.epochs)
            return called, features.NAME, self.classifier
        if self.efficientnet is not None:
            path = efficientnet.weights_file(self.efficientnet)
            return efficientnet.describe(path), efficientnet.NAME, str(path)
        return INCEPTION, INCEPTION, str(self.inception)

    def pictures(self, count: int) -> tuple[Tensor, Tensor]:
        """``count`` real pictures, the floor, and the others."""
        if self.fashion_mnist is not None:
            return of_fashion_mnist(self.fashion_mnist, count, self.reference_size)
        reference = load_samples(str(self.reference))[0]
        if self.real is None:
            return halves(reference, count, self.reference_size)
        real = load_samples(self.real)[0]
        _check_left(len(real), count)
        order = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))
        return real[order[:count]], reference[: self.reference_size]


def score_all(
    drawn: dict[str, Tensor], how: Scoring
) -> tuple[dict[str, dict[str, float]], str, str]:
    """Scores by name, those of as many real pictures first, under 'real'.

    Args:
        drawn: uint8 (n, h, w, channels) by name, as many of each.
        how: See :class:`Scoring`.

    Returns:
        Scores, the name of the features, and a caption with both numbers of pictures.

    Raises:
        ConfigError: If there are other numbers of pictures, or too few.
    """
    counts = {len(images) for images in drawn.values()}
    if len(counts) > 1:
        raise ConfigError(f'{sorted(counts)} pictures: scores of different numbers do not compare')
    count = counts.pop()
    called, extractor, weights = how.extractor()
    floor, reference = how.pictures(count)
    shown = {'real': floor, **drawn}
    rows = {name: score(images, reference, extractor, weights) for name, images in shown.items()}
    caption = (
        f'{count:,} pictures against {len(reference):,} real ones, in features of {called}; '
        'the row of real pictures is the floor'
    )
    return rows, called, caption


def of_fashion_mnist(root: str, count: int, size: int) -> tuple[Tensor, Tensor]:
    """Real pictures (n, 28, 28, 1): ``count`` test images, as many of each class, and a reference.

    Args:
        root: Of Fashion-MNIST.
        count: Of the first, that are the floor.
        size: Of the second, the first of the training images.
    """
    train, test = (fashion_mnist(root, part) for part in (True, False))
    of_class = [torch.where(test.labels == label)[0][: -(-count // 10)] for label in range(10)]
    rows = torch.cat(of_class)[:count]
    _check_left(len(rows), count)
    return tuple(x.permute(0, 2, 3, 1) for x in (test.samples[rows], train.samples[:size]))  # type: ignore[return-value]


def halves(images: Tensor, count: int, size: int) -> tuple[Tensor, Tensor]:
    """``count`` of real pictures, in a fixed random order, and ``size`` of the others."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    _check_left(len(images) - LEAST, count)
    return images[order[:count]], images[order[count:]][:size]


def _check_left(real: int, count: int) -> None:
    if real < count:
        raise ConfigError(f'{count} pictures are scored, and there are {max(real, 0)} real ones')


def table(rows: dict[str, dict[str, float]], caption: str) -> str:
    """Scores by name, a row each, as plain text."""
    width = max(map(len, rows))
    lines = [' ' * width + ''.join(f'{title:>12}' for title in COLUMNS.values())]
    for name, scores in rows.items():
        numbers = ''.join(f'{scores[title]:>12.3f}' for title in COLUMNS.values())
        lines.append(f'{name:<{width}}{numbers}')
    return '\n'.join([*lines, caption])
