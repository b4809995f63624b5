"""The tables of docs/export.md: how far libraries differ on the same weights and photographs.

Random weights, seed 0. Needs transformers and scikit-image.
"""

import tempfile

import skimage.data
import timm
import torch
import transformers
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.hub import get_config
from mmpretrain.models.backbones.deit3 import DeiT3TransformerEncoderLayer
from mmpretrain.registry import MODELS, TRANSFORMS
from PIL import Image
from timm.data import create_transform

from shd_vit.convert import convert, save_folder

MODEL_PAIRS = {
    'deit_tiny_patch16_224': 'mmpretrain::deit/deit-tiny_4xb256_in1k.py',
    'deit_tiny_distilled_patch16_224': 'mmpretrain::deit/deit-tiny-distilled_4xb256_in1k.py',
    'deit3_small_patch16_224': 'mmpretrain::deit3/deit3-small-p16_64xb64_in1k.py',
}
PHOTOGRAPHS = ('astronaut', 'chelsea', 'coffee', 'rocket')
DATA = 'configs/_base_/datasets/imagenet_folder.py'


def main() -> None:
    torch.manual_seed(0)
    images = torch.randn(1, 3, 224, 224)
    print('| model | largest logit | mmpretrain | mmpretrain, DeiT3 repaired | Hugging Face |')
    print('| --- | --- | --- | --- | --- |')
    pairs = [(name, *build(name, config)) for name, config in MODEL_PAIRS.items()]
    repaired = DeiT3TransformerEncoderLayer.forward
    DeiT3TransformerEncoderLayer.forward = repaired.__wrapped__
    before = [difference(ours, theirs, images) for _, ours, theirs in pairs]
    DeiT3TransformerEncoderLayer.forward = repaired
    for (name, ours, theirs), unrepaired in zip(pairs, before, strict=True):
        largest = ours(images).abs().max().item()
        after = difference(ours, theirs, images), difference(ours, hugging_face(ours), images)
        print('|', ' | '.join([name, *(f'{x:.1e}' for x in (largest, unrepaired, *after))]), '|')

    model = pairs[0][1]
    print('\n| setting | pixels that differ | by up to | logits by up to | same top-1 |')
    print('| --- | --- | --- | --- | --- |')
    for setting, resize, load, crop, orientation in (
        ("backend='pillow', scale=256 (as configured)", {}, {}, 224 / 256, None),
        ("backend='cv2'", dict(backend='cv2'), {}, 224 / 256, None),
        ("timm's own crop_pct=0.9", {}, {}, 0.9, None),
        ("timm's own, scale=248", dict(scale=248), {}, 0.9, None),
        ('rotated by EXIF', {}, {}, 224 / 256, 6),
        (
            "rotated by EXIF, color_type='color_ignore_orientation'",
            {}, dict(color_type='color_ignore_orientation'), 224 / 256, 6,
        ),
    ):  # fmt: skip
        rows = [compare(model, name, resize, load, crop, orientation) for name in PHOTOGRAPHS]
        share, pixel, logit, same = zip(*rows, strict=True)
        print(
            f'| {setting} | {sum(share) / len(rows):.1%} | {max(pixel)} | {max(logit):.1e} '
            f'| {sum(same)} of {len(rows)} |'
        )


def build(name: str, config: str) -> tuple:
    """timm's model with random weights that all matter, and mmpretrain's with the same."""
    ours = timm.create_model(name).eval()
    for key, weight in ours.named_parameters():
        is_factor = weight.dim() == 1 and not key.endswith('bias')
        weight.data.normal_(float(is_factor), 0.05)
    theirs = MODELS.build(get_config(config).model).eval()
    theirs.load_state_dict(convert(ours.state_dict(), 'mmpretrain'))
    return ours.requires_grad_(False), theirs.requires_grad_(False)


def hugging_face(model: torch.nn.Module) -> object:
    """Logits of images, by transformers."""
    with tempfile.TemporaryDirectory() as folder:
        name = save_folder(convert(model.state_dict(), 'huggingface'), folder)
        theirs = getattr(transformers, name).from_pretrained(folder).eval()
    return lambda images: theirs(images).logits


def difference(ours: object, theirs: object, images: torch.Tensor) -> float:
    return (ours(images) - theirs(images)).abs().max().item()


def compare(model, name, resize, load, crop, orientation) -> tuple:
    """Share of values 0 ... 255 that differ, the largest difference, that of logits, same top-1."""
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    with tempfile.NamedTemporaryFile(suffix='.jpg') as file:
        Image.fromarray(getattr(skimage.data, name)()).save(file.name, quality=90, exif=exif)
        image = Image.open(file.name).convert('RGB')
        first, edge, *rest = Config.fromfile(DATA).test_pipeline
        steps = [{**first, **load}, {**edge, **resize}, *rest]
        packed = Compose([TRANSFORMS.build(step) for step in steps])(dict(img_path=file.name))
    evaluation = dict(input_size=224, interpolation='bicubic', crop_pct=crop)
    theirs = create_transform(**evaluation, normalize=False)(image)
    pixels = (packed['inputs'].flip(0).int() - theirs.int()).abs()
    preprocess = MODELS.build(
        dict(type='ClsDataPreprocessor', **Config.fromfile(DATA).data_preprocessor)
    )
    batch = dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']])
    ours = model(preprocess(batch)['inputs'])
    timms = model(create_transform(**evaluation)(image)[None])
    return (
        (pixels > 0).float().mean().item(),
        pixels.max().item(),
        (ours - timms).abs().max().item(),
        bool(ours.argmax() == timms.argmax()),
    )


if __name__ == '__main__':
    main()
