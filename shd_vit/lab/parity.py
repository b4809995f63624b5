"""How far libraries differ on the same weights and on the same photographs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence

import timm
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.hub import get_config
from mmpretrain.registry import MODELS, TRANSFORMS
from PIL import Image, UnidentifiedImageError
from timm.data import create_transform
from torch import Tensor, nn

import shd_vit  # noqa: F401  (repairs DeiT3)
from shd_vit.convert import convert, save_folder
from shd_vit.errors import ConfigError
from shd_vit.lab.report import Table
from shd_vit.taps import Anatomy

MODEL_PAIRS = {
    'deit_tiny_patch16_224': 'mmpretrain::deit/deit-tiny_4xb256_in1k.py',
    'deit_tiny_distilled_patch16_224': 'mmpretrain::deit/deit-tiny-distilled_4xb256_in1k.py',
    'deit3_small_patch16_224': 'mmpretrain::deit3/deit3-small-p16_64xb64_in1k.py',
}
Logits = Callable[[Tensor], Tensor]


@torch.no_grad()
def logits_table(names: Sequence[str]) -> Table:
    """The largest differences of logits from timm's, for one random image."""
    rows = [['model', 'largest logit', 'mmpretrain', 'transformers']]
    for name in names:
        ours, theirs = twins(name)
        images = torch.randn(1, 3, 224, 224)
        logits = ours(images)
        others = (theirs(images), in_transformers(ours)(images))
        far = [logits.abs().max(), *((other - logits).abs().max() for other in others)]
        rows.append([name, *(f'{value.item():.1e}' for value in far)])
    return 'Logits, differences from timm', rows


def twins(name: str) -> tuple[nn.Module, nn.Module]:
    """timm's model with random weights that all matter, and mmpretrain's with the same.

    Raises:
        ConfigError: If ``name`` is not in MODEL_PAIRS.
    """
    if name not in MODEL_PAIRS:
        raise ConfigError(f'no model {name!r}: allowed are {", ".join(MODEL_PAIRS)}')
    torch.manual_seed(0)
    ours = timm.create_model(name).eval()
    for key, weight in ours.named_parameters():
        is_factor = weight.dim() == 1 and not key.endswith('bias')
        weight.data.normal_(float(is_factor), 0.05)
    theirs = MODELS.build(get_config(MODEL_PAIRS[name]).model).eval()
    theirs.load_state_dict(convert(ours.state_dict(), 'mmpretrain'))
    return ours.requires_grad_(False), theirs.requires_grad_(False)


def in_transformers(model: nn.Module) -> Logits:
    """The same weights in transformers."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        heads = Anatomy(model).heads[0]
        name = save_folder(convert(model.state_dict(), 'huggingface'), folder, heads=heads)
        theirs = getattr(transformers, name).from_pretrained(folder).eval()
    return lambda images: theirs(images).logits


@torch.no_grad()
def pixels_table(paths: Sequence[str], config: str, crop_pct: float) -> Table:
    """How far photographs are apart after both pipelines, and logits of DeiT-Tiny with them."""
    model, _ = twins('deit_tiny_patch16_224')
    cfg = Config.fromfile(config)
    steps = Compose([TRANSFORMS.build(step) for step in cfg.test_pipeline])
    preprocess = MODELS.build(dict(type='ClsDataPreprocessor', **cfg.data_preprocessor))
    evaluation = dict(input_size=224, interpolation='bicubic', crop_pct=crop_pct)
    rows = [['photograph', 'values that differ', 'by up to', 'logits by up to', 'same top-1']]
    for path in paths:
        try:
            image = Image.open(path).convert('RGB')
        except (OSError, UnidentifiedImageError) as error:
            raise ConfigError(f'--photographs {path!r} cannot be read: {error}') from None
        packed = steps(dict(img_path=path))
        pixels = packed['inputs'].flip(0).int()
        apart = (pixels - create_transform(**evaluation, normalize=False)(image).int()).abs()
        batch = dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']])
        ours = model(create_transform(**evaluation)(image)[None])
        theirs = model(preprocess(batch)['inputs'])
        share = (apart > 0).float().mean().item()
        far = (ours - theirs).abs().max().item()
        same = 'yes' if ours.argmax() == theirs.argmax() else 'no'
        rows.append([path, f'{share:.1%}', str(apart.max().item()), f'{far:.1e}', same])
    return 'Photographs, differences from timm', rows
