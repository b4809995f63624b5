"""Documents of archives whose bytes are written out by hand, as R, SWORD and WordNet have them."""

import io
import shutil
import struct
import subprocess
import tarfile
import zlib

import pytest

from shd_vit.data.text import archives
from shd_vit.errors import DatasetError


def tar_of(path, files):
    with tarfile.open(path, 'w:gz') as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f'package/{name}')
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


def test_speeches_and_chapters_of_stdlib_in_order(tmp_path):
    path = tar_of(
        tmp_path / 'a.tgz',
        {
            'sotu/data/1900_b_r.txt': 'Late.',
            'sotu/data/1790_a_n.txt': 'One line\nand the next.\n\nAnother\n\n',
            'sotu/data/1790_a_n.json': '{}',
            'sotu/README.md': 'no text',
            'moby-dick/data/chapter_10.txt': 'ten',
            'moby-dick/data/chapter_2.txt': 'two',
            'moby-dick/data/epilogue.txt': 'last',
            'moby-dick/data/data.txt': 'two ten last',
        },
    )
    assert list(archives.speeches(path)) == [
        ('1790_a_n', 'One line and the next.\nAnother\n'), ('1900_b_r', 'Late.')
    ]  # fmt: skip
    chapters = [('chapter_2', 'two'), ('chapter_10', 'ten'), ('epilogue', 'last')]
    assert list(archives.moby_dick(path)) == chapters, 'without the whole book, which has all again'


def book(name, text):
    return f'<div canonical="true" osisID="{name}" sID="g1" type="book"/>{text}'


def test_books_of_a_sword_module(monkeypatch):
    gen = (
        '<milestone n="x"/>Preface. '
        + book('Gen', '<title type="main">Genesis</title><div sID="g2" type="x-p"/>')
        + '<w lemma="strong:H1">In</w> <w lemma="strong:H2">the</w>'
        '<note placement="foot"><reference>1:1 </reference>a note</note>beginning'
        '<div eID="g2" type="x-p"/><l sID="a"/>A&amp;B verse'
    )
    blocks = ['<milestone/>', gen, 'stray verses', book('DanGr', 'Again.') + book('Hos', 'Word.')]
    packed = [zlib.compress(block.encode()) for block in blocks]
    starts = [sum(map(len, packed[:i])) for i in range(len(packed))]
    index = b''.join(
        struct.pack('<III', start, len(data), len(block))
        for start, data, block in zip(starts, packed, blocks, strict=True)
    )
    files = {'ot.bzs': index, 'ot.bzz': b''.join(packed), 'nt.bzs': b'', 'nt.bzz': b''}
    monkeypatch.setattr(archives, 'debian_files', lambda *_: files)
    found = dict(archives.bible(None))
    assert list(found) == ['Gen', 'Hos'] and found['Hos'] == 'Word.'
    lines = [' '.join(line.split()) for line in found['Gen'].split('\n')]
    assert [line for line in lines if line] == ['In the beginning', 'A&B verse']


def r_vector(lines, kind=16):
    """serialize(lines, ascii=FALSE, version=3), by R's own description of its format."""
    head = b'X\n' + struct.pack('>3i', 3, 0x040201, 0x030500) + struct.pack('>i', 5) + b'UTF-8'
    body = [struct.pack('>2i', 0x00040009, len(x.encode())) + x.encode() for x in lines]
    data = head + struct.pack('>2i', kind, len(lines)) + b''.join(body)
    return struct.pack('>I', len(data)) + zlib.compress(data)


def test_chapters_of_novels_in_a_lazy_load_data_base(monkeypatch):
    emma = ['EMMA', 'By Jane Austen', '', 'VOLUME I', '', 'CHAPTER I', '', 'Emma, handé', 'some.',
            '', 'And rich.', '', 'VOLUME II', '', 'CHAPTER II', 'Next.', 'FINIS']  # fmt: skip
    data = r_vector(emma) + r_vector(['Persuasion', 'Chapter 1', 'Sir Walter.'])
    monkeypatch.setattr(archives, 'debian_files', lambda *_: {'Rdata.rdb': data})
    found = {name: text.strip() for name, text in archives.novels(None)}
    assert found == {
        'EMMA 1': 'Emma, handé some.\nAnd rich.',
        'EMMA 2': 'Next.',
        'Persuasion 1': 'Sir Walter.',
    }
    monkeypatch.setattr(archives, 'debian_files', lambda *_: {'': r_vector([], kind=13)})
    with pytest.raises(DatasetError, match='no character vector of R'):
        list(archives.novels(None))


def test_meanings_of_wordnet(monkeypatch):
    lines = [
        '  1 This software and database is being provided ...  ',
        '00001740 00 a 01 able 0 005 = 05200169 n 0000 | having the power; "able to swim"  ',
        '00004980 00 s 02 brand-new 0 ice_cream(p) 1 001 & 00004723 a 0000 | new  ',
    ]
    data = {'adj': '\n'.join(lines).encode(), 'noun': b''}
    monkeypatch.setattr(archives, 'debian_files', lambda *_: data)
    assert [(name, text.strip()) for name, text in archives.dictionary(None)] == [
        ('adj 00001740', 'able: having the power; "able to swim"'),
        ('adj 00004980', 'brand-new, ice cream: new'),
    ]


@pytest.mark.skipif(not shutil.which('dpkg-deb'), reason='needs dpkg-deb')
def test_files_of_a_debian_package(tmp_path, monkeypatch):
    (tmp_path / 'tree/DEBIAN').mkdir(parents=True)
    (tmp_path / 'tree/DEBIAN/control').write_text(
        'Package: a\nVersion: 1\nArchitecture: all\nMaintainer: b <c@d.example>\nDescription: e\n'
    )
    folder = tmp_path / 'tree/usr/share/wordnet'
    folder.mkdir(parents=True)
    (folder / 'data.verb').write_text('00001740 29 v 01 breathe 0 000 | draw air  \n')
    (folder / 'index.verb').write_text('no data')
    path = tmp_path / 'a.deb'
    subprocess.run(
        ['dpkg-deb', '--build', tmp_path / 'tree', path], check=True, capture_output=True
    )
    assert [name for name, _ in archives.dictionary(path)] == ['verb 00001740']
    monkeypatch.setattr(shutil, 'which', lambda _: None)
    with pytest.raises(DatasetError, match=r'a.deb: dpkg-deb, which unpacks it, is not installed'):
        list(archives.dictionary(path))
