"""FFCVLoader: the right pixels, whatever the threads; and every failure in the open."""

import gc
import io
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from data.recipe import recipe
from mmengine.config import Config
from mmpretrain.registry import TRANSFORMS
from mmpretrain.structures import DataSample
from PIL import Image
from torch.testing import assert_close

pytest.importorskip('ffcv', reason='FFCV is an optional extra')

from shd_vit.data.beton import Beton
from shd_vit.data.transforms import FFCV_TRANSFORMS, Transform
from shd_vit.data.writer import write_beton
from shd_vit.errors import ConfigError, DatasetError
from shd_vit.hosts.mmpretrain import DistillRunner
from shd_vit.hosts.mmpretrain.ffcv_config import train_from_ffcv
from shd_vit.hosts.mmpretrain.ffcv_loader import FFCVLoader

RECIPE = recipe(scale=32)
COUNT = 23


@FFCV_TRANSFORMS.register_module()
class FailsOn(Transform):
    """Raises at images whose top left pixel has this red value."""

    def __init__(self, red, channel_order='rgb'):
        self.red = red

    def draw(self, rng, height, width):
        return ()

    def apply(self, image):
        if image[0, 0, 0] == self.red:
            raise ArithmeticError('made to fail')
        return image


@pytest.fixture(scope='module')
def pixels():
    """(23, 40, 48, 3); the first pixel's red tells the images apart."""
    images = np.random.default_rng(0).integers(0, 255, (COUNT, 40, 48, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(COUNT)
    return images


@pytest.fixture(scope='module')
def raw(pixels, tmp_path_factory):
    path = tmp_path_factory.mktemp('raw') / 'images.beton'
    write_beton(path, [(image, i % 5) for i, image in enumerate(pixels)], proportion=0.0)
    return str(path)


@pytest.fixture(scope='module')
def jpegs(pixels, tmp_path_factory):
    path = tmp_path_factory.mktemp('jpegs') / 'images.beton'
    write_beton(path, [(image, i % 5) for i, image in enumerate(pixels)])
    return str(path)


def loader(beton, **kwargs):
    kwargs = dict(batch_size=4, num_workers=2, seed=0) | kwargs
    return FFCVLoader(beton, **kwargs)


def shuffled(beton, **kwargs):
    return loader(beton, sampler=dict(type='DefaultSampler', shuffle=True), **kwargs)


def contents(batches):
    """Pixels by sample index."""
    return {
        sample.sample_idx: image.clone()
        for batch in batches
        for image, sample in zip(batch['inputs'], batch['data_samples'], strict=True)
    }


def threads():
    return [t for t in threading.enumerate() if t.name.startswith('FFCVLoader')]


# --- What a batch is ----------------------------------------------------------------------


@pytest.mark.parametrize('order, channels', [('rgb', [0, 1, 2]), ('bgr', [2, 1, 0])])
def test_raw_pixels_and_labels_arrive_as_written(raw, pixels, order, channels):
    batches = list(loader(raw, channel_order=order))
    assert [len(b['inputs']) for b in batches] == [4, 4, 4, 4, 4, 3]
    assert len(loader(raw)) == 6 and len(loader(raw, drop_last=True)) == 5
    assert len(list(loader(raw, drop_last=True))) == 5
    expected = pixels[..., channels].transpose(0, 3, 1, 2)
    assert (torch.cat([b['inputs'] for b in batches]).numpy() == expected).all()
    samples = [sample for b in batches for sample in b['data_samples']]
    assert all(isinstance(sample, DataSample) for sample in samples)
    assert [sample.sample_idx for sample in samples] == list(range(COUNT))
    assert [sample.gt_label.tolist() for sample in samples] == [[i % 5] for i in range(COUNT)]


@pytest.mark.parametrize('order', ['rgb', 'bgr'])
def test_jpegs_are_what_pillow_decodes(jpegs, order):
    with Beton(jpegs) as beton:
        stored = [Image.open(io.BytesIO(beton.read(i)[0])) for i in range(COUNT)]
    expected = np.stack([np.asarray(image) for image in stored]).transpose(0, 3, 1, 2)
    inputs = torch.cat([b['inputs'] for b in loader(jpegs, channel_order=order)])
    assert (inputs.numpy() == (expected if order == 'rgb' else expected[:, ::-1])).all()


def test_validation_images_are_mmpretrains(tmp_path):
    """The recipe's test pipeline on the stored bytes, from files and from FFCV: the same pixels."""
    from mmcv.transforms import Compose
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmpretrain.registry import TRANSFORMS

    init_default_scope('mmpretrain')
    recipe = Config.fromfile('configs/_base_/datasets/imagenet_folder.py').test_pipeline
    photographs = [getattr(skimage.data, n)() for n in ('astronaut', 'chelsea', 'coffee', 'rocket')]
    write_beton(tmp_path / 'val.beton', [(image, 0) for image in photographs])
    (batch,) = loader(str(tmp_path / 'val.beton'), pipeline=recipe)
    pipeline = Compose([TRANSFORMS.build(transform) for transform in recipe])
    with Beton(tmp_path / 'val.beton') as beton:
        for index, ours in enumerate(batch['inputs']):
            file = tmp_path / f'{index}.jpg'
            file.write_bytes(beton.read(index)[0])
            expected = pipeline(dict(img_path=str(file), gt_label=0))['inputs']
            assert_close(ours, expected, rtol=0, atol=0)


def test_grey_images_come_with_one_channel(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (3, 28, 28), dtype=np.uint8)
    write_beton(tmp_path / 'grey.beton', [(image, 0) for image in images], proportion=0.0)
    (batch,) = loader(str(tmp_path / 'grey.beton'), channel_order='grayscale')
    assert (batch['inputs'].numpy() == images[:, None]).all()


@pytest.mark.parametrize('proportion', [0.0, 1.0])
def test_luminance_is_that_of_mmpretrains_reader(proportion, tmp_path):
    """Colours as one channel: the same bytes, read as grey by mmpretrain's readers."""
    photographs = [getattr(skimage.data, n)()[:97, :113] for n in ('astronaut', 'coffee', 'rocket')]
    path = tmp_path / 'colour.beton'
    write_beton(path, [(image, 0) for image in photographs], proportion=proportion)
    reader = dict(type='LoadImageFromFile', color_type='grayscale')
    (batch,) = loader(str(path), pipeline=[reader], channel_order='grayscale')
    read = TRANSFORMS.build(reader)
    with Beton(path) as beton:
        for index, ours in enumerate(batch['inputs']):
            file = tmp_path / f'{index}.{"jpg" if proportion else "png"}'
            if proportion:
                file.write_bytes(beton.read(index)[0])
            else:
                Image.fromarray(photographs[index]).save(file)
            theirs = read(dict(img_path=str(file)))['img']
            # libpng weighs the channels a little differently.
            tolerance = 0 if proportion else 1
            assert np.abs(ours[0].numpy().astype(int) - theirs).max() <= tolerance
    # A crop decodes the tiles that it needs.
    crop = dict(type='RandomResizedCrop', scale=32, backend='pillow', interpolation='bicubic')
    (cropped,) = loader(str(path), pipeline=[reader, crop], channel_order='grayscale')
    grey = tmp_path / 'grey.beton'
    pixels = batch['inputs'][:, 0].numpy()
    write_beton(grey, [(image, 0) for image in pixels], proportion=0.0)
    (expected,) = loader(str(grey), pipeline=[crop], channel_order='grayscale')
    assert (cropped['inputs'] == expected['inputs']).all()


@pytest.mark.parametrize(
    'reader, message',
    [
        (dict(color_type='grayscale'), "color_type='grayscale', but channel_order='bgr'"),
        (dict(color_type='unchanged'), "color_type='unchanged': a .beton file holds 8-bit"),
        (dict(color_type='color_ignore_orientation'), "'color_ignore_orientation': a .beton file"),
        (dict(imdecode_backend='turbojpeg'), "imdecode_backend='turbojpeg': a .beton"),
        (dict(imdecode_backend='pillow'), "'pillow', but '.*' holds what 'cv2' reads"),
        (dict(to_float32=True), 'to_float32=True'),
    ],
)
def test_a_reader_of_other_pixels_is_refused(reader, message, raw, pixels, tmp_path):
    pipeline = [dict(type='LoadImageFromFile', **reader), dict(type='PackInputs')]
    with pytest.raises(ConfigError, match=message):
        loader(raw, pipeline=pipeline)
    if reader == dict(imdecode_backend='pillow'):
        write_beton(tmp_path / 'a.beton', [(pixels[0], 0)], backend='pillow')
        assert len(loader(str(tmp_path / 'a.beton'), pipeline=pipeline)) == 1


@pytest.mark.parametrize(
    'reader, mean, order',
    [
        ([], [0.0], 'grayscale'),
        ([], [0.0] * 3, 'bgr'),
        ([dict(type='LoadImageFromFile', color_type='grayscale')], [0.0], 'grayscale'),
        ([dict(type='LoadImageFromFile')], [0.0], 'bgr'),
    ],
)
def test_a_config_that_is_taken_over_keeps_its_channels(reader, mean, order):
    cfg = Config(
        dict(
            model=dict(data_preprocessor=dict(mean=mean)),
            train_dataloader=dict(batch_size=2, dataset=dict(pipeline=reader)),
        )
    )
    train_from_ffcv(cfg, 'a.beton')
    assert cfg.train_dataloader.channel_order == order


@pytest.mark.slow
def test_the_whole_mmpretrain_pipeline_may_be_passed(jpegs):
    whole = [dict(type='LoadImageFromFile'), *RECIPE, dict(type='PackInputs')]
    assert_close(contents(loader(jpegs, pipeline=whole)), contents(loader(jpegs, pipeline=RECIPE)))


def test_a_first_pass_draws_from_seed_epoch_and_index(raw, pixels):
    """Flips, decided by hand from the documented key."""
    flip = dict(type='RandomFlip', prob=0.5, direction='horizontal')
    flipped = []
    for index, image in contents(loader(raw, pipeline=[flip], channel_order='rgb')).items():
        expected = random.Random(f'0 0 {index}').random() < 0.5
        image = image.permute(1, 2, 0).numpy()
        assert (image == (pixels[index][:, ::-1] if expected else pixels[index])).all()
        flipped.append(expected)
    assert 0 < sum(flipped) < COUNT


# --- The failures of FFCV as it is --------------------------------------------------------


def test_an_exception_in_a_thread_reaches_the_caller_with_its_sample(raw):
    batches = iter(loader(raw, pipeline=[dict(type='FailsOn', red=13)], channel_order='rgb'))
    started = time.monotonic()
    seen = []
    with pytest.raises(DatasetError, match=r'sample 13: ArithmeticError: made to fail'):
        for batch in batches:
            seen += [sample.sample_idx for sample in batch['data_samples']]
    assert seen == list(range(12)), 'whole batches before the failure are handed out'
    assert time.monotonic() - started < 5
    assert not threads()


def damaged(source, target, index, checked):
    """A copy of a file with one byte of a sample changed; ``checked``: the CRC is there to tell."""
    with Beton(source) as beton:
        pointer, size = (int(beton.index.rows[index][k]) for k in ('pointer', 'size'))
    data = bytearray(Path(source).read_bytes())
    # After the image's start: the decoder of FFCV would leave the rest of the buffer as it was.
    data[pointer + size // 2 : pointer + size] = bytes(size - size // 2)
    if not checked:
        data = data.replace(b'crc32', b'other')
    target.write_bytes(data)


@pytest.mark.parametrize('checked', [True, False])
def test_damaged_jpeg_bytes_raise(jpegs, tmp_path, checked):
    from shd_vit.data.beton import Index
    from shd_vit.data.manifest import write_manifest

    path = tmp_path / 'damaged.beton'
    damaged(jpegs, path, 9, checked)
    with open(path, 'rb') as file:
        write_manifest(path, Index(file, str(path)).manifest([]))
    with pytest.raises(DatasetError, match='sample 9'):
        list(loader(str(path)))
    with pytest.raises(DatasetError, match='sample 9'):
        list(shuffled(str(path), pipeline=RECIPE))


def test_kept_batches_stay_as_they_were(raw):
    kept = []
    copies = []
    for batch in shuffled(raw):
        kept.append(batch)
        labels = torch.cat([s.gt_label for s in batch['data_samples']])
        copies.append((batch['inputs'].clone(), labels.clone()))
    for batch, (images, labels) in zip(kept, copies, strict=True):
        assert_close(batch['inputs'], images)
        assert_close(torch.cat([s.gt_label for s in batch['data_samples']]), labels)
        for image, sample in zip(batch['inputs'], batch['data_samples'], strict=True):
            assert image[2, 0, 0] == sample.sample_idx


@pytest.mark.parametrize('workers, batch', [(1, 4), (3, 4), (2, 7)])
def test_pixels_depend_on_seed_epoch_and_index_alone(jpegs, workers, batch):
    one = shuffled(jpegs, pipeline=RECIPE)
    other = shuffled(jpegs, pipeline=RECIPE, num_workers=workers, batch_size=batch)
    first, second = contents(one), contents(one)
    assert_close(contents(other), first)
    assert_close(contents(other), second)
    assert any((first[i] != second[i]).any() for i in first), 'epochs differ'
    another = contents(shuffled(jpegs, pipeline=RECIPE, seed=1))
    assert any((first[i] != another[i]).any() for i in first), 'seeds differ'


def test_ranks_share_out_the_samples_and_see_the_same_pixels(jpegs, monkeypatch):
    alone = contents(shuffled(jpegs, pipeline=RECIPE))
    seen = []
    for rank in range(2):
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda rank=rank: (rank, 2))
        part = shuffled(jpegs, pipeline=RECIPE)
        assert len(part) == 3
        own = contents(part)
        assert all((alone[i] == own[i]).all() for i in own)
        seen += own
    assert set(seen) == set(range(COUNT)) and len(seen) == COUNT + 1, 'one to fill up'


def test_an_epoch_can_be_named(jpegs):
    passes = shuffled(jpegs, pipeline=RECIPE)
    third = [contents(passes) for _ in range(3)][2]
    resumed = shuffled(jpegs, pipeline=RECIPE)
    resumed.sampler.set_epoch(2)
    assert_close(contents(resumed), third)


@pytest.mark.parametrize('how', ['break', 'exception', 'drop', 'never started'])
def test_leaving_an_epoch_early_leaks_nothing(jpegs, how):
    one = shuffled(jpegs, pipeline=RECIPE)
    gc.collect()
    files = open_files()
    for _ in range(5):
        if how == 'break':
            for _ in one:
                break
        elif how == 'exception':
            with pytest.raises(ZeroDivisionError):
                for _ in one:
                    1 / 0  # noqa: B018
        else:
            batches = iter(one)
            if how == 'drop':
                next(batches)
            del batches
    gc.collect()
    assert not threads()
    assert open_files() <= files
    assert len(contents(one)) == COUNT


def open_files():
    return len(os.listdir('/proc/self/fd'))


@pytest.mark.slow
def test_torchs_threads_are_left_alone(raw):
    """Importing FFCV sets them to 1, its Loader to the number of its workers."""
    script = f"""
import torch
torch.set_num_threads(2)
from shd_vit.hosts.mmpretrain.ffcv_loader import FFCVLoader
from shd_vit.data.ffcv_library import require_ffcv
list(FFCVLoader({raw!r}, 4, num_workers=3))
assert torch.get_num_threads() == 2
require_ffcv()
assert torch.get_num_threads() == 2
import ffcv.loader
"""
    subprocess.run([sys.executable, '-c', script], check=True, timeout=900)


# --- Errors -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(batch_size=0), 'batch_size=0 of FFCVLoader: expected a whole number >= 1'),
        (dict(num_workers=0), 'num_workers=0'),
        (dict(prefetch=0), 'prefetch=0'),
        (dict(channel_order='hsv'), "channel_order='hsv' of FFCVLoader: expected one of"),
        (
            dict(sampler=dict(type='InfiniteSampler')),
            'sampler=InfiniteSampler of FFCVLoader: expected DefaultSampler',
        ),
    ],
)
def test_wrong_settings_are_refused(raw, options, message):
    with pytest.raises(ConfigError, match=message):
        loader(raw, **options)


