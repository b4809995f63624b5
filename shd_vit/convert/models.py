"""Models that compute with converted weights, to compare them with where the weights come from."""

from __future__ import annotations

import copy
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shd_vit.convert.architecture import Architecture
from shd_vit.convert.facts import Facts, unwrapped
from shd_vit.convert.huggingface import save_folder
from shd_vit.convert.names import LAYOUTS
from shd_vit.convert.weights import library_of, to_timm
from shd_vit.errors import CheckpointError, ConfigError

TOLERANCE = 1e-6  # of the largest logit, in float64


def build_model(state: dict[str, Tensor], facts: Facts) -> nn.Module:
    """The class of a state dict's own library, with these weights.

    Args:
        state: In any layout that is known.
        facts: What the weights do not tell.

    Raises:
        CheckpointError: If the library has no such class.
        ConfigError: If the library is not installed, or a fact cannot be.
    """
    library = library_of(state)
    arch = Architecture.of(to_timm(state), facts.image_size)
    if facts.heads < 1 or arch.width % facts.heads:
        raise ConfigError(f'heads={facts.heads} must be a divisor of the width {arch.width}')
    try:
        if library == 'huggingface':
            with tempfile.TemporaryDirectory() as folder:
                save_folder(state, folder, **facts._asdict())
                return from_folder(folder)
        model = _timm(arch, facts) if library == 'timm' else _mmpretrain(arch, facts)
    except ModuleNotFoundError as missing:
        raise ConfigError(
            f'the export is run once beside its source, which needs {missing.name}: pip install it'
        ) from None
    return put_in(model, state)


def from_folder(folder: str | Path) -> nn.Module:
    """A Hugging Face folder's model, of the classes that are known; no code from it is run.

    Raises:
        CheckpointError: If it is of another class, or the weights do not fit the config.
    """
    path = Path(folder, 'config.json')
    try:
        (name,) = json.loads(path.read_text(encoding='utf-8'))['architectures']
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, 'strerror', None) or f'{type(error).__name__}: {error}'
        raise CheckpointError(f'{str(path)!r} cannot be read: {reason}') from None
    if name not in LAYOUTS:
        known = [name for name in LAYOUTS if '.' not in name and 'For' in name]
        raise CheckpointError(f'{str(path)!r} is of class {name!r}, expected one of {known}')
    import transformers

    try:
        model, found = getattr(transformers, name).from_pretrained(
            folder, output_loading_info=True, use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f'{str(folder)!r} cannot be loaded: {_line(error)}') from None
    for problem, names in found.items():
        if names:
            raise CheckpointError(f'{str(folder)!r}: {problem} {sorted(map(str, names))[:4]}')
    return model.eval()


