"""Reading of .beton files. Every way to damage one ends in an error that names it."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip('ffcv', reason='the files are written with FFCV, an optional extra')

import ffcv.types
from ffcv.fields import FloatField, IntField, RGBImageField

from shd_vit.data import beton as layout
from shd_vit.data.beton import Beton, Index, open_beton
from shd_vit.data.manifest import manifest_path, read_manifest
from shd_vit.data.writer import write_beton
from shd_vit.errors import DatasetError

ROOT = Path(__file__).parents[2]
COUNT, PAGE = 60, 1 << 21
CLASSES = ['cat', 'dog', 'eel']


@pytest.fixture(autouse=True)
def _no_hang():
    def give_up(*_):
        raise TimeoutError('the test hangs')

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(120)
    yield
    signal.alarm(0)


def pictures():
    rng = np.random.default_rng(0)
    sizes = rng.integers(100, 300, (COUNT, 2))
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp('beton') / 'a.beton'
    samples = [(image, i % 3) for i, image in enumerate(pictures())]
    write_beton(path, samples, classes=CLASSES, proportion=0.5, page_size=PAGE)
    return path


@pytest.fixture
def path(written, tmp_path):
    """A copy to damage."""
    for name in (written, manifest_path(written)):
        shutil.copy(name, tmp_path)
    return tmp_path / 'a.beton'


def flip(path, offset):
    with open(path, 'r+b') as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def index_of(path):
    with open_beton(str(path)) as file:
        return Index(file, str(path))


def test_the_layout_is_that_of_the_installed_ffcv():
    def offsets(dtype):
        return [dtype.fields[name][1] for name in dtype.names], dtype.itemsize

    assert layout.VERSION == ffcv.types.CURRENT_VERSION
    assert offsets(layout.HEADER) == offsets(ffcv.types.HeaderType)
    assert offsets(layout.FIELD) == offsets(ffcv.types.FieldDescType)
    assert offsets(layout.ALLOCATION) == offsets(ffcv.types.ALLOC_TABLE_TYPE)
    for kind, dtype in layout.FIELD_TYPES.items():
        theirs = ffcv.types.TYPE_ID_HANDLER[kind]
        assert theirs in (FloatField, IntField, RGBImageField)
        assert theirs().metadata_type.itemsize == dtype.itemsize
    image = RGBImageField().metadata_type
    assert offsets(layout.IMAGE) == offsets(image)
    assert image.names == ('mode', 'width', 'height', 'data_ptr')


def test_samples_are_what_was_written(written):
    kinds = []
    with Beton(written) as beton:
        assert len(beton) == COUNT
        assert beton.classes == CLASSES
        assert beton.labels.dtype == np.int64
        assert beton.labels.tolist() == [i % 3 for i in range(COUNT)]
        for i, image in enumerate(pictures()):
            data, height, width, is_jpeg = beton.read(i)
            kinds.append(is_jpeg)
            assert (height, width, 3) == image.shape
            if is_jpeg:
                decoded = Image.open(io.BytesIO(data))
                assert (decoded.format, decoded.size) == ('JPEG', (width, height))
                assert abs(np.asarray(decoded).mean() - image.mean()) < 3
            else:
                assert data == image.tobytes()
    assert 10 < sum(kinds) < COUNT - 10


@pytest.mark.slow
def test_reading_needs_neither_ffcv_nor_numba(written):
    code = """