def test_images_of_several_sizes_are_refused_by_name(tmp_path):
    sizes = [(20, 30)] * 6 + [(30, 20)]
    write_beton(
        tmp_path / 'mixed.beton',
        [(np.zeros((*size, 3), np.uint8), 0) for size in sizes],
        proportion=0.0,
    )
    with pytest.raises(
        DatasetError, match='sample 6 is 20x30 after the pipeline and sample 0 30x20'
    ):
        list(loader(str(tmp_path / 'mixed.beton')))


def test_a_missing_file_says_how_to_write_it(tmp_path):
    with pytest.raises(DatasetError, match=r'tools/data/write_ffcv\.py'):
        loader(str(tmp_path / 'none.beton'))


# --- In a Runner --------------------------------------------------------------------------


def test_the_runner_builds_it_from_a_dict(raw):
    config = dict(
        type='FFCVLoader',
        beton=raw,
        batch_size=5,
        sampler=dict(type='DefaultSampler', shuffle=True),
        # mmpretrain's own tools/train.py puts these into every loader.
        pin_memory=True,
        persistent_workers=True,
        collate_fn=dict(type='default_collate'),
    )
    built = DistillRunner.build_dataloader(config, seed=3)
    assert isinstance(built, FFCVLoader) and built.sampler.seed == 3
    assert DistillRunner.build_dataloader(dict(config, seed=4), seed=3).sampler.seed == 4


def test_classes_reach_the_evaluator(tmp_path, pixels):
    path = tmp_path / 'named.beton'
    write_beton(path, [(pixels[0], 0)], classes=['shoe', 'hat'])
    assert loader(str(path)).dataset.metainfo == dict(classes=['shoe', 'hat'])
    assert len(loader(str(path)).dataset) == 1
