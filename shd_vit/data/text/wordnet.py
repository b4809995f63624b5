"""Words and what they mean, from the files of WordNet (wndb(5WN))."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from shd_vit.data.text.archives import debian_files

KINDS = ('noun', 'verb', 'adj', 'adv')
HYPERNYMS = ('@', '@i')  # what it is a kind, or a case, of
# Of files 4 to 43, nouns and then verbs (lexnames(5WN)); the others tell nothing of a meaning.
FIRST = 4
TOPICS = (
    'act', 'animal', 'artifact', 'attribute', 'body', 'cognition', 'communication', 'event',
    'feeling', 'food', 'group', 'location', 'motive', 'object', 'person', 'phenomenon', 'plant',
    'possession', 'process', 'quantity', 'relation', 'shape', 'state', 'substance', 'time',
    'body', 'change', 'cognition', 'communication', 'competition', 'consumption', 'contact',
    'creation', 'emotion', 'motion', 'perception', 'possession', 'social', 'stative', 'weather',
)  # fmt: skip


class Sense(NamedTuple):
    """One meaning.

    Attributes:
        kind: 'noun', 'verb', 'adj' or 'adv'.
        words: That have it, the most usual first.
        meaning: What it is.
        examples: Of use; may be none.
        above: Words of what it is a kind of; may be none.
        topic: The file that WordNet's authors wrote it into; '' where that tells nothing.
    """

    kind: str
    words: tuple[str, ...]
    meaning: str
    examples: tuple[str, ...]
    above: tuple[str, ...] = ()
    topic: str = ''


def senses_by_word(archive: Path) -> dict[str, list[Sense]]:
    """Meanings of each word that is the most usual word for it, the most frequent first.

    So each meaning is one word's alone: words that are told apart have no meaning in common.
    Left out are names, words of several words, and what WordNet's tagged texts have nowhere.

    Args:
        archive: Debian's package wordnet-base.
    """
    files = debian_files(archive, r'.*/wordnet/((?:data|index)\.(?:noun|verb|adj|adv))')
    found: dict[str, list[Sense]] = {}
    for kind in KINDS:
        senses = _senses(kind, files[f'data.{kind}'].decode('utf-8'))
        for line in _lines(files[f'index.{kind}'].decode('utf-8')):
            word, places, is_tagged = _indexed(line)
            own = [s for s in (senses[place] for place in places) if s.words[0] == word]
            if own and is_tagged and re.fullmatch('[a-z]{3,}', word):
                found.setdefault(word, []).extend(own)
    return found


def _senses(kind: str, data: str) -> dict[str, Sense]:
    """By place in the file. A line: place, file, type, count, words, pointers | gloss."""
    senses, above = {}, {}
    for line in _lines(data):
        fields, _, gloss = line.partition(' | ')
        place, file, _, count, *rest = fields.split()
        end = 2 * int(count, 16)
        words = tuple(word.split('(')[0].replace('_', ' ') for word in rest[:end:2])
        pointers = rest[end + 1 : end + 1 + 4 * int(rest[end])]
        above[place] = [
            pointers[n + 1] for n in range(0, len(pointers), 4) if pointers[n] in HYPERNYMS
        ]
        meaning, _, _ = gloss.partition('"')
        examples = tuple(re.findall(r'"([^"]+)"', gloss))
        senses[place] = Sense(kind, words, meaning.strip(' ;'), examples, (), _topic(int(file)))
    return {
        place: sense._replace(above=tuple(word for to in above[place] for word in senses[to].words))
        for place, sense in senses.items()
    }


def _topic(file: int) -> str:
    return TOPICS[file - FIRST] if FIRST <= file < FIRST + len(TOPICS) else ''


def _indexed(line: str) -> tuple[str, list[str], bool]:
    """A word, the places of its meanings, and whether tagged texts have it."""
    word, _, count, pointers, *rest = line.split()
    rest = rest[int(pointers) :]
    return word.replace('_', ' '), rest[2 : 2 + int(count)], rest[1] != '0'


def _lines(data: str) -> list[str]:
    """Without the licence, whose lines begin with spaces."""
    return [line for line in data.splitlines() if line and not line.startswith('  ')]
