"""A folder that Hugging Face's ``from_pretrained`` reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from shd_vit.convert.architecture import Architecture
from shd_vit.convert.files import save_weights
from shd_vit.convert.weights import to_timm
from shd_vit.errors import CheckpointError, ConfigError


def hugging_face_config(
    state: dict[str, Tensor], heads: int | None = None, labels: Sequence[str] | None = None
) -> dict:
    """``config.json`` of a vision transformer, from its weights.

    Args:
        state: In any layout that is known.
        heads: Number of attention heads, which no shape tells. Default: heads 64 wide, as in DeiT.
        labels: Names of the classes.

    Raises:
        ConfigError: If ``heads`` does not divide the width, or must be stated.
        CheckpointError: As :func:`convert`; and if DINOv2, the class for LayerScale, cannot have
            this width of the MLP.
    """
    arch = Architecture.of(to_timm(state))
    model = arch.class_of('huggingface')
    if heads is None and arch.width % 64:
        raise ConfigError(f'heads must be stated: the width {arch.width} is no multiple of 64')
    heads = arch.width // 64 if heads is None else heads
    if heads < 1 or arch.width % heads:
        raise ConfigError(f'heads={heads} must be a divisor of the width {arch.width}')
    if labels is None or len(labels) != arch.classes:
        labels = [f'LABEL_{i}' for i in range(arch.classes)]
    is_dinov2 = model.startswith('Dinov2')
    return dict(
        architectures=[model],
        model_type=model.partition('For')[0].lower(),
        hidden_size=arch.width,
        num_hidden_layers=arch.depth,
        num_attention_heads=heads,
        **(
            dict(mlp_ratio=_ratio(arch), use_mask_token=False)
            if is_dinov2
            else dict(intermediate_size=arch.mlp_width)
        ),
        hidden_act='gelu',
        layer_norm_eps=1e-6,  # of timm and mmpretrain; ViT and DeiT in transformers have 1e-12
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        image_size=arch.grid * arch.patch,
        patch_size=arch.patch,
        num_channels=arch.channels,
        qkv_bias=arch.has_qkv_bias,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )


def save_folder(state: dict[str, Tensor], folder: str | Path, **config: Any) -> str:
    """Write ``config.json`` and ``model.safetensors``, for the class that this returns.

    Args:
        state: In Hugging Face's names.
        folder: Is made.
        config: As :func:`hugging_face_config` takes.
    """
    content = hugging_face_config(state, **config)
    save_weights(state, Path(folder, 'model.safetensors'))
    Path(folder, 'config.json').write_text(json.dumps(content, indent=2) + '\n')
    return content['architectures'][0]


def _ratio(arch: Architecture) -> int:
    ratio, rest = divmod(arch.mlp_width, arch.width)
    if rest:
        raise CheckpointError(
            f'the MLP is {arch.mlp_width} wide: DINOv2, the class of transformers that has '
            f'LayerScale, takes multiples of the width {arch.width}'
        )
    return ratio
