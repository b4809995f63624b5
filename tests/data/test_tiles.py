"""Parts of JPEGs against Pillow's decoding of the whole."""

import contextlib
import io
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip('ffcv', reason='FFCV is an optional extra')

from shd_vit.data.jpeg import JPEGError, decode
from shd_vit.data.tiles import MAGIC, TRAILER, encode, part


def picture(height, width):
    rng = np.random.default_rng(height * width)
    small = rng.integers(0, 255, (height // 5 + 2, width // 5 + 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def decoded(data, height, width, box, fill=7):
    out = np.full((height, width, 3), fill, np.uint8)
    decode(data, height, width, out, 'rgb', box)
    return out


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 180), st.integers(1, 180), st.sampled_from([40, 90, 100]), st.data())
def test_a_box_decodes_to_the_same_bits_as_in_the_whole(height, width, quality, data):
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    rows, columns = data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
    jpeg = encode(picture(height, width), quality).tobytes()
    whole = pillow(jpeg)
    out = decoded(jpeg, height, width, (top, left, rows, columns))
    box = np.s_[top : top + rows, left : left + columns]
    assert (out[box] == whole[box]).all()


def test_only_the_tiles_around_a_box_are_decoded():
    jpeg = encode(picture(320, 512), 90).tobytes()
    out = decoded(jpeg, 320, 512, (100, 200, 20, 30))
    written = (out != 7).any(axis=2)
    # Tiles are 16 rows of 64 pixels; with a pixel around it the box is (99, 199) to (120, 230).
    assert written[96:128, 192:256].mean() > 0.99
    written[96:128, 192:256] = False
    assert not written.any()
    tiles, *box = part(jpeg, 320, 512, (100, 200, 20, 30))
    assert box == [96, 192, 32, 64]
    assert pillow(tiles.tobytes()).shape == (32, 64, 3)
    assert len(tiles) < len(jpeg) / 10


def test_the_pixels_are_those_of_a_plain_jpeg_and_of_about_its_size():
    import cv2

    pixels = picture(375, 500)
    plain = cv2.imencode('.jpg', pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    tiled = encode(pixels, 90).tobytes()
    assert (pillow(tiled) == pillow(plain)).all()
    assert len(tiled) < 1.1 * len(plain)


def test_jpegs_without_tiles_are_decoded_whole():
    file = io.BytesIO()
    Image.fromarray(picture(50, 70)).save(file, 'JPEG')
    out = decoded(file.getvalue(), 50, 70, (10, 10, 5, 5))
    assert (out == pillow(file.getvalue())).all()


def test_a_part_of_another_size_than_recorded_is_refused():
    jpeg = encode(picture(50, 70), 90).tobytes()
    with pytest.raises(JPEGError, match='JPEG of 70x50 pixels where 70x60 were recorded'):
        decoded(jpeg, 60, 70, (10, 10, 5, 5))


def test_a_damaged_table_harms_nothing():
    """Whatever it says, the memory of others is left alone: an error, or some pixels."""
    jpeg = bytearray(encode(picture(100, 200), 90).tobytes())
    plain = jpeg.rindex(b'\xff\xd9') + 2
    rng = random.Random(0)
    whole = pillow(bytes(jpeg))
    same = 0
    for _ in range(500):
        damaged = bytearray(jpeg)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(plain, len(jpeg) - len(MAGIC))] = rng.randrange(256)
        try:
            out = decoded(bytes(damaged), 100, 200, (0, 0, 100, 200))
        except JPEGError:
            continue
        same += (out == whole).all()
    assert same > 0, 'changed padding, or a byte to itself'
    for size in range(1, TRAILER.size + 40):  # cut short, the magic left
        cut = bytes(jpeg[: plain + size]) + MAGIC
        with contextlib.suppress(JPEGError):
            decoded(cut, 100, 200, (0, 0, 9, 9))
