"""Configs by name, from a clone; tests/test_package.py reads them from a wheel."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.hub import get_config

from shd_vit.errors import ConfigError
from shd_vit.hosts.mmpretrain.model_config import read_model_config

CONFIGS = Path(__file__).parents[3] / 'configs'


@pytest.mark.parametrize('name', ['deit_tiny_shd.py', 'fashion_mnist/baseline.py'])
def test_name_and_file_are_one_config(name, tmp_path):
    expected = Config.fromfile(CONFIGS / name)
    assert Config.fromfile(f'shd_vit::{name}').to_dict() == expected.to_dict()
    mine = tmp_path / 'mine.py'
    mine.write_text(f"_base_ = 'shd_vit::{name}'\nmodel = _base_.model\nown = 1\n")
    assert Config.fromfile(mine).to_dict() == {**expected.to_dict(), 'own': 1}


def test_other_packages_and_models():
    name = 'mmpretrain::deit/deit-tiny_4xb256_in1k.py'
    assert Config.fromfile(name).to_dict() == get_config(name).to_dict()
    ours = read_model_config('shd_vit::fashion_mnist/baseline.py', 'model.student').model
    assert ours == Config.fromfile(CONFIGS / 'fashion_mnist/baseline.py').model


def test_no_such_config(tmp_path):
    said = "'shd_vit::deit_tiny_sdh.py' does not exist; close to it are shd_vit::deit_tiny_shd.py"
    with pytest.raises(ConfigError, match=said):
        Config.fromfile('shd_vit::deit_tiny_sdh.py')
    with pytest.raises(ConfigError, match=r"'shd_vit::nothing\.py' does not"):
        read_model_config('shd_vit::nothing.py', 'model.teacher')
