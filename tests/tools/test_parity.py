"""The same weights and files by tools/test.py and by a loop over timm's parts; and the tables."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ImageDataset, create_transform
from tooling import ROOT, run_tool
from torch.utils.data import DataLoader

from shd_vit.convert import convert
from shd_vit.errors import ConfigError
from shd_vit.lab import parity

COUNT = 24


def write_photographs(folder):
    """Smooth random images of various sizes, as JPEGs in class folders."""
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        path = folder / str(i % 10) / f'{i:02}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        size = 200 + 37 * i % 300, 200 + 61 * i % 300
        small.resize(size, Image.Resampling.BICUBIC).save(path, quality=90)
    return folder


def by_test_tool(folder, images, **edge):
    """Scores by tools/test.py, with these changes to the resizing."""
    from mmengine.config import Config

    load, resize, *rest = Config.fromfile(
        ROOT / 'configs/_base_/datasets/imagenet_folder.py'
    ).test_pipeline
    pipeline = [load, {**resize, **edge}, *rest]
    dataset = dict(type='CustomDataset', data_root=str(images), pipeline=pipeline, _delete_=True)
    loader = dict(batch_size=8, num_workers=0, persistent_workers=False, dataset=dataset)
    (folder / 'config.py').write_text(
        f"_base_ = '{ROOT}/configs/deit_tiny_baseline.py'\n"
        'model = dict(head=dict(num_classes=10))\ndata_preprocessor = dict(num_classes=10)\n'
        f'test_dataloader = {loader!r}\n'
    )
    subprocess.run(
        [sys.executable, 'tools/test.py', folder / 'config.py', folder / 'model.pth', '--out',
         folder / 'scores.pkl', '--out-item', 'pred', '--work-dir', folder],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    samples = pickle.loads((folder / 'scores.pkl').read_bytes())
    return torch.stack([sample['pred_score'] for sample in samples])


@pytest.mark.slow
@torch.no_grad()
def test_the_test_tool_scores_as_timm_does(tmp_path):
    """Equal where the pipeline is ours; other scores where it is timm's own or OpenCV's."""
    images = write_photographs(tmp_path / 'images')
    model, _ = parity.twins('deit_tiny_patch16_224')
    model.reset_classifier(10)
    torch.nn.init.normal_(model.head.weight)
    torch.save(dict(state_dict=convert(model.state_dict(), 'mmpretrain')), tmp_path / 'model.pth')
    scores = {}
    for crop in (224 / 256, 0.9):
        transform = create_transform(224, interpolation='bicubic', crop_pct=crop)
        batches = DataLoader(ImageDataset(str(images), transform=transform), batch_size=8)
        scores[crop] = torch.cat([model(x).softmax(1) for x, _ in batches])
    ours = by_test_tool(tmp_path, images)
    assert (ours - scores[224 / 256]).abs().max() < 1e-4
    assert (ours - scores[0.9]).abs().max() > 1e-3
    assert (by_test_tool(tmp_path, images, scale=248) - scores[0.9]).abs().max() < 1e-4


@pytest.mark.slow
def test_tables(tmp_path, monkeypatch):
    """DeiT3 among them, whose forward shd_vit repairs in mmpretrain."""
    images = write_photographs(tmp_path / 'images')
    run_tool(
        'analysis/parity', monkeypatch, 'deit3_small_patch16_224', '--photographs',
        images / '0/00.jpg', images / '1/01.jpg', '--markdown', tmp_path / 'parity.md',
    )  # fmt: skip
    lines = (tmp_path / 'parity.md').read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines if '|' in line]
    logits = next(row for row in rows if row[0] == 'deit3_small_patch16_224')
    assert float(logits[1]) > 1 and max(map(float, logits[2:])) < 1e-4
    pixels = [row for row in rows if row[0].endswith('.jpg')]
    assert [(row[1], row[2], row[4]) for row in pixels] == [('0.0%', '0', 'yes')] * 2


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['vit'], "no model 'vit': allowed are deit_tiny_patch16_224, "),
        (
            ['deit_tiny_patch16_224', '--photographs', 'gone.jpg'],
            "--photographs 'gone.jpg' does not exist",
        ),
    ],
)
def test_mistakes_are_named(arguments, message, monkeypatch):
    with pytest.raises(ConfigError, match=message):
        run_tool('analysis/parity', monkeypatch, *arguments)
