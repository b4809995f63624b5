"""Writing of .beton files: whole and right, or an error and no file."""

import io
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

pytest.importorskip('ffcv', reason='the files are written with FFCV, an optional extra')

from mmpretrain.registry import TRANSFORMS

from shd_vit.data import writer
from shd_vit.data.beton import Beton, Index, open_beton
from shd_vit.data.encode import UndecodableImage, load_rgb
from shd_vit.data.ffcv_library import require_ffcv
from shd_vit.data.manifest import manifest_path
from shd_vit.data.writer import write_beton
from shd_vit.errors import ConfigError, DatasetError

ROOT = Path(__file__).parents[2]
PAGE = 1 << 21


@pytest.fixture(autouse=True)
def _no_hang():
    def give_up(*_):
        raise TimeoutError('the test hangs')

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(240)
    yield
    signal.alarm(0)


def noise(count, height=32, width=32):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(count)]


def smooth(height, width):
    """A picture that JPEG keeps well."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], -1)
    return image.astype(np.uint8)


def labelled(images):
    return [(image, i % 10) for i, image in enumerate(images)]


def decoded(beton, index):
    data, height, width, is_jpeg = beton.read(index)
    if is_jpeg:
        return np.asarray(Image.open(io.BytesIO(data)))
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)


def files(folder):
    return sorted(os.listdir(folder))


# A process of its own: FFCV changes numba's type of byte arrays (its `mutable`, which is hashed).
STOCK_LOADER = """
import sys
import numpy as np
from ffcv import Loader
from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
from ffcv.loader import OrderOption
from ffcv.transforms import ToTensor

