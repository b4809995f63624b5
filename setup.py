"""Packaging of shd_vit. Lower bounds are versions that the test suite was run with."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (HERE / 'shd_vit/version.py').read_text())[1]

EXTRAS = {
    # mmpretrain needs one mmcv. Who has the full mmcv leaves this out: the two clash.
    'lite': ['mmcv-lite>=2.2.0'],
    # Builds with Debian's pkg-config, libturbojpeg0-dev and libopencv-dev.
    'ffcv': ['ffcv>=1.0.2', 'numba>=0.68', 'tqdm>=4.66'],
    'dev': [
        'hypothesis>=6.100',
        'pytest>=9.0',
        'pytest-xdist>=3.8',
        'ruff>=0.17',
        # Photographs to load and to augment.
        'scikit-image>=0.26',
        'scikit-learn>=1.9',
        'tensorboard>=2.21',
        'transformers>=5.23',
    ],
}
EXTRAS['all'] = sorted({package for extra in EXTRAS.values() for package in extra})

setup(
    name='shd_vit',
    version=VERSION,
    description='Squeezing-Heads Distillation of vision transformers, for mmpretrain and timm',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['shd_vit', 'shd_vit.*']),
    python_requires='>=3.10,<3.13',
    install_requires=[
        'torch>=2.14',
        'torchvision>=0.29',
        'timm>=1.0.31',
        'mmengine>=0.10.7',
        'mmpretrain>=1.2.0',
        'rich>=15.0',
        # mmengine reads `mmpretrain::...` configs through pkg_resources, which 81 dropped.
        'setuptools<81',
    ],
    extras_require=EXTRAS,
)
