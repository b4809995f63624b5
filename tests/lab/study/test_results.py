import pytest
from lab.study.stub import write_study

from shd_vit.lab.study import figure
from shd_vit.lab.study.plan import read_study
from shd_vit.lab.study.results import results, tables


def cell(row, seed, value, step=0.05):
    """What a finished one gives."""
    return dict(row=row, seed=seed, metrics={'top1': value}, step_seconds=step)


@pytest.fixture
def study(tmp_path):
    text = 'metric: top1\nrows: {a: CONFIG, b: CONFIG, c: CONFIG}'
    return read_study(write_study(tmp_path, text))


def test_tables_by_hand(study):
    """b - a is 1, 2, 3: 2.00 +- 4.3027 / sqrt 3. Seed 3 has no partner."""
    cells = [
        *(cell('a', seed, 70.0, step) for seed, step in enumerate([0.01, 0.02, 0.06])),
        *(cell('b', seed, 71.0 + seed) for seed in range(4)),
        cell('c', 0, 69.5, step=None),
    ]
    values = results(study, cells)
    ((title, rows),) = tables(values)
    assert title == 'mine'
    assert rows == [
        ['', 'top1', 'deviation', 'minus a', '95 % interval', 'by seed'],
        ['a', '70.00', '0.00', '', '', '70.00, 70.00, 70.00'],
        ['b', '72.50', '1.29', '+2.00', '-0.48 to +4.48', '71.00, 72.00, 73.00, 74.00'],
        ['c', '69.50', 'n/a', '-0.50', 'n/a', '69.50'],
    ]
    assert values['rows']['b']['values'] == {'0': 71.0, '1': 72.0, '2': 73.0, '3': 74.0}
    assert values['tables'][0]['differences']['b'] == pytest.approx(
        dict(mean=2, low=2 - 4.302653 / 3**0.5, high=2 + 4.302653 / 3**0.5), abs=1e-6
    )
    assert len(values['cells']) == 8
    assert [row['step_seconds'] for row in values['rows'].values()] == [0.02, 0.05, None]


def test_nothing_is_known_at_the_start(study):
    ((_, rows),) = tables(results(study, []))
    assert rows[1] == ['a', 'n/a', 'n/a', '', '', 'n/a']
    assert rows[2] == ['b', 'n/a', 'n/a', 'n/a', 'n/a', 'n/a']


def test_figure_shows_every_row_and_cell(study, tmp_path):
    cells = [cell(row, seed, 70.0 + 3 * seed) for row in 'ab' for seed in range(3)]
    figure.draw(results(study, cells), tmp_path / 'results.svg')
    svg = (tmp_path / 'results.svg').read_text()
    for text in ('mine', 'minus a', 'top1', '>a<', '>b<', '>c<'):
        assert text in svg, text
    blue, orange = (svg.count(f'fill: {color}') for color in ('#56b4e9', '#e69f00'))
    figure.draw(results(study, cells[:-1]), tmp_path / 'fewer.svg')
    fewer = (tmp_path / 'fewer.svg').read_text()
    assert fewer.count('fill: #56b4e9') == blue - 1
    assert fewer.count('fill: #e69f00') == orange - 1
