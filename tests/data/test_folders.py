"""Folders of images: what is a class, what is an image, and what is said of the rest."""

import os

import pytest

from shd_vit.data.folders import check_same_classes, scan_images
from shd_vit.errors import DatasetError

KINDS = ('.jpg', '.PNG')


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


@pytest.mark.parametrize('leaf', [False, True])
def test_hidden_files_and_folders_are_not_seen(leaf, tmp_path):
    touch(
        tmp_path, 'cat/1.jpg', 'cat/2.png', 'dog/1.JPG', '.ipynb_checkpoints/1.jpg',
        'cat/.ipynb_checkpoints/1-checkpoint.jpg', 'cat/._1.jpg', 'dog/.DS_Store',
    )  # fmt: skip
    found = scan_images(tmp_path, KINDS, leaf)
    assert found.files == dict(cat=['cat/1.jpg', 'cat/2.png'], dog=['dog/1.JPG'])
    assert not found.skipped and not found.left_out()
    found.check()


def test_what_is_not_read_is_counted_by_kind_and_folder(tmp_path):
    touch(
        tmp_path, 'cat/1.jpg', 'cat/1.webp', 'cat/2.webp', 'dog/1.webp', 'dog/1.jpg', 'dog/notes',
        'loose.jpg', 'labels.txt',
    )  # fmt: skip
    os.symlink(tmp_path / 'gone.jpg', tmp_path / 'cat/link.jpg')
    os.symlink(tmp_path / 'cat/1.jpg', tmp_path / 'dog/link.jpg')
    os.symlink(tmp_path, tmp_path / 'dog/all')
    found = scan_images(tmp_path, KINDS)
    assert found.files == dict(cat=['cat/1.jpg'], dog=['dog/1.jpg', 'dog/link.jpg'])
    assert found.skipped == {
        ('', 'images in no class folder'): 1,
        ('cat', '.webp'): 2,
        ('cat', 'broken links'): 1,
        ('dog', '.webp'): 1,
        ('dog', 'without an extension'): 1,
        ('dog', 'links to a folder above'): 1,
    }
    assert 'left out 3 .webp (cat 2, dog 1); left out 1 broken links (cat 1)' in found.left_out()
    assert '\n' not in found.left_out()


def test_folders_below_a_class(tmp_path):
    touch(tmp_path, 'pets/cat/1.jpg', 'pets/dog/1.jpg', 'pets/readme.txt', 'eel/1.jpg')
    (tmp_path / 'pets/fox').mkdir()
    found = scan_images(tmp_path, KINDS)
    assert found.files == dict(eel=['eel/1.jpg'], pets=['pets/cat/1.jpg', 'pets/dog/1.jpg'])
    leaves = scan_images(tmp_path, KINDS, leaf=True)
    assert leaves.files == dict(
        cat=['pets/cat/1.jpg'], dog=['pets/dog/1.jpg'], eel=['eel/1.jpg'], fox=[]
    )


@pytest.mark.parametrize(
    ('paths', 'message'),
    [
        ([], 'holds no folders'),
        (['1.jpg'], 'holds no folders'),
        (['cat/1.jpg', 'dog/1.webp'], r'without an image: dog, left out 1 \.webp \(dog 1\); files'),
        (['cat/1.jpg', 'dog/.1.jpg'], r'without an image: dog; files that are read end in \.jpg'),
    ],
)
def test_folders_without_images_are_refused(paths, message, tmp_path):
    touch(tmp_path, *paths)
    with pytest.raises(DatasetError, match=message) as caught:
        scan_images(tmp_path, KINDS).check()
    assert '\n' not in str(caught.value)


def test_a_missing_folder_is_named(tmp_path):
    touch(tmp_path, 'file')
    for name in ('gone', 'file'):
        with pytest.raises(DatasetError, match=f"{name}' does not exist"):
            scan_images(tmp_path / name, KINDS)


@pytest.mark.parametrize(
    ('found', 'message'),
    [
        (['a', 'b'], r'val/ lacks c: its labels would not be those of train/, which has 3 classes'),
        (['a', 'b', 'c', 'd'], r'val/ has also d:'),
        (['a', 'b', 'd'], r'val/ lacks c and has also d:'),
        (['b', 'a', 'c'], r"val/ has 'b' where 'a' is expected"),
        ([*'abc', *'defghijk'], r'has also d, e, f, g, h and 3 more'),
    ],
)
def test_classes_that_differ_are_named(found, message):
    with pytest.raises(DatasetError, match=message):
        check_same_classes('abc', found, 'train/', 'val/')
    check_same_classes('abc', ['a', 'b', 'c'], 'train/', 'val/')
