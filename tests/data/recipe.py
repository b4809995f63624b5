"""The DeiT augmentation, as the ImageNet configs have it."""

from pathlib import Path

from mmengine.config import Config

CONFIG = Path(__file__).parents[2] / 'configs/_base_/datasets/imagenet_folder.py'


def recipe(scale=224):
    """Train pipeline between reading and packing, for images of ``scale`` pixels."""
    pipeline = Config.fromfile(CONFIG).to_dict()['train_pipeline'][1:-1]
    assert pipeline[0]['type'] == 'RandomResizedCrop'
    return [dict(pipeline[0], scale=scale), *pipeline[1:]]