number = [IntDecoder(), ToTensor()]
loader = Loader(
    sys.argv[1], batch_size=5, num_workers=1, order=OrderOption.SEQUENTIAL, os_cache=True,
    pipelines=dict(image=[SimpleRGBImageDecoder()], label=number, crc32=number),
)
found = [tuple(np.array(part) for part in batch) for batch in loader]
np.savez(sys.argv[2], *(np.concatenate(parts) for parts in zip(*found, strict=True)))
"""


@pytest.mark.slow
def test_ffcvs_own_loader_reads_the_file(tmp_path):
    path, images = tmp_path / 'a.beton', [smooth(40, 56) // 2 + 6 * i for i in range(20)]
    write_beton(path, labelled(images), proportion=0.5, page_size=PAGE)
    command = [sys.executable, '-c', STOCK_LOADER, path, tmp_path / 'read.npz']
    subprocess.run(command, check=True, timeout=900)
    pixels, labels, crcs = np.load(tmp_path / 'read.npz').values()
    assert labels[:, 0].tolist() == [i % 10 for i in range(20)]
    with Beton(path) as beton:
        assert crcs[:, 0].tolist() == [zlib.crc32(beton.read(i)[0]) for i in range(20)]
        for i, image in enumerate(images):
            # Raw ones are exact; FFCV decodes JPEGs with a faster, coarser transform than Pillow.
            tolerance = 4 if beton.read(i)[3] else 0
            assert np.abs(decoded(beton, i).astype(int) - pixels[i]).max() <= tolerance
            if not tolerance:
                assert (pixels[i] == image).all()


def test_any_number_of_threads_writes_the_same_bytes(tmp_path):
    samples = labelled(noise(300, 64, 90))
    manifests = [
        write_beton(tmp_path / f'{n}', samples, proportion=0.4, page_size=PAGE, workers=n)
        for n in (1, 5)
    ]
    assert manifests[0] == manifests[1]
    assert (tmp_path / '1').read_bytes() == (tmp_path / '5').read_bytes()
    with Beton(tmp_path / '1') as beton:
        assert beton.index.pages > 1
        assert 90 < sum(beton.read(i)[3] for i in range(300)) < 150


@pytest.mark.parametrize(
    ('size', 'limit', 'expected'),
    [
        ((300, 400), 500, (300, 400)),
        ((300, 400), 200, (150, 200)),
        ((400, 300), 200, (200, 150)),
        ((3, 1000), 100, (1, 100)),
        ((600, 700), None, (600, 700)),
    ],
)
def test_only_longer_sides_are_scaled(size, limit, expected, tmp_path):
    image = smooth(*size)
    write_beton(tmp_path / 'a', [(image, 0)], max_resolution=limit, proportion=0)
    with Beton(tmp_path / 'a') as beton:
        found = decoded(beton, 0)
    assert found.shape[:2] == expected
    reference = np.asarray(Image.fromarray(image).resize(expected[::-1], Image.BOX))
    assert np.abs(found.astype(int) - reference).max() <= 2


def save(path, image, mode, **options):
    image = Image.fromarray(image).convert(mode)
    image.save(path, **options)
    return path


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize(
    ('name', 'mode', 'options'),
    [
        ('rgb.jpg', 'RGB', {}),
        ('progressive.jpg', 'RGB', dict(progressive=True)),
        ('grey.jpg', 'L', {}),
        ('grey.png', 'L', {}),
        ('palette.png', 'P', {}),
        ('transparent.png', 'RGBA', {}),
        ('two.png', '1', {}),
        *((f'turned{i}.jpg', 'RGB', dict(exif=exif(i))) for i in range(1, 9)),
    ],
)
def test_files_are_read_as_mmpretrain_reads_them(name, mode, options, tmp_path):
    path = save(tmp_path / name, smooth(40, 60), mode, **options)
    reader = TRANSFORMS.build(dict(type='LoadImageFromFile'))
    expected = reader(dict(img_path=str(path)))['img'][..., ::-1]  # BGR
    found = load_rgb(path)
    assert found.shape == expected.shape
    # Two builds of libjpeg; PNG is exact.
    assert np.abs(found.astype(int) - expected).max() <= (3 if name.endswith('jpg') else 0)


ALPHA = np.tile(np.arange(60, dtype=np.uint8) * 4, (40, 1))


def odd_files(folder):
    """Files of every kind that mmpretrain reads, and of some under another's name."""
    colour = Image.fromarray(smooth(40, 60))
    grey, palette, deep = colour.convert('L'), colour.convert('P'), smooth(40, 60)[..., 0] * 257.0
    rgba, cmyk = colour.copy(), colour.convert('CMYK')
    rgba.putalpha(Image.fromarray(ALPHA))
    grey_alpha = Image.merge('LA', (grey, Image.fromarray(ALPHA)))
    opaque = Image.merge('LA', (grey, Image.new('L', (60, 40), 255)))
    opaque_rgba = colour.convert('RGBA')
    deep = Image.fromarray(deep.astype(np.uint16))
    pictures = {
        'la.png': grey_alpha, 'la.tif': grey_alpha, 'opaque.png': opaque, 'rgba.png': rgba,
        'rgba.tif': rgba, 'opaque.tif': opaque_rgba, 'p.png': palette, 'p.bmp': palette,
        'one.png': colour.convert('1'), 'one.tif': colour.convert('1'), 'grey.pgm': grey,
        'deep.png': deep, 'deep.tif': deep, 'deep.pgm': deep, 'lab.tif': colour.convert('LAB'),
        'float.tif': grey.convert('F'), 'cmyk.tif': cmyk, 'cmyk.jpg': cmyk, 'rgb.ppm': colour,
        'ycc.tif': colour.convert('YCbCr'),
    }  # fmt: skip
    for name, picture in pictures.items():
        picture.save(folder / name)
    palette.save(folder / 'keyed.png', transparency=3)
    palette.save(folder / 'shaded.png', transparency=bytes(range(256)))
    grey.save(folder / 'keyed_grey.png', transparency=100)
    colour.save(folder / 'keyed_rgb.png', transparency=(0, 0, 0))
    colour.save(folder / 'gif_inside.png', format='GIF')
    for turn in (3, 6):
        for picture, name in ((colour, 'rgb'), (grey_alpha, 'la'), (palette, 'p')):
            picture.save(folder / f'{name}{turn}.png', exif=exif(turn))
        colour.save(folder / f'turned{turn}.tif', exif=exif(turn))
    return sorted(os.listdir(folder))


