"""What docs/ffcv.md says."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config

pytest.importorskip('ffcv', reason='FFCV is an optional extra')

from shd_vit.data.transforms import FFCV_TRANSFORMS, build_transforms

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs/ffcv.md').read_text()
CONFIG, TRANSFORM = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)


def test_every_row_of_the_table_of_failures_names_a_test():
    rows = re.findall(r'`([\w./]+\.py)::(test_\w+)`', PAGE)
    assert len(rows) >= 11
    for file, name in rows:
        assert f'def {name}(' in (ROOT / 'tests' / file).read_text(), name


def test_the_config_is_the_one_of_imagenet():
    written = {}
    ours = Config.fromfile(ROOT / 'configs/deit_tiny_shd.py')
    exec(CONFIG, dict(train_pipeline=ours.train_pipeline), written)
    assert ours.train_dataloader.to_dict() == Config(written).train_dataloader.to_dict()


def test_adding_a_transform():
    exec(TRANSFORM, {})
    try:
        (darken,) = build_transforms([dict(type='Darken')])
        image = np.full((4, 4, 3), 100, np.uint8)
        seen = {int(darken(image.copy(), random.Random(seed)).max()) for seed in range(20)}
        assert seen == {50, 100}
    finally:
        FFCV_TRANSFORMS.module_dict.pop('Darken')
