"""The tables of docs/export.md: how far libraries differ on the same weights and photographs.

Random weights, seed 0. Needs transformers and scikit-image, and Fashion-MNIST for the accuracies.
"""

import argparse
import pickle
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import skimage.data
import timm
import torch
import transformers
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.hub import get_config
from mmpretrain.datasets import FashionMNIST
from mmpretrain.models.backbones.deit3 import DeiT3TransformerEncoderLayer
from mmpretrain.registry import MODELS, TRANSFORMS
from PIL import Image
from timm.data import ImageDataset, create_transform
from timm.utils import accuracy
from torch.utils.data import DataLoader

from shd_vit.convert import convert, save_folder
from shd_vit.shipped import shipped

MODEL_PAIRS = {
    'deit_tiny_patch16_224': 'mmpretrain::deit/deit-tiny_4xb256_in1k.py',
    'deit_tiny_distilled_patch16_224': 'mmpretrain::deit/deit-tiny-distilled_4xb256_in1k.py',
    'deit3_small_patch16_224': 'mmpretrain::deit3/deit3-small-p16_64xb64_in1k.py',
}
PHOTOGRAPHS = ('astronaut', 'chelsea', 'coffee', 'rocket')
DATA = str(shipped('configs') / '_base_/datasets/imagenet_folder.py')
IMAGENET = dict(input_size=224, interpolation='bicubic', crop_pct=224 / 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--images',
        type=int,
        default=200,
        metavar='N',
        help='test images for the accuracies; 0 for no such table (default: 200)',
    )
    parser.add_argument(
        '--data-root',
        default='data/fashion_mnist',
        metavar='FOLDER',
        help='of Fashion-MNIST (default: data/fashion_mnist)',
    )
    args = parser.parse_args()
    warnings.simplefilter('ignore')  # libraries about themselves, among the tables
    torch.manual_seed(0)
    pairs = [(name, *build(name, config)) for name, config in MODEL_PAIRS.items()]
    logits_table(pairs)
    pixels_table(pairs[0][1])
    if args.images:
        accuracy_table(pairs[0][1], args.data_root, args.images)


def logits_table(pairs: list) -> None:
    """The largest differences of logits from timm's."""
    images = torch.randn(1, 3, 224, 224)
    print('| model | largest logit | mmpretrain | mmpretrain, DeiT3 repaired | Hugging Face |')
    print('| --- | --- | --- | --- | --- |')
    repaired = DeiT3TransformerEncoderLayer.forward
    DeiT3TransformerEncoderLayer.forward = repaired.__wrapped__
    before = [difference(ours, theirs, images) for _, ours, theirs in pairs]
    DeiT3TransformerEncoderLayer.forward = repaired
    for (name, ours, theirs), unrepaired in zip(pairs, before, strict=True):
        largest = ours(images).abs().max().item()
        after = difference(ours, theirs, images), difference(ours, hugging_face(ours), images)
        print('|', ' | '.join([name, *(f'{x:.1e}' for x in (largest, unrepaired, *after))]), '|')


def pixels_table(model: torch.nn.Module) -> None:
    """How far photographs differ after both evaluation pipelines, and logits with them."""
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
        heads = model.blocks[0].attn.num_heads
        name = save_folder(convert(model.state_dict(), 'huggingface'), folder, heads=heads)
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
    evaluation = {**IMAGENET, 'crop_pct': crop}
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


