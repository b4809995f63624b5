"""Tasks made of what packages carry: rated sentences, and mail with and without spam."""

from __future__ import annotations

import email
import email.policy
import hashlib
import io
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from email.message import Message
from pathlib import Path
from typing import NamedTuple

from shd_vit.data.packages import Package
from shd_vit.data.text.sources import STDLIB
from shd_vit.errors import DatasetError

Example = tuple[str, str]  # sentence, label or score
Sets = dict[str, list[Example]]

VADER = Package(
    'pip',
    'vaderSentiment',
    '3.3.2',
    '5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9',
)
# Rated texts in VADER's archive: the first is split, the others are told by who learned from it.
FILMS = 'movieReviewSnippets'
SHIFTED = dict(amazon='amazonReviewSnippets', tweets='tweets', nyt='nytEditorialSnippets')
SHARES = dict(validation=0.1, test=0.2)  # of the whole, up to there; the rest is train
MAIL_CHARACTERS = 4000  # of a mail that are kept


class Source(NamedTuple):
    """How a task is made.

    Attributes:
        package: What carries it.
        licence: Of the texts.
        about: What its files are.
        column: 'label' or 'score'.
        make: Sets by name, from the package's archive.
    """

    package: Package
    licence: str
    about: str
    column: str
    make: Callable[[Path], Sets]


def sentiment(archive: Path) -> Sets:
    """Film sentences rated above 0 (1) and below (0); those at 0 are left out."""
    return {
        name: [(text, str(int(score > 0))) for text, score in rows if score]
        for name, rows in _rated(archive).items()
    }


def similarity(archive: Path) -> Sets:
    """The same sentences with their ratings, from -4 to 4, as scores; split alike."""
    return {
        name: [(text, f'{score:.3f}') for text, score in rows]
        for name, rows in _rated(archive).items()
    }


def spam(archive: Path) -> Sets:
    """Bodies of mails, without headers and markup: spam (1) or not (0).

    Mails of one subject (a thread), or that begin alike, are in one set.
    """
    mails = [(text, keys, label) for text, keys, label in _mails(archive) if text]
    groups = joined([keys for _, keys, _ in mails])
    examples = [(text, label) for text, _, label in mails]
    return split_by_group(examples, groups)


SOURCES = dict(
    sentiment=Source(
        VADER, 'MIT', 'film sentences above and below neutral; Amazon, tweets, NYT', 'label',
        sentiment,
    ),
    similarity=Source(
        VADER, 'MIT', 'ratings of the same sentences, -4 to 4', 'score', similarity
    ),
    spam=Source(STDLIB, 'CC0-1.0', 'SpamAssassin mails without headers', 'label', spam),
)  # fmt: skip


def split_by_group(examples: list[Example], groups: list[str]) -> Sets:
    """Train, validation and test by a hash of the group: the same whenever it is made.

    An example that comes twice in a set is kept once.
    """
    sets: Sets = dict(train=[], validation=[], test=[])
    for example, group in zip(examples, groups, strict=True):
        place = int(hashlib.sha256(group.encode()).hexdigest()[:8], 16) / 2**32
        name = next((name for name, end in SHARES.items() if place < end), 'train')
        sets[name].append(example)
    return {name: list(dict.fromkeys(rows)) for name, rows in sets.items()}


def joined(keys: Iterable[Iterable[str]]) -> list[str]:
    """A name for each item, the same for items that share a key, directly or through others."""
    parents: dict[str, str] = {}

    def root(key: str) -> str:
        while parents.setdefault(key, key) != key:
            parents[key] = parents[parents[key]]
            key = parents[key]
        return key

    firsts = []
    for number, own in enumerate(keys):
        first, *others = *own, f'item {number}'  # an item without keys is alone
        firsts.append(first)
        for other in others:
            parents[root(other)] = root(first)
    return [root(first) for first in firsts]


def letters(text: str) -> str:
    """Its letters alone, in lower case: what is the same text but for marks and spaces."""
    return re.sub(r'[^a-z]', '', text.lower())


def _rated(archive: Path) -> dict[str, list[tuple[str, float]]]:
    """Sentences with their mean ratings; none of the shifted sets is among the films' sentences."""
    with tarfile.open(archive) as outer:
        (name,) = (n for n in outer.getnames() if n.endswith('hutto_ICWSM_2014.tar.gz'))
        inner = outer.extractfile(name)
        assert inner is not None
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as tar:
            films, *shifted = (_ratings(tar, file) for file in (FILMS, *SHIFTED.values()))
    known = {letters(text) for text, _ in films}
    scores = dict(films)
    sets = split_by_group([(text, '') for text, _ in films], [letters(text) for text, _ in films])
    rated = {name: [(text, scores[text]) for text, _ in rows] for name, rows in sets.items()}
    for name, rows in zip(SHIFTED, shifted, strict=True):
        rated[name] = [row for row in dict.fromkeys(rows) if letters(row[0]) not in known]
    return rated


def _ratings(tar: tarfile.TarFile, name: str) -> list[tuple[str, float]]:
    file = tar.extractfile(f'hutto_ICWSM_2014/{name}_GroundTruth.txt')
    assert file is not None
    rows = []
    for number, line in enumerate(file.read().decode('utf-8').splitlines(), 1):
        try:
            _, score, text = line.split('\t')
            rows.append((' '.join(text.split()), float(score)))
        except ValueError:
            raise DatasetError(f'{name}, line {number}: expected id, rating and text') from None
    return rows


def _mails(archive: Path) -> Iterator[tuple[str, list[str], str]]:
    """Of each mail its text, what it shares with others of its kind, and its label."""
    with tarfile.open(archive) as tar:
        for member in tar:
            _, _, name = member.name.partition('spam-assassin/data/')
            if not name.endswith('.txt'):
                continue
            file = tar.extractfile(member)
            assert file is not None
            mail = email.message_from_bytes(file.read(), policy=email.policy.compat32)
            text = _body(mail)
            subject = re.sub(r'^\W*((re|fwd?|aw)\W+)*', '', str(mail['subject'] or ''), flags=re.I)
            found = dict(subject=letters(subject), body=letters(text)[:100])
            keys = [f'{kind} {key}' for kind, key in found.items() if len(key) > 3]
            yield text, keys, str(int(name.startswith('spam-')))


def _body(mail: Message) -> str:
    """What a mail's text parts say, plain ones if there are any, without markup."""
    parts = [part for part in mail.walk() if part.get_content_maintype() == 'text']
    plain = [part for part in parts if part.get_content_subtype() == 'plain']
    text = ' '.join(_decoded(part) for part in plain or parts)
    text = re.sub(r'(?is)<(style|script)\b.*?</\1>|<!--.*?-->|<[^<>]*>|&\w+;', ' ', text)
    return ' '.join(text.split())[:MAIL_CHARACTERS]


def _decoded(part: Message) -> str:
    data = part.get_payload(decode=True)
    return data.decode('utf-8', errors='ignore') if isinstance(data, bytes) else ''