@pytest.mark.filterwarnings('ignore:Palette images with Transparency')
@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_odd_files_are_read_as_mmpretrain_reads_them_or_refused(backend, tmp_path):
    reader = TRANSFORMS.build(dict(type='LoadImageFromFile', imdecode_backend=backend))
    refused = set()
    for name in odd_files(tmp_path):
        path = tmp_path / name
        try:
            found = load_rgb(path, backend)
        except UndecodableImage as error:
            assert '\n' not in str(error)
            refused.add(name)
            continue
        expected = reader(dict(img_path=str(path)))['img'][..., ::-1]
        # Two builds of libjpeg and two ways from CMYK and YCbCr.
        tolerance = 3 if name.startswith(('cmyk', 'ycc')) else 0
        assert np.abs(found.astype(int) - expected).max() <= tolerance, name
    deep = {'deep.png', 'deep.tif', 'deep.pgm', 'float.tif'}
    assert refused == deep | ({'rgba.tif', 'lab.tif'} if backend == 'cv2' else set())


def test_grey_arrays_become_three_channels(tmp_path):
    grey = noise(1)[0][..., 0]
    write_beton(tmp_path / 'a', [(grey, 0)], proportion=0)
    with Beton(tmp_path / 'a') as beton:
        assert (decoded(beton, 0) == grey[..., None]).all()


def damaged(folder, kind):
    path = folder / f'bad.{kind}'
    if kind == 'png':
        save(path, noise(1, 90, 120)[0], 'RGB')
    elif kind in ('baseline', 'progressive'):
        path = folder / f'bad_{kind}.jpg'
        save(path, noise(1, 90, 120)[0], 'RGB', progressive=kind == 'progressive')
    else:
        path.write_bytes(dict(text=b'<html>404</html>', empty=b'')[kind])
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    return path


