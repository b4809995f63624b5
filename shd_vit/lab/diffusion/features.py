"""A small classifier of Fashion-MNIST, whose features distances are measured in."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from shd_vit.errors import CheckpointError
from shd_vit.files import write_whole
from shd_vit.hosts.diffusers.sampling import in_batches
from shd_vit.lab.diffusion.data import Data, fashion_mnist
from shd_vit.lab.diffusion.extractor import TwoLayers

WIDTH = 128
NAME = 'fashion-mnist-cnn'


class Classifier(nn.Module):
    """Two convolutions and a hidden layer of 128, whose values are the features."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 32, 3, stride=2, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.hidden = nn.Linear(64 * 7 * 7, WIDTH)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, 128) and logits (B, 10) of images (B, 1, 28, 28) in [-1, 1]."""
        features = F.relu(self.hidden(self.convolutions(images)))
        return features, self.head(features)


def trained_classifier(path: Path, root: str, epochs: int = 3, seed: int = 0) -> str:
    """Train the classifier, if its file is not there.

    Args:
        path: Of its weights, a .safetensors file.
        root: Of Fashion-MNIST.
        epochs: Over the 60,000.
        seed: Of its weights and the order of images.

    Returns:
        What tables call it: with its accuracy and the beginning of its weights' SHA-256.
    """
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        weights = _train(fashion_mnist(root), epochs, seed)
        accuracy = _accuracy(weights, fashion_mnist(root, is_training=False))
        with write_whole(path) as part:
            save_file(weights, part, dict(accuracy=f'{accuracy:.4f}'))
    return describe(path)


def describe(path: Path) -> str:
    """The classifier's name in tables.

    Raises:
        CheckpointError: If the file is not ours.
    """
    try:
        with safe_open(path, 'pt') as file:
            accuracy = float((file.metadata() or {})['accuracy'])
    except Exception as error:
        raise CheckpointError(f'{path} is no classifier of ours: {error}') from None
    mark = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    return f'{NAME} ({100 * accuracy:.1f} % of the test images, weights {mark})'


def _train(data: Data, epochs: int, seed: int, batch: int = 128) -> dict[str, Tensor]:
    device = torch.device('cpu')
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier().train()
        steps = epochs * (len(data.labels) // batch)
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
        bar = tqdm(total=steps, desc='classifier', unit='step', leave=False)
        for _ in range(epochs):
            for rows in torch.randperm(len(data.labels)).split(batch):
                if len(rows) < batch:
                    continue
                images, labels = data.batch(rows, device)
                loss = F.cross_entropy(model(images)[1], labels, label_smoothing=0.1)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
        bar.close()
    return model.state_dict()


@torch.no_grad()
def _accuracy(weights: dict[str, Tensor], data: Data) -> float:
    model = Classifier().eval()
    model.load_state_dict(weights)
    right = 0
    for rows in in_batches(len(data.labels), 1000):
        images, labels = data.batch(torch.arange(rows.start, rows.stop), torch.device('cpu'))
        right += int((model(images)[1].argmax(1) == labels).sum())
    return right / len(data.labels)


class FashionFeatures(TwoLayers):
    """The classifier as torch-fidelity knows extractors."""

    def __init__(
        self,
        name: str,
        features_list: list[str],
        feature_extractor_weights_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, features_list)
        self.model = Classifier()
        self.model.load_state_dict(load_file(str(feature_extractor_weights_path)))
        self.eval()

    def two_layers(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Of uint8 images (B, 1, 28, 28)."""
        return self.model(input.float() / 127.5 - 1)
