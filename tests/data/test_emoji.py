"""Emoji of a package that is made here: what is read, on what, and on which side of the split."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image
from tooling import load_tool, run_tool

from shd_vit.data import emoji as module
from shd_vit.data.emoji import CATEGORIES, read_emoji
from shd_vit.errors import DatasetError
from shd_vit.lab.diffusion.data import read_data

BLUE = (0, 0, 255)


def entry(unified, category, order, tones=(), drawn=True):
    variants = {
        tone: dict(image=f'{unified}-{tone}.png'.lower(), has_img_google=True) for tone in tones
    }
    return dict(
        unified=unified, image=f'{unified}.png'.lower(), category=category, sort_order=order,
        has_img_google=drawn, **(dict(skin_variations=variants) if tones else {}),
    )  # fmt: skip


def write(path, entries, left_out=()):
    """A package whose pictures are a red square on nothing, 16 of 64 wide."""
    pixels = np.zeros((64, 64, 4), dtype=np.uint8)
    pixels[:16, :16] = 255, 0, 0, 255
    pixels[:16, 16:32] = 0, 255, 0, 128  # half seen through
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, 'png')
    files = {'package/emoji.json': json.dumps(entries).encode(), 'package/README.md': b'no'}
    for one in entries:
        for variant in (one, *one.get('skin_variations', {}).values()):
            if variant['has_img_google'] and variant['image'] not in left_out:
                files[f'package/img/google/64/{variant["image"]}'] = png.getvalue()
    with tarfile.open(path, 'w:gz') as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def many():
    """One in ten is held out by a hash, so of 60 some are and some are not."""
    numbers = [f'{0x1F600 + n:X}' for n in range(60)]
    entries = [
        entry(x, CATEGORIES[n % 9], 100 - n, ('1F3FB', '1F3FC')) for n, x in enumerate(numbers)
    ]
    entries += [entry(f'{x}-200D-2640-FE0F', CATEGORIES[0], 200) for x in numbers]
    entries.append(entry('1F1E6-1F1E8', 'Flags', 300))
    return [*entries, entry('1F3FB', 'Component', 1), entry('1F9FF', 'Objects', 2, drawn=False)]


def test_pictures_are_flat_on_the_background_and_halved(tmp_path):
    archive = write(tmp_path / 'p', [entry('1F600', 'Objects', 1)])
    found = read_emoji(archive, 32, BLUE)
    assert found.images.shape == (1, 32, 32, 3) and found.labels.tolist() == [6]
    assert found.images[0, 0, 0].tolist() == [255, 0, 0]
    assert found.images[0, 20, 20].tolist() == list(BLUE)
    # Green over blue, half and half, as alpha compositing is defined.
    assert np.abs(found.images[0, 0, 8 + 4].astype(int) - [0, 128, 127]).max() <= 1


def test_variants_are_on_one_side(tmp_path):
    archive = write(tmp_path / 'p', many())
    found = read_emoji(archive, 8, BLUE)
    assert len(found.labels) == 60 * 3 + 60 + 1, 'components and what is not drawn are left out'
    # In the order that entries are sorted by: the last of the first sixty comes first.
    first = found.is_test[: 60 * 3].reshape(60, 3)
    assert (first == first[:, :1]).all(), 'skin tones'
    assert (first[::-1, 0] == found.is_test[60 * 3 : 60 * 4]).all(), 'men and women'
    assert 0 < found.is_test.sum() < len(found.labels) / 3
    assert found.labels[0] == 59 % 9 and set(found.labels.tolist()) == set(range(9))


def test_what_is_no_package(tmp_path):
    path = tmp_path / 'p'
    path.write_bytes(b'no')
    with pytest.raises(DatasetError, match='is no npm emoji-datasource-google'):
        read_emoji(path, 8, BLUE)
    write(path, [entry('1F600', 'Objects', 1)], left_out=['1f600.png'])
    with pytest.raises(DatasetError, match=r'1f600\.png'):
        read_emoji(path, 8, BLUE)


def test_the_tool_writes_what_trainings_read(tmp_path, monkeypatch, capsys):
    archive = write(tmp_path / 'p', many())
    tool, out = load_tool('data/prepare_emoji'), tmp_path / 'emoji'
    monkeypatch.setattr(type(tool.EMOJI), 'fetch', lambda self, cache: archive)
    run_tool(tool, monkeypatch, out, '--size', 16)
    whole = read_emoji(archive, 16, (255, 255, 255))
    for name, own in (('train', ~whole.is_test), ('test', whole.is_test)):
        data = read_data(dict(type='pictures', path=str(out / f'{name}.npz')))
        assert data.classes == CATEGORIES
        assert (data.samples.permute(0, 2, 3, 1).numpy() == whole.images[own]).all()
        assert data.labels.tolist() == whole.labels[own].tolist()
    assert 'Smileys & Emotion' in capsys.readouterr().out
    with Image.open(out / 'preview.png') as picture:
        assert picture.width > picture.height
    assert module.EMOJI.version == '16.0.0'