@torch.no_grad()
def accuracy_table(model: torch.nn.Module, data_root: str, count: int) -> None:
    """Top-1 of the same weights and files by tools/test.py and by a loop over timm's parts.

    The backbone stays random. Its head is the least-squares fit to the labels of other images, so
    that the accuracy is neither chance nor 100 %.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(f'{folder}/fit', data_root, 'train', 500)
        write_photographs(f'{folder}/test', data_root, 'test', count)
        model.reset_classifier(10)
        batches = timm_batches(f'{folder}/fit', 224 / 256)
        features, labels = zip(
            *((model.forward_head(model.forward_features(x), pre_logits=True), y)
              for x, y in batches), strict=True,
        )  # fmt: skip
        known = torch.cat([torch.cat(features), torch.ones(500, 1)], dim=1).double()
        ridge = known.T @ known + 1e-2 * torch.eye(known.shape[1])
        fit = torch.linalg.solve(ridge, known.T @ torch.eye(10)[torch.cat(labels)].double())
        model.head.weight.copy_(fit[:-1].T)
        model.head.bias.copy_(fit[-1])
        torch.save(
            dict(state_dict=convert(model.state_dict(), 'mmpretrain')), f'{folder}/model.pth'
        )
        print(f'\n| setting | timm, {count} images | tools/test.py | same predictions |')
        print('| --- | --- | --- | --- |')
        by_crop: dict[float, torch.Tensor] = {}
        for setting, edge, crop in (
            ('as configured', {}, 224 / 256),
            ("backend='cv2'", dict(backend='cv2'), 224 / 256),
            ("timm's own crop_pct=0.9", {}, 0.9),
            ("timm's own, scale=248", dict(scale=248), 0.9),
        ):
            if crop not in by_crop:
                batches = timm_batches(f'{folder}/test', crop)
                by_crop[crop] = torch.cat([model(x) for x, _ in batches])
            ours = by_crop[crop]
            theirs, labels = by_test_tool(folder, edge)
            (top1,), (top1_theirs,) = (accuracy(scores, labels) for scores in (ours, theirs))
            same = int((ours.argmax(1) == theirs.argmax(1)).sum())
            print(f'| {setting} | {top1:.1f} | {top1_theirs:.1f} | {same} of {count} |')


def write_photographs(folder: str, data_root: str, split: str, count: int) -> None:
    """The first images of Fashion-MNIST, enlarged to various sizes, as JPEGs in class folders."""
    images = FashionMNIST(data_root, split=split, test_mode=split == 'test', download=False)
    for i in range(count):
        image = images.get_data_info(i)
        path = Path(folder, str(int(image['gt_label'])), f'{i:05}.jpg')
        path.parent.mkdir(parents=True, exist_ok=True)
        size = 200 + 37 * i % 300, 200 + 61 * i % 300
        Image.fromarray(image['img']).convert('RGB').resize(size).save(path, quality=90)


def timm_batches(folder: str, crop: float) -> Iterator:
    transform = create_transform(**{**IMAGENET, 'crop_pct': crop})
    yield from DataLoader(ImageDataset(folder, transform=transform), batch_size=50)


def by_test_tool(folder: str, edge: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and labels of tools/test.py, with these changes to the resizing."""
    base = shipped('configs') / 'deit_tiny_baseline.py'
    load, resize, *rest = Config.fromfile(DATA).test_pipeline
    dataset = dict(
        type='CustomDataset',
        data_root=f'{folder}/test',
        pipeline=[load, {**resize, **edge}, *rest],
        _delete_=True,
    )
    loader = dict(batch_size=50, num_workers=0, persistent_workers=False, dataset=dataset)
    Path(folder, 'config.py').write_text(
        f'_base_ = {str(base)!r}\nmodel = dict(head=dict(num_classes=10))\n'
        'data_preprocessor = dict(num_classes=10)\n'
        f'test_dataloader = {loader!r}\n'
    )
    command = [sys.executable, str(shipped('tools') / 'test.py'), f'{folder}/config.py']
    done = subprocess.run(
        [*command, f'{folder}/model.pth', '--out', f'{folder}/scores.pkl', '--out-item', 'pred',
         '--work-dir', folder],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stdout)
    scores = pickle.loads(Path(folder, 'scores.pkl').read_bytes())
    predictions = torch.stack([sample['pred_score'] for sample in scores])
    return predictions, torch.cat([sample['gt_label'] for sample in scores])


if __name__ == '__main__':
    main()
