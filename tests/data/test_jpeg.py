"""JPEG decoding against Pillow's, and against bytes that are no JPEG of that size."""

import io
import sys
import threading

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('ffcv', reason='FFCV is an optional extra')

from shd_vit.data.ffcv_library import ffcv_library
from shd_vit.data.jpeg import JPEGError, decode
from shd_vit.errors import DatasetError


@pytest.fixture(scope='module')
def picture():
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    return small.resize((161, 123), Image.Resampling.BICUBIC)


def encoded(picture, **options):
    file = io.BytesIO()
    picture.save(file, 'JPEG', **options)
    return file.getvalue()


@pytest.mark.parametrize(
    'options',
    [
        dict(quality=90),
        dict(quality=30, subsampling='4:4:4'),
        dict(quality=95, progressive=True),
        dict(restart_marker_blocks=2),
    ],
)
def test_pixels_are_pillows(picture, options):
    data = encoded(picture, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    out = np.empty((123, 161, 3), np.uint8)
    decode(data, 123, 161, out, 'rgb')
    assert (out == expected).all()
    decode(data, 123, 161, out, 'bgr')
    assert (out == expected[..., ::-1]).all()


def test_threads_decode_side_by_side(picture):
    data = encoded(picture)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    outs = [np.zeros((123, 161, 3), np.uint8) for _ in range(8)]

    def work(out):
        for _ in range(20):
            decode(data, 123, 161, out, 'rgb')

    workers = [threading.Thread(target=work, args=(out,)) for out in outs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all((out == expected).all() for out in outs)


def test_bytes_that_are_not_that_picture_are_refused(picture):
    data = encoded(picture)
    out = np.empty((123, 161, 3), np.uint8)
    for broken in (b'', b'no JPEG', data[:200], data[: len(data) // 2], data[:-2]):
        with pytest.raises(JPEGError):
            decode(broken, 123, 161, out, 'rgb')
    taller = np.empty((124, 161, 3), np.uint8)
    with pytest.raises(JPEGError, match='JPEG of 161x123 pixels where 161x124 were recorded'):
        decode(data, 124, 161, taller, 'rgb')
    decode(data, 123, 161, out, 'rgb')  # a failure leaves nothing behind


@pytest.mark.parametrize(
    'out',
    [
        np.empty((123, 160, 3), np.uint8),
        np.empty((123, 161, 3), np.float32),
        np.empty((123, 161, 6), np.uint8)[..., ::2],
    ],
)
def test_memory_that_does_not_fit_is_refused(picture, out):
    with pytest.raises(ValueError, match='out must be contiguous uint8'):
        decode(encoded(picture), 123, 161, out, 'rgb')


def test_a_missing_library_is_named_with_how_to_install_it(monkeypatch):
    monkeypatch.delitem(sys.modules, 'ffcv', raising=False)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(DatasetError, match=r'shd_vit\[ffcv\].*libturbojpeg0-dev'):
        ffcv_library()
