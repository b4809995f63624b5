"""WordNet's lines as wndb(5WN) has them, written out by hand."""

import pytest

from shd_vit.data.text import wordnet
from shd_vit.data.text.wordnet import Sense, senses_by_word

LICENCE = '  1 This software and database is being provided to you\n'
DATA_NOUN = (
    LICENCE + '00000100 03 n 01 entity 0 001 ~ 00000200 n 0000 | that which is perceived  \n'
    '00000200 03 n 02 animal 0 wild_beast 0 001 @ 00000100 n 0000 | a living organism; moves  \n'
    '00000300 05 n 03 dog 0 domestic_dog 0 Canis_familiaris 0 002 @ 00000200 n 0000 ~ 00000400 n '
    '0000 | a member of the genus Canis; kept by man; "the dog barked all night"; "a wild dog"  \n'
    '00000400 05 n 01 Fido 0 001 @i 00000300 n 0000 | a name of a dog  \n'
    '00000500 06 n 01 dog 1 001 @ 00000100 n 0000 | a hinged catch  \n'
    '00000600 06 n 02 pawl 0 dog 2 001 @ 00000500 n 0000 | a catch of a ratchet  \n'
    '00000700 06 n 01 qua 0 000 | rare  \n'
)
INDEX_NOUN = (
    LICENCE + 'entity n 1 1 ~ 1 1 00000100  \n'
    'animal n 1 1 @ 1 1 00000200  \n'
    'domestic_dog n 1 2 @ ~ 1 1 00000300  \n'
    'dog n 3 2 @ ~ 3 2 00000500 00000300 00000600  \n'
    'fido n 1 1 @i 1 1 00000400  \n'
    'pawl n 1 1 @ 1 1 00000600  \n'
    'qua n 1 0 1 0 00000700  \n'
)
DATA_VERB = (
    '00000100 30 v 01 dog 0 000 01 + 08 00 | go after; "the policeman dogged him"; "dog her"  \n'
)
DATA_ADJ = '00000100 00 a 01 galore(ip) 0 000 | in great numbers  \n'


@pytest.fixture
def words(monkeypatch):
    files = dict.fromkeys((f'{what}.{k}' for what in ('data', 'index') for k in wordnet.KINDS), b'')
    files['data.noun'], files['index.noun'] = DATA_NOUN.encode(), INDEX_NOUN.encode()
    files['data.verb'], files['index.verb'] = DATA_VERB.encode(), b'dog v 1 0 1 1 00000100  \n'
    files['data.adj'], files['index.adj'] = DATA_ADJ.encode(), b'galore a 1 0 1 1 00000100  \n'
    monkeypatch.setattr(wordnet, 'debian_files', lambda *_: files)
    return senses_by_word('archive')


def test_meanings_of_a_word_in_order_of_frequency(words):
    names = ('dog', 'domestic dog', 'Canis familiaris')
    examples = ('the dog barked all night', 'a wild dog')
    above = ('animal', 'wild beast')
    meaning = 'a member of the genus Canis; kept by man'
    assert words['dog'] == [
        Sense('noun', ('dog',), 'a hinged catch', (), ('entity',), 'artifact'),
        Sense('noun', names, meaning, examples, above, 'animal'),
        Sense('verb', ('dog',), 'go after', ('the policeman dogged him', 'dog her'), (), 'change'),
    ]
    assert words['galore'][0].words == ('galore',)
    assert words['galore'][0].topic == words['entity'][0].topic == '', 'no topic of its own'


def test_a_meaning_is_one_words_alone(words):
    """That of its most usual word; names, words of several and what no text has are left out."""
    assert list(words) == ['entity', 'animal', 'dog', 'pawl', 'galore']
    meanings = [sense.meaning for senses in words.values() for sense in senses]
    assert len(meanings) == len(set(meanings))
