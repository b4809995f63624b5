"""Small colour pictures with classes: the emoji of a package, apart by what they show."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from shd_vit.data.packages import Package
from shd_vit.errors import DatasetError

EMOJI = Package(
    *('npm', 'emoji-datasource-google', '16.0.0'),
    'fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438',
)
# Unicode's groups, but for Component: five patches of skin.
CATEGORIES = (
    'Smileys & Emotion', 'People & Body', 'Animals & Nature', 'Food & Drink', 'Travel & Places',
    'Activities', 'Objects', 'Symbols', 'Flags',
)  # fmt: skip
NAMES = r'package/(?:img/google/64/)?([^/]+\.(?:png|json))'
TEST = 10  # one group of so many is held out


class Emoji(NamedTuple):
    """Pictures and what they are.

    Attributes:
        images: uint8 (n, size, size, 3).
        labels: (n,), of CATEGORIES.
        is_test: (n,) bool; variants of one emoji are all on one side.
    """

    images: np.ndarray
    labels: np.ndarray
    is_test: np.ndarray


def read_emoji(archive: Path, size: int, background: tuple[int, int, int]) -> Emoji:
    """All emoji of the package, skin tones and other variants included.

    Args:
        archive: That the package is.
        size: Side of the pictures, which are 64 there.
        background: What is seen through them.

    Raises:
        DatasetError: If something is not in the archive.
    """
    try:
        files = _files(archive)
        found = [
            (_picture(files[image], size, background), *rest)
            for image, *rest in _pictures(json.loads(files['emoji.json']))
        ]
    except (tarfile.TarError, OSError, ValueError, KeyError) as error:
        raise DatasetError(f'{archive} is no {EMOJI.source}: {error}') from None
    images, labels, groups = zip(*found, strict=True)
    is_test = {group: _hash(group) % TEST == 0 for group in groups}
    return Emoji(np.stack(images), np.array(labels), np.array([is_test[group] for group in groups]))


def _pictures(entries: list[dict[str, Any]]) -> list[tuple[str, int, str]]:
    """File, label and group of each picture, in Unicode's order."""
    pictures = []
    for entry in sorted(entries, key=lambda entry: entry['sort_order']):
        if entry['category'] not in CATEGORIES:
            continue
        label, group = CATEGORIES.index(entry['category']), _group(entry)
        for variant in (entry, *entry.get('skin_variations', {}).values()):
            if variant['has_img_google']:
                pictures.append((variant['image'], label, group))
    return pictures


def _group(entry: dict[str, Any]) -> str:
    """What variants have in common: the first sign, as of all men and women; of flags, all."""
    return entry['unified'] if entry['category'] == 'Flags' else entry['unified'].split('-')[0]


def _hash(group: str) -> int:
    return int(hashlib.sha256(group.encode()).hexdigest(), 16)


def _files(archive: Path) -> dict[str, bytes]:
    """Those that are read, by name; in one go, since a packed archive has no way back."""
    with tarfile.open(archive) as tar:
        return {
            found[1]: file.read()
            for member in tar
            if (found := re.fullmatch(NAMES, member.name)) and (file := tar.extractfile(member))
        }


def _picture(png: bytes, size: int, background: tuple[int, int, int]) -> np.ndarray:
    """On the background first: resizing what is transparent would mix in colours unseen."""
    with Image.open(BytesIO(png)) as image:
        whole = image.convert('RGBA')
    under = Image.new('RGBA', whole.size, (*background, 255))
    flat = Image.alpha_composite(under, whole).convert('RGB')
    return np.asarray(flat.resize((size, size), Image.Resampling.BOX))