import sys
sys.modules.update(ffcv=None, numba=None)
import shd_vit
from shd_vit.data.beton import Beton
print(len(Beton(sys.argv[1]).read(3)[0]))
"""
    output = subprocess.check_output([sys.executable, '-c', code, written], cwd=ROOT, timeout=900)
    with Beton(written) as beton:
        assert int(output) == len(beton.read(3)[0])


def test_threads_read_the_same(written):
    with Beton(written) as beton:
        expected = [zlib.crc32(beton.read(i)[0]) for i in range(COUNT)]
        found = {}

        def read(seed):
            order = np.random.default_rng(seed).permutation(COUNT)
            found[seed] = {int(i): zlib.crc32(beton.read(i)[0]) for i in order}

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert len(found) == 8
    assert all([crcs[i] for i in range(COUNT)] == expected for crcs in found.values())


@pytest.mark.parametrize('part', ['header', 'fields', 'metadata', 'table'])
def test_no_byte_outside_the_pages_may_change(part, path):
    header, fields = layout.HEADER.itemsize, 3 * layout.FIELD.itemsize
    size = os.path.getsize(path)
    begin, end = dict(
        header=(0, header),
        fields=(header, header + fields),
        metadata=(header + fields, header + fields + 32 * COUNT),
        table=(size - 24 * COUNT, size),
    )[part]
    for offset in np.linspace(begin, end - 1, 100).astype(int):
        flip(path, offset)
        with pytest.raises(DatasetError, match=r'a\.beton') as caught:
            Beton(path)
        assert '\n' not in str(caught.value)
        flip(path, offset)
    Beton(path).close()


@pytest.mark.parametrize('keep', [0, 10, 5000, PAGE, 2 * PAGE + 100, -24, -1])
def test_a_truncated_file_is_refused_with_and_without_its_manifest(keep, path):
    os.truncate(path, keep if keep >= 0 else os.path.getsize(path) + keep)
    with pytest.raises(DatasetError, match=r'a\.beton'):
        Beton(path)
    with pytest.raises(DatasetError, match=r'a\.beton.*write it again'):
        index_of(path)


def test_a_file_that_grew_is_refused(path):
    with open(path, 'ab') as file:
        file.write(bytes(24))
    with pytest.raises(DatasetError, match='file_size'):
        Beton(path)


@pytest.mark.parametrize(
    ('field', 'value', 'problem'),
    [
        ('sample', 7, 'says nowhere'),
        ('pointer', 10, 'wrong place'),
        ('pointer', 1 << 60, 'overlap or leave'),
        ('pointer', (1 << 64) - 1, 'overlap or leave'),
        ('size', PAGE, 'overlap or leave'),
        ('size', 0, 'overlap or leave'),
    ],
)
def test_a_table_that_contradicts_itself_is_refused_without_a_manifest(field, value, problem, path):
    with open(path, 'r+b') as file:
        file.seek(-24 * COUNT + 24 * 3 + layout.ALLOCATION.fields[field][1], os.SEEK_END)
        file.write(int(value).to_bytes(8, 'little'))
    with pytest.raises(DatasetError, match=problem):
        index_of(path)


def whole(**changes):
    """A manifest that has all it must have."""
    manifest = dict(format=1, classes=None, file_size=1, index_digest='', page_digests=[])
    return json.dumps({**manifest, **changes})


@pytest.mark.parametrize(
    ('content', 'problem'),
    [
        (None, r'no manifest.*verify_ffcv\.py .*a\.beton --adopt'),
        ('', 'cannot be read'),
        ('{"format": 1', 'cannot be read'),
        ('[]', 'not a manifest of format 1'),
        ('{"format": 2}', 'not a manifest of format 1'),
        ('{"format": 1}', 'lacks'),
        ('[' * 100_000, 'cannot be read'),
        (whole(classes=5), 'classes is'),
        (whole(classes=['a', 1]), 'classes is'),
        (whole(source=['x']), 'source is'),
        (whole(source=dict(folders=5)), 'source is'),
        (whole(options=5), 'options is'),
        (whole(page_digests=None), 'page_digests is'),
    ],
)
def test_a_missing_or_damaged_manifest_is_named(content, problem, path):
    os.remove(manifest_path(path))
    if content is not None:
        with open(manifest_path(path), 'w') as file:
            file.write(content)
    with pytest.raises(DatasetError, match=problem) as caught:
        Beton(path)
    assert 'a.beton' in str(caught.value)


def test_a_manifest_of_another_file_is_refused(path, tmp_path):
    samples = [(image, (i + 1) % 3) for i, image in enumerate(pictures())]  # the labels differ
    write_beton(tmp_path / 'b.beton', samples, proportion=0.5, page_size=PAGE)
    assert read_manifest(tmp_path / 'b.beton')['file_size'] == os.path.getsize(path)
    shutil.copy(manifest_path(tmp_path / 'b.beton'), manifest_path(path))
    with pytest.raises(DatasetError, match='of another file: index_digest'):
        Beton(path)


def test_a_manifest_of_another_size_is_refused(path):
    manifest = read_manifest(path)
    manifest['file_size'] += 1
    with open(manifest_path(path), 'w') as file:
        json.dump(manifest, file)
    with pytest.raises(DatasetError, match='file_size'):
        Beton(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"no\.beton' cannot be opened"):
        Beton(tmp_path / 'no.beton')


@pytest.mark.parametrize('sample', [0, 17, COUNT - 1])
def test_a_flipped_byte_in_a_page_is_found_by_reading_that_sample_alone(sample, path):
    row = index_of(path).rows[sample]
    flip(path, int(row['pointer']) + int(row['size']) // 2)
    with Beton(path) as beton:
        for i in set(range(COUNT)) - {sample}:
            beton.read(i)
        with pytest.raises(DatasetError, match=rf'a\.beton.*sample {sample} is damaged'):
            beton.read(sample)


def test_a_file_that_shrinks_while_open_gives_an_error(path):
    with Beton(path) as beton:
        os.truncate(path, 2 * PAGE)
        with pytest.raises(DatasetError, match=f'sample {COUNT - 1} is damaged'):
            beton.read(COUNT - 1)


def test_a_closed_file_is_not_read(written):
    beton = Beton(written)
    beton.close()
    with pytest.raises(DatasetError, match='sample 0 cannot be read'):
        beton.read(0)


# Where lengths, counts, offsets, types and names are: all that is read before a page is.
FIELDS_END = layout.HEADER.itemsize + 3 * layout.FIELD.itemsize
SPOTS = st.one_of(
    st.integers(0, layout.HEADER.itemsize - 1),
    st.builds(
        lambda field, at: layout.HEADER.itemsize + field * layout.FIELD.itemsize + at,
        st.integers(0, 2), st.integers(0, 20),
    ),
    st.integers(FIELDS_END, FIELDS_END + 32 * COUNT - 8),
    st.integers(-24 * COUNT, -8),
)  # fmt: skip
NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 255, 1 << 16, PAGE, 1 << 31, 1 << 40, 1 << 62, (1 << 64) - 1]),
    st.integers(0, (1 << 64) - 1),
)


@settings(
    max_examples=100, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(changes=st.lists(st.tuples(SPOTS, st.sampled_from([1, 2, 8]), NUMBERS), min_size=1))
def test_no_header_does_more_than_be_refused(changes, path):
    """Whatever it says, an index is consistent or refused; no length in it is believed."""
    length, before = os.path.getsize(path), []
    with open(path, 'r+b') as file:
        for at, size, number in changes:
            file.seek(at % length)
            before.append((at % length, file.read(size)))
            file.seek(at % length)
            file.write((number % (1 << 8 * size)).to_bytes(size, 'little'))
    try:
        manifest = index_of(path).manifest([])
        (path.parent / 'a.beton.json').write_text(json.dumps(manifest))
        with Beton(path) as beton:
            data, height, width, is_jpeg = beton.read(len(beton) - 1)
            assert is_jpeg or len(data) == 3 * height * width
    except DatasetError as error:
        assert '\n' not in str(error)
    finally:
        with open(path, 'r+b') as file:
            for at, content in reversed(before):
                file.seek(at)
                file.write(content)
        os.truncate(path, length)


@pytest.mark.skipif(
    Path('/proc/sys/vm/overcommit_memory').read_text().strip() == '1',
    reason='this machine promises any amount of memory',
)
def test_a_file_with_holes_that_claims_a_terabyte_is_refused(tmp_path):
    path = tmp_path / 'holes.beton'
    header = np.zeros(1, layout.HEADER)
    samples = 1 << 34
    fields = np.zeros(3, layout.FIELD)
    fields['name'], fields['type'] = [b'image', b'label', b'crc32'], [2, 1, 1]
    table = 32 * samples + 2 * PAGE
    header[0] = layout.VERSION, 3, PAGE, samples, table
    path.write_bytes(header.tobytes() + fields.tobytes())
    os.truncate(path, table + 24 * samples)
    with pytest.raises(DatasetError, match='is cut short'):
        index_of(path)


@pytest.mark.parametrize('name', [b'lab\xffl', b'image', b''])
def test_names_of_fields_that_are_none_are_refused(name, path):
    with open(path, 'r+b') as file:
        file.seek(layout.HEADER.itemsize + 2 * layout.FIELD.itemsize + 1)
        file.write(name.ljust(16, b'\0'))
    if name == b'image':
        with pytest.raises(DatasetError, match='has the fields'):
            index_of(path)
    else:  # FFCV's own files may have more fields
        assert not index_of(path).has_crc


def test_a_jpeg_of_more_pixels_than_its_bytes_hold_is_refused(path):
    sample = int(np.flatnonzero(index_of(path).rows['mode'] == layout.JPEG)[0])
    with open(path, 'r+b') as file:
        file.seek(FIELDS_END + 32 * sample + layout.IMAGE.fields['width'][1])
        file.write(b'\xff\xff\xff\xff')
    with pytest.raises(DatasetError, match='does not fit their height and width'):
        index_of(path)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / 'pipe.beton')
    for name in ('pipe.beton', '.'):
        with pytest.raises(DatasetError, match='cannot be opened'):
            Beton(tmp_path / name)