def put_in(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Load all weights into a model in evaluation mode.

    Raises:
        CheckpointError: If one is missing, left over, or of another shape.
    """
    problem = f'the weights do not fit {type(unwrapped(model)).__name__}'
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[1:] or [str(error)]
        raise CheckpointError(f'{problem}: {reason[0].strip()}') from None
    for kind, names in (('missing', missing), ('left over', unexpected)):
        if names:
            raise CheckpointError(f'{problem}: {len(names)} {kind} (first: {names[0]})')
    return model.eval()


def check_same(
    source: nn.Module, target: nn.Module, shape: tuple[int, int, int], *, class_head: bool = False
) -> float:
    """Run two models on the same random images.

    Args:
        source: Where the weights come from.
        target: What was written.
        shape: (C, h, w).
        class_head: The target has the source's classifier of the class token alone.

    Returns:
        How far logits differ, as a part of the largest; in float64, so that it is rounding alone.

    Raises:
        CheckpointError: If that is more than ``TOLERANCE``, or nothing can be compared.
    """
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).double()
    try:
        expected, found = logits(source, images, class_head), logits(target, images)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise CheckpointError(f'the models cannot be run side by side: {_line(error)}') from None
    if expected.shape != found.shape:
        shapes = f'{tuple(expected.shape)} and {tuple(found.shape)}'
        raise CheckpointError(f'logits of the source and of its export have the shapes {shapes}')
    if torch.equal(expected[0], expected[1]):
        raise CheckpointError(
            'nothing can be compared: the source has the same logits for all images, as without '
            'training'
        )
    largest = expected.abs().max().item()
    difference = (expected - found).abs().max().item() / largest
    if not difference <= TOLERANCE:  # NaN is a difference too
        raise CheckpointError(
            f'{type(unwrapped(target)).__name__} would not answer as its source does: on random '
            f'images logits of up to {largest:.2g} differ by {difference * largest:.1e}; nothing '
            'was written'
        )
    return difference


@torch.no_grad()
def logits(model: nn.Module, images: Tensor, class_head: bool = False) -> Tensor:
    """(B, classes) of images in float64."""
    model = copy.deepcopy(model).cpu().double().eval()
    if class_head:  # the mean of both heads is half of one, if the other gives 0
        for name, module in model.named_modules():
            if name.endswith(('head_dist', 'distillation_classifier')):
                for weight in module.parameters():
                    weight.zero_()
    output = model(images)
    return getattr(output, 'logits', output) * (2 if class_head else 1)


def _timm(arch: Architecture, facts: Facts) -> nn.Module:
    from timm.models import deit, vision_transformer

    name = arch.class_of('timm')
    module = deit if name == 'VisionTransformerDistilled' else vision_transformer
    return getattr(module, name)(
        img_size=facts.image_size,
        patch_size=arch.patch,
        in_chans=arch.channels,
        num_classes=arch.classes,
        embed_dim=arch.width,
        depth=arch.depth,
        num_heads=facts.heads,
        mlp_ratio=(arch.mlp_width + 0.5) / arch.width,  # is rounded down
        qkv_bias=arch.has_qkv_bias,
        init_values=1.0 if 'layer scale' in arch.kind else None,
        no_embed_class=arch.kind.endswith('without class position'),
        global_pool=facts.pool,
        fc_norm=False,
        act_layer=facts.activation,
        norm_layer=partial(nn.LayerNorm, eps=facts.epsilon),
    )


def _mmpretrain(arch: Architecture, facts: Facts) -> nn.Module:
    import mmpretrain.models  # noqa: F401  (registers)
    from mmpretrain.registry import MODELS

    from shd_vit.hosts.mmpretrain.deit3_repair import repair_deit3

    repair_deit3()
    if facts.pool != 'token':
        raise CheckpointError(
            f'mmpretrain has no class for pool={facts.pool!r} without a norm behind it'
        )
    backbone = arch.class_of('mmpretrain')
    activation: dict[str, Any] = {
        'gelu': dict(type='GELU'),
        'gelu_tanh': dict(type='GELU', approximate='tanh'),
        'quick_gelu': dict(type='mmpretrain.QuickGELU'),
    }[facts.activation]
    sizes = dict(
        embed_dims=arch.width,
        num_layers=arch.depth,
        num_heads=facts.heads,
        feedforward_channels=arch.mlp_width,
    )
    without_scale = arch.kind == 'plain without class position'
    return MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(
                type=f'mmpretrain.{backbone}',
                arch=sizes,
                img_size=facts.image_size,
                patch_size=arch.patch,
                in_channels=arch.channels,
                qkv_bias=arch.has_qkv_bias,
                norm_cfg=dict(type='LN', eps=facts.epsilon),
                layer_cfgs=dict(act_cfg=activation),
                **(dict(use_layer_scale=False) if without_scale else {}),
            ),
            head=dict(
                type='mmpretrain.DeiTClsHead'
                if backbone.startswith('Distilled')
                else 'mmpretrain.VisionTransformerClsHead',
                num_classes=arch.classes,
                in_channels=arch.width,
            ),
        )
    )


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
