"""Files that are whole or not there."""

import pytest

from shd_vit.files import write_whole


@pytest.mark.parametrize('alone', [True, False])
def test_the_old_file_stays_until_the_new_one_is_whole(alone, tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    with pytest.raises(KeyboardInterrupt), write_whole(path, alone=alone) as part:
        part.write_text('half of')
        raise KeyboardInterrupt
    assert path.read_text() == 'old'
    with write_whole(path, alone=alone) as part:
        part.write_text('new')
        assert path.read_text() == 'old' and part.parent == tmp_path
    assert path.read_text() == 'new'
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_written_over(tmp_path):
    path = tmp_path / 'a.txt'
    writer = write_whole(path)
    writer.__enter__().write_text('left behind, and longer')  # and never left
    with write_whole(path) as part:
        part.write_text('new')
    assert path.read_text() == 'new'
    assert list(tmp_path.iterdir()) == [path]
    # Two that write at once are not in each other's way.
    with write_whole(path, alone=False) as one, write_whole(path, alone=False) as other:
        one.write_text('one')
        other.write_text('other')
    assert path.read_text() == 'one'
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_where_the_file_cannot_be(tmp_path):
    (tmp_path / 'folder').mkdir()
    with pytest.raises(OSError), write_whole(tmp_path / 'folder') as part:
        part.write_text('new')
    with pytest.raises(FileNotFoundError), write_whole(tmp_path / 'gone/a.txt') as part:
        part.write_text('new')
    with pytest.raises(FileNotFoundError), write_whole(tmp_path / 'a.txt'):
        pass  # nothing was written
    assert [path.name for path in tmp_path.iterdir()] == ['folder']
