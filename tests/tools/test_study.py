"""tools/study.py as a user starts it: of a stub's trainings, and once of real ones."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import fashion
import pytest
import yaml
from lab.study.stub import journal, write_study, write_tools
from scipy import stats
from tooling import ROOT, load_tool
from yapf.yapflib import yapf_api

# A shell that starts a process in the background has it ignore Ctrl-C.
WITH_STUB = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, 'tools')
import study
study.TOOLS = Path(sys.argv.pop(1))
study.run_tool(study.main)
"""


@pytest.fixture
def tool(monkeypatch):
    """The tool's module, in this process."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(signal, 'signal', lambda *_: None)
    return load_tool('study')


@pytest.fixture
def run(tool, tmp_path, monkeypatch, capsys):
    """Runs the tool on tmp_path/mine.yaml, with the stub for tools/train.py."""
    tool.TOOLS = write_tools(tmp_path / 'tools')

    def run(*arguments, code=0):
        """What it prints."""
        options = '--out', str(tmp_path / 'out'), *arguments
        monkeypatch.setattr(sys, 'argv', ['study.py', str(tmp_path / 'mine.yaml'), *options])
        capsys.readouterr()
        ended = contextlib.nullcontext() if code == 0 else pytest.raises(SystemExit)
        with ended as error:
            tool.run_tool(tool.main)
        if not code:
            return capsys.readouterr().out
        if code == 1 and isinstance(error.value.code, str):  # what Python prints at its end
            return error.value.code
        assert error.value.code == code
        return capsys.readouterr().out

    return run


def test_all_rows_of_a_seed_come_first_and_finished_cells_are_not_run_again(tmp_path, run):
    write_study(tmp_path, 'seeds: [0, 1]\nrows: {b: CONFIG, a: CONFIG}')
    run('--only', 'a')
    assert [line[:2] for line in journal(tmp_path / 'tools')] == [['a', '0'], ['a', '1']]
    listed = run('--list').splitlines()
    assert [line.split()[:4] for line in listed] == [
        ['waiting', 'b,', 'seed', '0'], ['finished', 'a,', 'seed', '0'],
        ['waiting', 'b,', 'seed', '1'], ['finished', 'a,', 'seed', '1'],
    ]  # fmt: skip
    write_study(tmp_path, 'seeds: [0, 1, 2]\nrows: {b: CONFIG, a: CONFIG, c: CONFIG}')
    run()
    assert [line[:2] for line in journal(tmp_path / 'tools')][2:] == [
        ['b', '0'], ['c', '0'], ['b', '1'], ['c', '1'], ['b', '2'], ['a', '2'], ['c', '2'],
    ]  # fmt: skip
    run()
    assert len(journal(tmp_path / 'tools')) == 9


def test_a_changed_config_is_refused_unless_asked_for(tmp_path, run):
    text = 'rows: {a: CONFIG, b: {config: CONFIG, options: {behaviour.top1: %s}}}'
    write_study(tmp_path, text % 20)
    run()
    write_study(tmp_path, text % 30)
    output = run(code=1)
    assert (
        output.strip()
        .splitlines()[-1]
        .startswith('ConfigError: trained with other settings: b, seed 0 in ')
    )
    assert len(journal(tmp_path / 'tools')) == 2
    assert '| b | n/a |' in run('--only', 'a'), 'what other settings gave does not count'
    assert '| b | 30.00 |' in run('--rerun-changed')
    assert [line[0] for line in journal(tmp_path / 'tools')] == ['a', 'b', 'b']
    assert (tmp_path / 'out/cells/b/seed0.old1/result.json').exists()


def test_failures_are_named_at_the_end_and_tried_again(tmp_path, run):
    write_study(
        tmp_path,
        'seeds: [0, 1]\nrows: {bad: {config: CONFIG, options: {behaviour.fails: [0]}}, a: CONFIG}',
    )
    output = run(code=1)
    assert 'ValueError: the reason' in output
    assert str(tmp_path / 'out/cells/bad/seed0/train.log') in output
    assert output.strip().splitlines()[-1] == 'Failed: bad, seed 0'
    assert '| a | 80.50 | 0.71 | +0.00 | n/a | 80.00, 81.00 |' in output
    assert 'failed' in run('--list').splitlines()[0]
    run(code=1)
    assert [line[:2] for line in journal(tmp_path / 'tools')][4:] == [['bad', '0']]


@pytest.mark.slow
def test_control_c_ends_trainings_and_keeps_what_is_finished(tmp_path, run, monkeypatch):
    # As in the other process: cells are known by their config's text (see conftest).
    monkeypatch.setattr('mmengine.config.config.FormatCode', yapf_api.FormatCode)
    write_study(
        tmp_path,
        'seeds: [0, 1]\nrows: {a: CONFIG, b: {config: CONFIG, options: {behaviour.waits: [0]}}}',
    )
    command = [sys.executable, '-c', WITH_STUB, write_tools(tmp_path / 'tools')]
    process = subprocess.Popen(
        [*command, tmp_path / 'mine.yaml', '--out', tmp_path / 'out'],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    while len(journal(tmp_path / 'tools')) < 2:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=900)[0]
    assert process.returncode == 130
    assert 'Traceback' not in output
    assert output.strip().splitlines()[-1] == (
        'Interrupted: 3 of 4 cells are left; the same command goes on'
    )
    out = tmp_path / 'out'
    states = [line.split()[0] for line in run('--list').splitlines()]
    assert states == ['finished', 'interrupted', 'waiting', 'waiting']
    results = json.loads((out / 'results.json').read_text())
    assert results['rows']['a']['values'] == {'0': 80.0}
    assert not any(str(out) in line for line in _commands()), 'the training has ended'


def _commands():
    """Command lines of all processes."""
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            yield path.read_bytes().replace(b'\0', b' ').decode(errors='replace')
        except OSError:
            continue


def test_all_mistakes_are_found_before_the_first_training(tmp_path, run):
    write_study(tmp_path, 'rows: {a: CONFIG, z: {config: CONFIG, options: {behavior.top1: 3}}}')
    output = run(code=1).strip().splitlines()
    assert len(output) == 1
    assert output[0].startswith("ConfigError: z: option 'behavior.top1': ")
    write_study(tmp_path, 'rows: {a: CONFIG}')
    assert "ConfigError: --only: no row or grid 'b'" in run('--only', 'b', code=1)
    assert "ConfigError: --launcher 'sge'" in run('--launcher', 'sge', code=1)
    assert journal(tmp_path / 'tools') == []


@pytest.mark.slow
def test_a_real_study_of_two_rows_and_two_seeds(tool, tmp_path, monkeypatch, capsys):
    data = fashion.write_images(tmp_path / 'data')
    teacher = {'model.teacher.checkpoint': f'{data}/teacher.pth'}
    study = dict(
        seeds=[0, 1],
        options=fashion.overrides(data, epochs=2),
        rows=dict(
            baseline=f'{fashion.CONFIGS}/baseline.py',
            SHD=dict(config=f'{fashion.CONFIGS}/shd_only.py', options=teacher),
        ),
        tables=[dict(title='Small pair', rows=['SHD', 'baseline'], against='baseline')],
    )
    (tmp_path / 'real.yaml').write_text(yaml.safe_dump(study, sort_keys=False))
    out = tmp_path / 'out'
    arguments = [str(tmp_path / 'real.yaml'), '--out', str(out), '--jobs', '2']
    monkeypatch.setattr(sys, 'argv', ['study.py', *arguments])
    tool.main()
    results = json.loads((out / 'results.json').read_text())
    assert 'processor' in results['environment']
    assert [(cell['row'], cell['seed']) for cell in results['cells']] == [
        ('baseline', 0), ('SHD', 0), ('baseline', 1), ('SHD', 1),
    ]  # fmt: skip
    values = {}
    for name in ('baseline', 'SHD'):
        for seed in (0, 1):
            folder = out / 'cells' / name / f'seed{seed}'
            (log,) = folder.glob('*/vis_data/scalars.json')
            lines = [json.loads(line) for line in log.read_text().splitlines()]
            _, last = [line['accuracy/top1'] for line in lines if 'accuracy/top1' in line]
            values[name, seed] = last
            assert (folder / 'epoch_2.pth').exists()
            assert f'randomness = dict(seed={seed})' in (folder / f'seed{seed}.py').read_text()
    assert 'loss_shd' in (out / 'cells/SHD/seed0/train.log').read_text()
    rows = {name: [values[name, 0], values[name, 1]] for name in ('SHD', 'baseline')}
    assert results['rows']['SHD']['values'] == dict(zip('01', rows['SHD'], strict=True))
    found = results['tables'][0]['differences']['SHD']
    if len({a - b for a, b in zip(*rows.values(), strict=True)}) > 1:
        exact = stats.ttest_rel(*rows.values()).confidence_interval(0.95)
        assert abs(found['low'] - exact.low) < 1e-6 and abs(found['high'] - exact.high) < 1e-6
    text = (out / 'results.md').read_text()
    assert '## Small pair' in text and text in capsys.readouterr().out
