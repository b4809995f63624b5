"""A folder that Hugging Face's ``from_pretrained`` reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from shd_vit.convert.architecture import Architecture
from shd_vit.convert.files import save_weights
from shd_vit.convert.weights import to_timm
from shd_vit.errors import CheckpointError, ConfigError

# transformers' names of timm's.
_ACTIVATIONS = {'gelu': 'gelu', 'gelu_tanh': 'gelu_pytorch_tanh', 'quick_gelu': 'quick_gelu'}


def hugging_face_config(
    state: dict[str, Tensor],
    heads: int | None = None,
    labels: Sequence[str] | None = None,
    *,
    activation: str = 'gelu',
    pool: str = 'token',
    image_size: tuple[int, int] | None = None,
    epsilon: float = 1e-6,
) -> dict:
    """``config.json`` of a vision transformer, from its weights and what they do not tell.

    Args:
        state: In any layout that is known.
        heads: Number of attention heads, which must be stated: no shape tells it.
        labels: Names of the classes.
        activation: Of the MLP: 'gelu', 'gelu_tanh' or 'quick_gelu'.
        pool: What the classifier reads; transformers' classes read the class 'token'.
        image_size: (h, w) in pixels. Default: square.
        epsilon: Of LayerNorm; 1e-6 in timm and mmpretrain.

    Raises:
        ConfigError: If ``heads`` is not stated or does not divide the width, or ``activation`` is
            another one.
        CheckpointError: As :func:`convert`; and if no class of transformers computes this.
    """
    arch = Architecture.of(to_timm(state), image_size)
    model = arch.class_of('huggingface')
    if heads is None:
        raise ConfigError(f'heads must be stated: the width {arch.width} does not tell them')
    if heads < 1 or arch.width % heads:
        raise ConfigError(f'heads={heads} must be a divisor of the width {arch.width}')
    if activation not in _ACTIVATIONS:
        raise ConfigError(f'activation={activation!r} must be one of {tuple(_ACTIVATIONS)}')
    if pool != 'token':
        raise CheckpointError(f'{model} of transformers reads the class token, not pool={pool!r}')
    rows, columns = arch.grid
    is_dinov2 = model.startswith('Dinov2')
    if is_dinov2 and rows != columns:
        raise CheckpointError(
            f'{model}, the class of transformers that has LayerScale, takes square images alone: '
            f'image_size={image_size}'
        )
    height, width = image_size or (rows * arch.patch, columns * arch.patch)
    if labels is None or len(labels) != arch.classes:
        labels = [f'LABEL_{i}' for i in range(arch.classes)]
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
        hidden_act=_ACTIVATIONS[activation],
        layer_norm_eps=epsilon,  # where none is stated, ViT and DeiT in transformers have 1e-12
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        image_size=height if height == width else [height, width],
        patch_size=arch.patch,
        num_channels=arch.channels,
        qkv_bias=arch.has_qkv_bias,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )


def save_folder(
    state: dict[str, Tensor],
    folder: str | Path,
    *,
    check: Callable[[Path], object] | None = None,
    **config: Any,
) -> str:
    """Write ``config.json`` and ``model.safetensors``, for the class that this returns.

    Args:
        state: In Hugging Face's names.
        folder: Is made.
        check: Gets a folder with both files; ``folder`` stays as it was if it raises.
        config: As :func:`hugging_face_config` takes.

    Raises:
        ConfigError: If the folder cannot be written. And as :func:`hugging_face_config`.
    """
    content = hugging_face_config(state, **config)
    folder = Path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=f'.{folder.name}.') as part:
            save_weights(state, Path(part, 'model.safetensors'))
            Path(part, 'config.json').write_text(json.dumps(content, indent=2) + '\n')
            if check:
                check(Path(part))
            folder.mkdir(exist_ok=True)
            for name in ('model.safetensors', 'config.json'):
                Path(part, name).replace(folder / name)
    except OSError as error:
        reason = f'{error.strerror} ({error.filename})' if error.strerror else str(error)
        raise ConfigError(f'out={str(folder)!r} cannot be written: {reason}') from None
    return content['architectures'][0]


def _ratio(arch: Architecture) -> int:
    ratio, rest = divmod(arch.mlp_width, arch.width)
    if rest:
        raise CheckpointError(
            f'the MLP is {arch.mlp_width} wide: DINOv2, the class of transformers that has '
            f'LayerScale, takes multiples of the width {arch.width}'
        )
    return ratio