@pytest.mark.parametrize('kind', ['baseline', 'progressive', 'png', 'text', 'empty'])
@pytest.mark.parametrize('lenient', [False, True])
def test_an_image_that_cannot_be_decoded_is_an_error_or_is_listed(
    kind, lenient, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(ImageFile, 'LOAD_TRUNCATED_IMAGES', lenient)
    bad, out = damaged(tmp_path, kind), tmp_path / 'out'
    samples = labelled(noise(12))
    samples[4] = bad, 4
    out.mkdir()
    with pytest.raises(DatasetError, match=rf'sample 4 \(.*{bad.name}\) cannot be decoded'):
        write_beton(out / 'a.beton', samples)
    assert files(out) == []
    manifest = write_beton(out / 'a.beton', samples, proportion=0, skip_bad=True)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is lenient
    assert manifest['entries'] == 11
    assert len(manifest['skipped']) == 1
    assert bad.name in manifest['skipped'][0]
    assert bad.name in capsys.readouterr().err
    kept = samples[:4] + samples[5:]
    with Beton(out / 'a.beton') as beton:
        assert beton.labels.tolist() == [label for _, label in kept]
        assert all((decoded(beton, i) == image).all() for i, (image, _) in enumerate(kept))


def test_skip_bad_does_not_skip_missing_files_or_everything(tmp_path):
    with pytest.raises(DatasetError, match=r'sample 1 \(.*gone\.jpg\): FileNotFoundError'):
        samples = [(noise(1)[0], 0), (tmp_path / 'gone.jpg', 0)]
        write_beton(tmp_path / 'a', samples, skip_bad=True)
    with pytest.raises(DatasetError, match='none of 1 images'):
        write_beton(tmp_path / 'a', [(damaged(tmp_path, 'text'), 0)], skip_bad=True)
    assert files(tmp_path) == ['bad.text']


class Raising:
    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        if index == 30:
            raise self.error
        return np.zeros((8, 8, 3), np.uint8), 0


@pytest.mark.parametrize('error', [ValueError('broken'), KeyError('img'), OSError(5, 'I/O error')])
def test_a_data_set_that_raises_is_reported_at_once(error, tmp_path):
    started = time.monotonic()
    with pytest.raises(DatasetError, match=f'sample 30: {type(error).__name__}'):
        write_beton(tmp_path / 'a', Raising(error))
    assert time.monotonic() - started < 30
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ('sample', 'problem'),
    [
        ((np.zeros((8, 8, 3), np.uint8), 3), 'label 3 of 3 classes'),
        ((np.zeros((8, 8, 3), np.uint8), -1), 'label -1'),
        ((np.zeros((8, 8, 4), np.uint8), 0), r'got uint8 \(8, 8, 4\)'),
        ((np.zeros((8, 8, 3), np.float32), 0), 'got float32'),
        ((np.zeros((900, 900, 3), np.uint8), 0), 'sample 1.*2,430,000 bytes.*page_size'),
    ],
)
def test_samples_that_cannot_be_stored_are_named(sample, problem, tmp_path):
    samples = [(np.zeros((8, 8, 3), np.uint8), 0), sample]
    options = dict(max_resolution=None, proportion=0, page_size=PAGE)
    with pytest.raises(DatasetError, match=problem):
        write_beton(tmp_path / 'a', samples, classes=['a', 'b', 'c'], **options)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    'option',
    [
        dict(quality=0),
        dict(quality=101),
        dict(proportion=1.1),
        dict(proportion=-0.1),
        dict(max_resolution=0),
        dict(workers=0),
        dict(page_size=3 << 20),
        dict(seed=-1),
        dict(backend='turbojpeg'),
    ],
)
def test_options_that_cannot_work_are_refused(option, tmp_path):
    with pytest.raises(ConfigError, match=next(iter(option))):
        write_beton(tmp_path / 'a', labelled(noise(2)), **option)
    with pytest.raises(ConfigError, match='samples'):
        write_beton(tmp_path / 'a', [])
    assert files(tmp_path) == []


def test_a_file_is_replaced_only_when_that_is_wanted_and_the_new_one_is_whole(tmp_path):
    path = tmp_path / 'a.beton'
    write_beton(path, labelled(noise(3)))
    before = path.read_bytes()
    with pytest.raises(DatasetError, match='exists already'):
        write_beton(path, labelled(noise(4)))
    with pytest.raises(DatasetError, match='sample 30'):
        write_beton(path, Raising(ValueError()), overwrite=True)
    assert path.read_bytes() == before
    assert len(Beton(path)) == 3
    write_beton(path, labelled(noise(4)), overwrite=True)
    assert len(Beton(path)) == 4
    assert files(tmp_path) == ['a.beton', 'a.beton.json']


@pytest.mark.parametrize('fails', ['replace', 'write_manifest'])
def test_a_crash_between_file_and_manifest_leaves_no_pair_that_differs(
    fails, tmp_path, monkeypatch
):
    path = tmp_path / 'a.beton'
    write_beton(path, labelled(noise(3)))

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(writer if fails == 'write_manifest' else os, fails, crash)
    with pytest.raises(KeyboardInterrupt):
        write_beton(path, labelled(noise(4)), overwrite=True)
    with pytest.raises(DatasetError, match='no manifest'):
        Beton(path)
    with open_beton(str(path)) as file:  # the old or the new one, whole
        assert len(Index(file, 'a').labels) == (3 if fails == 'replace' else 4)


def script(body, *arguments):
    """Start a process that writes 2,000 images of 40 kB; `event(index)` runs as each is read."""
    code = textwrap.dedent(
        """
        import os, resource, signal, sys, time
        import numpy as np
        from shd_vit.data.writer import write_beton
        from shd_vit.hosts.mmpretrain.cli import run_tool

        # A shell that starts a process in the background has it ignore Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)

        class Samples:
            def __len__(self):
                return 2000
            def __getitem__(self, index):
                event(index)
                return np.full((120, 120, 3), index % 256, np.uint8), index % 10
        def event(index):
            pass
        """
    ) + textwrap.dedent(body)
    code += (
        '\nrun_tool(lambda: write_beton(sys.argv[1], Samples(), proportion=0, page_size=1 << 21,'
        ' overwrite=True))'
    )
    return subprocess.Popen(
        [sys.executable, '-c', code, *map(str, arguments)],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process):
    _, error = process.communicate(timeout=900)
    return process.returncode, error


