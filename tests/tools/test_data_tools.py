"""tools/data as a user starts them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import fashion
import numpy as np
import pytest
from PIL import Image

pytest.importorskip('ffcv', reason='the files are written with FFCV, an optional extra')

from ffcv.fields import IntField, RGBImageField
from ffcv.writer import DatasetWriter

from shd_vit.data.beton import Beton
from shd_vit.data.manifest import manifest_path, read_manifest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def run(tool, *arguments, code=0):
    """Output of a tool that is to end with `code`, never with a traceback."""
    process = subprocess.run(
        [sys.executable, f'tools/data/{tool}_ffcv.py', *map(str, arguments)],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900,
    )  # fmt: skip
    assert process.returncode == code, process.stdout[-3000:]
    assert 'Traceback' not in process.stdout
    return process.stdout


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return fashion.write_images(tmp_path_factory.mktemp('fashion'))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('folder')
    rng = np.random.default_rng(0)
    for name in ('wolf', 'ant'):
        (root / name).mkdir()
        for i in range(6):
            image = rng.integers(0, 256, (60, 80 + i, 3), dtype=np.uint8)
            Image.fromarray(image).save(root / name / f'{i}.png')
    return root


def idx_pixels(data, name):
    return np.fromfile(data / f'{name}-images-idx3-ubyte', np.uint8, offset=16).reshape(-1, 28, 28)


def assert_holds(path, pixels, labels):
    with Beton(path) as beton:
        assert beton.labels.tolist() == list(labels)
        assert len(beton.classes) == 10
        for i, image in enumerate(pixels):
            stored = np.frombuffer(beton.read(i)[0], np.uint8).reshape(28, 28, 3)
            assert (stored == image[..., None]).all()


def test_fashion_mnist_is_stored_exactly_and_verified(data, tmp_path):
    path = tmp_path / 'test.beton'
    options = path, '--fashion-mnist', data, '--split', 'test'
    assert f'{fashion.TEST} images' in run('write', *options)
    assert_holds(path, idx_pixels(data, 't10k'), np.arange(fashion.TEST) % 10)
    assert 'exists already: --force' in run('write', *options, code=1)
    run('write', *options, '--force')
    assert f'{fashion.TEST} images in 1 pages' in run('verify', path)

    pixels = Beton(path).index.rows['pointer']
    damaged = bytearray(path.read_bytes())
    for sample in (3, 11):
        damaged[int(pixels[sample]) + 100] ^= 1
    path.write_bytes(damaged)
    missing = tmp_path / 'missing.beton'
    output = run('verify', path, missing, code=1)
    assert re.findall(r'sample (\d+): its bytes', output) == ['3', '11']
    assert 'page 0: its bytes' in output
    assert '3 problems' in output
    assert "missing.beton' cannot be opened" in output
    assert '2 of 2 files failed' in output


def test_the_data_set_of_a_config(data, tmp_path):
    config = tmp_path / 'config.py'
    dataset = dict(type='FashionMNIST', data_root=str(data), split='train', download=False)
    dataset['pipeline'] = [dict(type='NoSuchTransform')]
    config.write_text(f'train_dataloader = dict(dataset={dataset})')
    path = tmp_path / 'train.beton'
    run('write', path, '--config', config, '--limit', 32)
    assert_holds(path, idx_pixels(data, 'train')[::2], np.arange(0, 64, 2) % 10)
    assert read_manifest(path)['source']['limit'] == 32
    assert 'has no dataset in val' in run(
        'write', tmp_path / 'val.beton', '--config', config, '--split', 'val', code=1
    )


def test_a_folder_of_images(folder, tmp_path):
    path = tmp_path / 'a.beton'
    run('write', path, '--imagenet-folder', folder, '--max-resolution', 40, '--workers', 2)
    with Beton(path) as beton:
        assert beton.classes == ['ant', 'wolf']
        assert beton.labels.tolist() == 6 * [0] + 6 * [1]
        assert all(beton.read(i)[2:] == (40, True) for i in range(12))
    run('verify', path)
    copy = shutil.copytree(folder, tmp_path / 'folder')
    (copy / 'ant/3.png').write_bytes(b'no image')
    arguments = tmp_path / 'b.beton', '--imagenet-folder', copy
    assert re.search(r'DatasetError: sample 3 \(.*ant/3\.png\)', run('write', *arguments, code=1))
    assert '11 images, 1 skipped' in run('write', *arguments, '--skip-bad')
    assert 'does not exist' in run(
        'write', tmp_path / 'c.beton', '--imagenet-folder', tmp_path / 'no', code=1
    )


def test_hidden_folders_are_no_classes_of_a_file(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / 'folder')
    shutil.copytree(copy / 'ant', copy / '.ipynb_checkpoints')
    (copy / 'wolf/x.webp').touch()
    output = run('write', tmp_path / 'a.beton', '--imagenet-folder', copy)
    assert output.count('left out 1 .webp (wolf 1)') == 1
    with Beton(tmp_path / 'a.beton') as beton:
        assert beton.classes == beton.manifest['source']['folders'] == ['ant', 'wolf']
        assert beton.labels.tolist() == 6 * [0] + 6 * [1]


@pytest.mark.parametrize(
    ('reader', 'backend'),
    [(dict(), 'cv2'), (dict(imdecode_backend='pillow'), 'pillow'), (dict(color_type='x'), None)],
)
def test_a_configs_reader_says_how_files_are_read(reader, backend, folder, tmp_path):
    config = tmp_path / 'config.py'
    pipeline = [dict(type='LoadImageFromFile', **reader)]
    dataset = dict(type='CustomDataset', data_root=str(folder), pipeline=pipeline)
    config.write_text(f'train_dataloader = dict(dataset={dataset})')
    output = run('write', tmp_path / 'a.beton', '--config', config, code=backend is None)
    if backend is None:
        assert "ConfigError: LoadImageFromFile.color_type='x'" in output
    else:
        assert read_manifest(tmp_path / 'a.beton')['options']['backend'] == backend


def stock(path):
    """What FFCV itself writes."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (90, 90, 3), dtype=np.uint8) for _ in range(120)]
    fields = dict(image=RGBImageField(write_mode='jpg'), label=IntField())
    samples = [(image, i % 10) for i, image in enumerate(images)]
    DatasetWriter(str(path), fields, num_workers=2).from_indexed_dataset(samples)
    return path


def test_a_whole_file_by_stock_ffcv_is_adopted_and_a_damaged_one_is_not(tmp_path):
    path, bad = stock(tmp_path / 'stock.beton'), tmp_path / 'bad.beton'
    shutil.copy(path, bad)
    assert '--adopt' in run('verify', path, code=1)
    assert 'whole' in run('verify', path, '--adopt')
    with Beton(path) as beton:
        assert len(beton) == 120
        assert beton.classes is None
        row = beton.index.rows[70]
        assert beton.read(70)[0][:2] == b'\xff\xd8'
    assert 'has a manifest' in run('verify', path, '--adopt', code=1)

    content = bytearray(bad.read_bytes())
    begin, end = int(row['pointer']), int(row['pointer'] + row['size'])
    content[begin:end] = bytes(end - begin)  # as a page that was never written
    bad.write_bytes(content)
    assert 'sample 70' in run('verify', bad, '--adopt', code=1)
    assert not Path(manifest_path(bad)).exists()
