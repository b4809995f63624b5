import pytest
from lab.study.stub import write_study

from shd_vit.errors import ConfigError
from shd_vit.lab.study.plan import Comparison, read_study

FULL = """
seeds: [0, 1]
metric: accuracy/top5
options: {a.b: 1, c: x}
rows:
  baseline: one.py
  SHD + NKD: {config: two.py, options: {a.b: 2}, seeds: [3]}
grids:
  heat:
    config: two.py
    options: {loss.beta: [1e-3, 1], loss.other.beta: [2], t: [on fire]}
tables:
  - {title: 'Table 4', rows: [baseline, heat], against: baseline}
  - {rows: [SHD + NKD, baseline]}
"""


def test_a_study_is_read(tmp_path):
    study = read_study(write_study(tmp_path, FULL))
    assert study.metric == 'accuracy/top5'
    heat = [
        f'heat/loss.beta={beta},loss.other.beta=2,t=on fire'  # the last words alone are one
        for beta in ('0.001', '1')
    ]
    assert list(study.rows) == ['baseline', 'SHD + NKD', *heat]
    baseline, combined, first, _ = study.rows.values()
    assert (baseline.config, baseline.options, baseline.seeds) == (
        'one.py', {'a.b': 1, 'c': 'x'}, (0, 1),
    )  # fmt: skip
    assert (combined.options, combined.seeds) == ({'a.b': 2, 'c': 'x'}, (3,))
    assert combined.folder == 'SHD_+_NKD'
    assert first.options == {
        'a.b': 1, 'c': 'x', 'loss.beta': 1e-3, 'loss.other.beta': 2, 't': 'on fire',
    }  # fmt: skip
    assert first.folder == 'heat_loss.beta=0.001,loss.other.beta=2,t=on_fire'
    assert study.tables == (
        Comparison('Table 4', ('baseline', *heat), 'baseline'),
        Comparison('mine', ('SHD + NKD', 'baseline'), 'SHD + NKD'),
    )
    assert study.names(['heat', 'baseline', 'heat'], '--only') == (*heat, 'baseline')


def test_short_names_of_options_where_they_are_enough(tmp_path):
    study = read_study(
        write_study(tmp_path, 'grids: {g: {config: a.py, options: {x.beta: [1, 2], y.T: [3]}}}')
    )
    assert list(study.rows) == ['g/beta=1,T=3', 'g/beta=2,T=3']


def test_without_tables_all_rows_are_set_against_the_first(tmp_path):
    study = read_study(write_study(tmp_path, 'rows: {b: b.py, a: a.py}'))
    assert study.tables == (Comparison('mine', ('b', 'a'), 'b'),)
    assert (study.metric, study.rows['b'].seeds) == ('accuracy/top1', (0,))


@pytest.mark.parametrize(
    'text, message',
    [
        ('row: {a: a.py}', "study: unknown key 'row'; allowed are seeds, metric, options, rows"),
        ('seeds: [0]', 'must define rows or grids'),
        ('[1, 2]', 'must define rows or grids'),
        ('rows: [a.py]', r"rows=\['a.py'\] must be a mapping"),
        ('rows: {1: a.py}', r'rows: names must be text, not \[1\]'),
        ('rows: {a: }', 'rows.a.config=None must be the path'),
        ('rows: {a: {confg: a.py}}', "rows.a: unknown key 'confg'; allowed are config, options"),
        ('rows: {a: {options: {}}}', 'rows.a.config=None must be the path of a config'),
        ('rows: {a: a.py}\nseeds: []', r'seeds=\[\] must be different whole numbers'),
        ('rows: {a: a.py}\nseeds: 3', 'seeds=3 must be'),
        ('rows: {a: a.py}\nseeds: [1, 1]', r'seeds=\[1, 1\] must be different'),
        ('rows: {a: a.py}\nseeds: [-1]', r'seeds=\[-1\] must be .* from 0'),
        ('rows: {a: a.py}\nseeds: [true]', r'seeds=\[True\] must be'),
        ('rows: {a: {config: a.py, seeds: []}}', r'rows.a.seeds=\[\] must be'),
        ('rows: {a: a.py}\nmetric: [x]', r"metric=\['x'\] must be the name"),
        ('rows: {a: a.py}\noptions: {randomness.seed: 1}', 'options: randomness.seed is set from'),
        ('rows: {a: a.py, a: b.py}', "line 1: 'a' is defined twice"),
        ('rows: {a: a.py, a', 'line 1: '),
        ('rows: {a b: a.py, a_b: b.py}', "the folder 'a_b' is used twice"),
        (
            'rows: {a: a.py}\ngrids: {a: {config: a.py, options: {x: [1]}}}',
            "the name 'a' is used twice",
        ),
        (
            'grids: {a: {config: a.py, options: {x: [1, 1]}}}',
            "the name 'a/x=1' is used twice",
        ),
        ('rows: {..: a.py}', r"'\.\.' cannot be a folder"),
        (f'rows: {{{"a" * 201}: a.py}}', 'at most 200 letters'),
        ('grids: {a: {config: a.py}}', 'grids.a.options must give each key a list of values'),
        ('grids: {a: {config: a.py, options: {x: 1}}}', 'must give each key a list of values'),
        ('grids: {a: {config: a.py, options: {x: []}}}', 'must give each key a list of values'),
        ('rows: {a: a.py}\ntables: [{rows: [b]}]', "tables.0.rows: no row or grid 'b'; allowed"),
        ('rows: {a: a.py}\ntables: [{rows: []}]', r'tables.0.rows=\[\] must be a list of names'),
        ('rows: {a: a.py}\ntables: [{against: b}]', "tables.0.against='b' must be a row"),
        ('rows: {a: a.py}\ntables: [{name: b}]', "tables.0: unknown key 'name'"),
        ('rows: {a: a.py}\ntables: {a: b}', 'must be a list'),
    ],
)
def test_mistakes_are_named(text, message, tmp_path):
    path = tmp_path / 'mine.yaml'
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        read_study(path)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', ['gone.yaml', 'mine.py'])
def test_other_files_are_refused(name, tmp_path):
    (tmp_path / 'mine.py').write_text('rows: {a: a.py}')
    with pytest.raises(ConfigError, match=r'expected a \.yaml file'):
        read_study(tmp_path / name)


def test_numbers_with_exponents_are_numbers(tmp_path):
    """PyYAML alone makes text of most."""
    text = 'rows: {a: a.py}\noptions: {a: 1e-3, b: -2E5, c: 1.5e+2, d: 3.e1, e: e5, f: 12}'
    assert read_study(write_study(tmp_path, text)).rows['a'].options == dict(
        a=0.001, b=-200000.0, c=150.0, d=30.0, e='e5', f=12
    )