AT_500 = 'def event(index):\n    if index == 500:\n        '


@pytest.mark.slow
def test_a_killed_writer_leaves_what_was_there_and_the_next_one_cleans_up(tmp_path):
    path = tmp_path / 'a.beton'
    assert finish(script(AT_500 + 'os.kill(os.getpid(), signal.SIGKILL)', path))[0] == -9
    assert files(tmp_path) == ['.a.beton.part']
    assert (tmp_path / '.a.beton.part').stat().st_size > PAGE
    with (
        pytest.raises(DatasetError, match='not written to its end'),
        open_beton(str(tmp_path / '.a.beton.part')) as file,
    ):
        Index(file, 'part')
    write_beton(path, labelled(noise(3)))
    assert files(tmp_path) == ['a.beton', 'a.beton.json']
    assert finish(script(AT_500 + 'os.kill(os.getpid(), signal.SIGKILL)', path))[0] == -9
    assert len(Beton(path)) == 3


@pytest.mark.slow
def test_control_c_leaves_nothing(tmp_path):
    code, error = finish(script(AT_500 + 'os.kill(os.getpid(), signal.SIGINT)', tmp_path / 'a'))
    assert code != 0
    assert 'KeyboardInterrupt' in error
    assert files(tmp_path) == []


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path):
    """A limit of this process is such a disk: it has room for two pages of four."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * PAGE + 9_000, hard))
    try:
        with pytest.raises(DatasetError, match=r"a\.part' cannot be written: File too large$"):
            write_beton(tmp_path / 'a', labelled(noise(60, 200, 200)), proportion=0, page_size=PAGE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(tmp_path) == []


@pytest.mark.slow
def test_two_writers_of_one_file_do_not_mix(tmp_path):
    path = tmp_path / 'a.beton'
    first = script(AT_500 + "print('here', flush=True); time.sleep(20)", path)
    assert first.stdout.readline() == 'here\n'
    with pytest.raises(DatasetError, match='written by another process'):
        write_beton(path, labelled(noise(3)))
    first.send_signal(signal.SIGKILL)
    finish(first)
    write_beton(path, labelled(noise(3)))
    assert len(Beton(path)) == 3


@pytest.mark.slow
def test_what_stock_ffcv_leaves_when_killed_is_refused(tmp_path):
    path = tmp_path / 'stock.beton'
    code = """
import os, signal, sys
import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.writer import DatasetWriter

class Samples:
    def __len__(self):
        return 300
    def __getitem__(self, index):
        if index == 200:
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        return np.full((120, 120, 3), index, np.uint8), index % 10

fields = dict(image=RGBImageField(), label=IntField())
DatasetWriter(sys.argv[1], fields, page_size=1 << 21, num_workers=1).from_indexed_dataset(
    Samples(), chunksize=10)
"""
    stock = subprocess.Popen(
        [sys.executable, '-c', code, str(path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert stock.wait(120) == -9
    assert path.stat().st_size > PAGE
    with pytest.raises(DatasetError, match='no manifest'):
        Beton(path)
    with pytest.raises(DatasetError, match='not written to its end'), open_beton(str(path)) as file:
        Index(file, str(path))


def test_a_missing_ffcv_is_named_with_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, 'ffcv', None)
    with pytest.raises(DatasetError, match=r'shd_vit\[ffcv\].*libturbojpeg0-dev'):
        require_ffcv()


def test_the_manifest_is_beside_the_file():
    assert manifest_path('x/train.beton') == 'x/train.beton.json'
