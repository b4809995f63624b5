"""Studies that nobody would write: one line each, at once."""

import pytest

from shd_vit.errors import ConfigError
from shd_vit.lab.study.plan import read_study

LONG = '9' * 5000
BOMB = 'a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n' + ''.join(
    f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 10)}]\n' for i in range(1, 11)
)
AXES = ', '.join(f'k{i}: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]' for i in range(9))
WRONG = ('null', '3', '.nan', 'true', '[]', '[1]', '{1: 2}', '2020-01-01', '""', '"a\\nb"', LONG)
# What each field takes, of these.
RIGHT = {
    'rows': (), 'rows.a': (), 'rows.a.config': (), 'rows.a.options': ('null',),
    'rows.a.seeds': ('[1]',), 'options': ('null',), 'seeds': ('[1]',), 'metric': (),
    'grids': ('null',), 'grids.g': (), 'grids.g.options': (), 'grids.g.options.x': ('[1]',),
    'tables': ('null', '[]'), 'tables.0.rows': (), 'tables.0.against': (), 'tables.0.title': (),
    'rows.a.command': (), 'rows.a.metrics': (), 'rows.a.resume': ('[1]', '"a\\nb"'),
}  # fmt: skip


def whole(field, value):
    """A study in which only this field is wrong."""
    row = '{config: a.py}'
    texts = {
        'rows': f'rows: {value}',
        'rows.a': f'rows: {{a: {value}}}',
        'grids': f'rows: {{a: {row}}}\ngrids: {value}',
        'grids.g': f'rows: {{a: {row}}}\ngrids: {{g: {value}}}',
        'grids.g.options': f'grids: {{g: {{config: a.py, options: {value}}}}}',
        'grids.g.options.x': f'grids: {{g: {{config: a.py, options: {{x: {value}}}}}}}',
        'tables': f'rows: {{a: {row}}}\ntables: {value}',
    }
    if field in texts:
        return texts[field]
    *parents, name = field.split('.')
    if parents == ['tables', '0']:
        return f'rows: {{a: {row}}}\ntables: [{{{name}: {value}}}]'
    if name in ('command', 'metrics', 'resume'):
        good = dict(command='x {out}', metrics='m.csv', resume='--resume') | {name: value}
        return f'rows: {{a: {{{", ".join(f"{k}: {v}" for k, v in good.items())}}}}}'.replace(
            'x {out}', '"x {out}"'
        )
    if parents:
        other = '' if name == 'config' else 'config: a.py, '
        return f'rows: {{a: {{{other}{name}: {value}}}}}'
    return f'rows: {{a: {row}}}\n{name}: {value}'


@pytest.mark.parametrize('field', RIGHT)
@pytest.mark.parametrize('value', WRONG)
def test_every_field_of_every_wrong_type(field, value, tmp_path):
    path = tmp_path / 'mine.yaml'
    path.write_text(whole(field, value))
    if value in RIGHT[field]:
        read_study(path)
        return
    with pytest.raises(ConfigError) as error:
        read_study(path)
    assert '\n' not in str(error.value) and len(str(error.value)) < 700


@pytest.mark.parametrize(
    'text, message',
    [
        (
            f'grids: {{g: {{config: a.py, options: {{{AXES}}}}}}}',
            'has more than 10000 cells',
        ),
        (
            f'seeds: {list(range(4000))}\nrows: {{a: a.py, b: b.py, c: c.py}}',
            'has more than 10000 cells',
        ),
        (BOMB + 'rows: {a: a.py}', 'at most 12 levels and 100000 values'),
        ('rows: {a: a.py}\noptions: &o {x: *o}', 'at most 12 levels|recursive'),
        *((text * 10**5, 'nested too deeply') for text in ('[', '{a: ', '- ', '? ')),
        ('rows: {a: a.py}\noptions: {x: 0x' + 'f' * 9000 + '}', 'of more than 64 bits'),
        ('rows: {a: a.py}\noptions: {x: 2020-13-45}', 'cannot be read: ValueError'),
        (
            'rows: {a: a.py}\noptions: {x: !!python/object/apply:os.system [x]}',
            'could not determine',
        ),
        ('rows: {a: a.py}\noptions: {x: !!binary aGVsbG8=}', 'x=.* must be a number, text'),
        ('rows: {a: a.py}\noptions: {[1]: 2}', 'unhashable'),
        (f'rows: {{a: a.py}}\noptions: {{x: {"y" * 20000}}}', 'more than 10000 letters'),
        ('# ' + 'x' * 10**6, 'larger than 1000000 bytes'),
        ('rows: {a: a.py}\nseeds: [4294967296]', r'from 0 to 2\*\*32 - 1'),
        ('rows: {a: a.py}\nrows: {b: b.py}', "'rows' is defined twice"),
        ('rows: {a: a.py}\nseeds: [0]\nseeds: [1]', "'seeds' is defined twice"),
        ('rows: {"a\\nb": a.py}', r"names must be text, not \['a\\nb'\]"),
        ('\0', 'not YAML'),
        ('', 'must define rows or grids'),
    ],
)
def test_more_than_any_study_is_refused_before_it_is_built(text, message, tmp_path):
    path = tmp_path / 'mine.yaml'
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        read_study(path)
    assert '\n' not in str(error.value) and len(str(error.value)) < 700


@pytest.mark.parametrize('text', [b'\xff\xfe\x00', b'rows: {a: "\xff"}'])
def test_other_bytes(text, tmp_path):
    (tmp_path / 'mine.yaml').write_bytes(text)
    with pytest.raises(ConfigError):
        read_study(tmp_path / 'mine.yaml')
