"""Tables and JSON of reports."""

import json

import pytest
from tooling import run_tool

from shd_vit.errors import ConfigError
from shd_vit.lab.report import as_markdown, read_json, write_json


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / 'a.json'
    write_json(dict(a=1), path)
    with pytest.raises(ValueError, match='Circular'):
        write_json((loop := []).append(loop) or loop, path)
    assert read_json(path) == {'a': 1}
    write_json(dict(a=2), None)


def test_cells_of_markdown_stay_cells():
    assert as_markdown('T', [['a', 'b|c'], ['d', 'e']]).splitlines() == [
        '## T', '', '| a | b\\|c |', '| --- | ---: |', '| d | e |',
    ]  # fmt: skip


@pytest.mark.parametrize('text', ['', '{', '[' * 10**5, '9' * 5000, '{"a": 1, "a": 2}', '\xff'])
def test_what_is_no_json_is_named_in_one_line(text, tmp_path):
    path = tmp_path / 'a.json'
    path.write_bytes(text.encode('latin-1'))
    with pytest.raises(ConfigError, match=r'a\.json. cannot be read as JSON: ') as error:
        read_json(path)
    assert '\n' not in str(error.value)


GOOD = {'accuracy/top1': 90.0, 'accuracy/top5': 99.0, 'parameters': 1234567}


@pytest.mark.parametrize(
    'values',
    [
        [], 3, None, {},
        *({**GOOD, key: value} for key in GOOD for value in (None, 'x', [], {})),
        *({k: v for k, v in GOOD.items() if k != key} for key in GOOD),
    ],
)  # fmt: skip
def test_compare_names_what_is_no_result(values, tmp_path, monkeypatch):
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r'expected NAME=FILE, a file by tools/test\.py --out'):
        run_tool('compare', monkeypatch, f'a={path}')


def test_compare_prints_a_row(tmp_path, monkeypatch, capsys):
    (tmp_path / 'a.json').write_text(json.dumps(GOOD))
    run_tool('compare', monkeypatch, f'big one={tmp_path}/a.json')
    assert '1,234,567' in capsys.readouterr().out
