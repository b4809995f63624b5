"""The README's config is built, and the paper's configs are what their names say."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmpretrain.registry import MODELS

ROOT = Path(__file__).parents[2]


def test_the_config_in_the_readme_distils(tmp_path):
    (block,) = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(), re.DOTALL)
    path = tmp_path / 'mine.py'
    path.write_text(block)
    cfg = Config.fromfile(path)
    assert cfg.train_cfg.max_epochs == 300, 'the rest of the base config is kept'
    cfg.model.teacher.checkpoint = None
    distiller = MODELS.build(
        dict(cfg.model, data_preprocessor=dict(cfg.data_preprocessor, type='ClsDataPreprocessor'))
    )
    assert distiller.losses.shd.pairs == [(n, n) for n in range(1, 13)]
    assert len(distiller.data_preprocessor.batch_augments.augments) == 2


@pytest.mark.parametrize(
    'name, losses',
    [
        ('deit_tiny_shd', {'vitkd', 'nkd', 'shd'}),
        ('deit_tiny_vitkd_nkd', {'vitkd', 'nkd'}),
        ('deit_tiny_shd_only', {'shd'}),
        ('deit_tiny_baseline', set()),
        ('fashion_mnist/shd', {'vitkd', 'nkd', 'shd'}),
        ('fashion_mnist/vitkd_nkd', {'vitkd', 'nkd'}),
        ('fashion_mnist/shd_only', {'shd'}),
        ('fashion_mnist/baseline', set()),
    ],
)
def test_rows_of_table_4(name, losses):
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    assert set(cfg.model.get('losses', {})) == losses
    batch = cfg.train_dataloader.batch_size * (8 if name.startswith('deit') else 1)
    assert batch == cfg.auto_scale_lr.base_batch_size
    if losses:
        cfg.model.teacher.checkpoint = None
    model = MODELS.build(cfg.model)
    heads = [3, 6] if losses else [3]
    models = [model.student, model.teacher] if losses else [model]
    assert [m.backbone.layers[0].attn.num_heads for m in models] == heads


def test_imagenet_recipe_is_mmpretrains():
    """Every setting that mmpretrain's DeiT-Tiny recipe makes is the same here."""
    from mmengine.hub import get_config

    ours = Config.fromfile(ROOT / 'configs/deit_tiny_baseline.py')
    theirs = get_config('mmpretrain::deit/deit-tiny_4xb256_in1k.py')
    assert ours.model == theirs.model
    for field in ('train_pipeline', 'test_pipeline', 'data_preprocessor', 'train_cfg'):
        assert ours[field] == theirs[field], field
    assert ours.param_scheduler == theirs.param_scheduler
    assert ours.auto_scale_lr == theirs.auto_scale_lr
    assert ours.optim_wrapper.optimizer == theirs.optim_wrapper.optimizer
    assert ours.optim_wrapper.clip_grad == theirs.optim_wrapper.clip_grad
