"""What the shapes of a vision transformer's weights say about it, and which classes compute it."""

from __future__ import annotations

from math import isqrt, prod
from typing import NamedTuple

from torch import Tensor

from shd_vit.errors import CheckpointError

LIBRARIES = ('timm', 'mmpretrain', 'huggingface')

# Which class computes exactly what another one does with the same weights. Of Hugging Face's, DeiT
# always has a distillation token, and DINOv2 alone has LayerScale.
_CLASSES = {
    'plain': ('VisionTransformer', 'VisionTransformer', 'ViTForImageClassification'),
    'plain without class position': ('VisionTransformer', 'DeiT3', 'ViTForImageClassification'),
    'layer scale': ('VisionTransformer', None, 'Dinov2ForImageClassification'),
    'layer scale without class position': (
        'VisionTransformer', 'DeiT3', 'Dinov2ForImageClassification'
    ),
    'distilled': (
        'VisionTransformerDistilled',
        'DistilledVisionTransformer',
        'DeiTForImageClassificationWithTeacher',
    ),
    'distilled, class head alone': (None, None, 'DeiTForImageClassification'),
    'distilled with layer scale': ('VisionTransformerDistilled', None, None),
}  # fmt: skip


class Architecture(NamedTuple):
    """A plain vision transformer for square patches.

    Attributes:
        kind: A key of the table above.
        width: E.
        depth: Number of blocks.
        mlp_width: Hidden channels of the MLP.
        patch: Side of a patch, in pixels.
        grid: Rows and columns of patches.
        channels: Of an image.
        classes: Number of classes.
        has_qkv_bias: Whether q, k and v have a bias.
    """

    kind: str
    width: int
    depth: int
    mlp_width: int
    patch: int
    grid: tuple[int, int]
    channels: int
    classes: int
    has_qkv_bias: bool

    @classmethod
    def of(
        cls, state: dict[str, Tensor], image_size: tuple[int, int] | None = None
    ) -> Architecture:
        """Read a complete state dict in timm's names.

        Args:
            state: All weights.
            image_size: (h, w) in pixels. Default: as many rows of patches as columns.

        Raises:
            CheckpointError: If patches are not square, or the position embedding does not fit the
                tokens.
        """
        width, channels, patch, patch_width = state['patch_embed.proj.weight'].shape
        positions = state['pos_embed'].shape[1]
        if image_size is None:
            grid = isqrt(positions), isqrt(positions)
        else:
            grid = image_size[0] // patch, image_size[1] // patch
        prefix = positions - prod(grid)
        allowed = (2,) if 'dist_token' in state else (0, 1)
        if patch != patch_width or prefix not in allowed:
            raise CheckpointError(
                f'the weights have {patch} x {patch_width} patches and {positions} position '
                'embeddings: expected square patches, and '
                f'{"a square number" if image_size is None else f"{grid[0]} x {grid[1]}"} of '
                f'embeddings plus {" or ".join(map(str, allowed))}'
            )
        return cls(
            kind=_kind(state, prefix),
            width=width,
            depth=sum(name.endswith('.norm1.weight') for name in state),
            mlp_width=len(state['blocks.0.mlp.fc1.weight']),
            patch=patch,
            grid=grid,
            channels=channels,
            classes=len(state['head.weight']),
            has_qkv_bias='blocks.0.attn.qkv.bias' in state,
        )

    def class_of(self, library: str) -> str:
        """The library's class that computes the same with these weights.

        Raises:
            CheckpointError: If it has none.
        """
        name = _CLASSES[self.kind][LIBRARIES.index(library)]
        if name is None:
            raise CheckpointError(
                f'{library} has no class for these weights: they are {self.kind!r}'
            )
        return name


def _kind(state: dict[str, Tensor], prefix: int) -> str:
    has_layer_scale = 'blocks.0.ls1.gamma' in state
    if 'dist_token' in state:
        if 'head_dist.weight' not in state:
            return 'distilled, class head alone'
        return 'distilled with layer scale' if has_layer_scale else 'distilled'
    name = 'layer scale' if has_layer_scale else 'plain'
    return name if prefix else f'{name} without class position'
