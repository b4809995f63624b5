"""What a feature network needs to be one of torch-fidelity's."""

from __future__ import annotations

from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

FEATURES, LOGITS = 'features', 'logits'


class TwoLayers(FeatureExtractorBase):
    """An extractor of 'features', for distances, and 'logits', for the inception score.

    Classes of it say ``two_layers(input)``: both, of uint8 pictures (B, channels, h, w).
    """

    def two_layers(self, input: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError(f'{type(self).__name__} must define two_layers()')

    def forward(self, input: Tensor) -> tuple[Tensor, ...]:
        found = dict(zip((FEATURES, LOGITS), self.two_layers(input), strict=True))
        return tuple(found[name] for name in self.features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return FEATURES, LOGITS

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return LOGITS if metric == 'isc' else FEATURES

    @staticmethod
    def can_be_compiled() -> bool:
        return False


def register(name: str, extractor: type[TwoLayers]) -> None:
    """Make an extractor known to torch-fidelity, once."""
    if name not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(name, extractor)
