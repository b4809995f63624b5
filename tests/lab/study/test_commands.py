"""Cells that are command lines with a metrics file: of any host, or of none."""

import json

import pytest
from lab.study.test_run import Watcher

from shd_vit.errors import ConfigError
from shd_vit.lab.records import read_records
from shd_vit.lab.study.jobs import make_cells
from shd_vit.lab.study.launch import Launcher
from shd_vit.lab.study.plan import read_study
from shd_vit.lab.study.processes import run_cells
from shd_vit.lab.study.results import results

# Stands for a host's script: trains three epochs, fails once at the second if it is told so, writes
# timm's summary.csv, and goes on from a checkpoint.
HOST = """
import argparse, csv, json, os, sys
parser = argparse.ArgumentParser()
parser.add_argument('--seed', type=int)
parser.add_argument('--out')
parser.add_argument('--beta', type=float, default=0.0)
parser.add_argument('--resume')
parser.add_argument('--falls', action='store_true')
parser.add_argument('--nothing', action='store_true')
args, more = parser.parse_known_args()
os.makedirs(f'{args.out}/run', exist_ok=True)
with open(f'{args.out}/journal', 'a') as journal:
    journal.write(json.dumps(sys.argv[1:]) + chr(10))
start = int(open(args.resume).read()) if args.resume else 0
path = f'{args.out}/run/summary.csv'
for epoch in range(start, 0 if args.nothing else 3):
    fresh = not os.path.exists(path)
    with open(path, 'a') as file:
        rows = csv.DictWriter(file, ['epoch', 'train_loss', 'eval_top1', 'lr'])
        if fresh:
            rows.writeheader()
        top1 = 70 + args.seed + args.beta + (10 if epoch < 2 else 0)
        rows.writerow(dict(epoch=epoch, train_loss=1.5, eval_top1=top1, lr=0.1))
    open(f'{args.out}/run/last.pth.tar', 'w').write(str(epoch + 1))
    if args.falls and epoch == 1 and not args.resume:
        sys.exit('fell')
"""
STUDY = """
seeds: [0, 2]
metric: eval_top1
command: python HOST --seed {seed} --out {out} {more}
metrics: run/summary.csv
options: {more: []}
rows:
  plain:
  two words: {options: {more: [--beta, 0.5]}}
grids:
  beta:
    command: [python, HOST, --seed, "{seed}", "--out={out}", --beta, "{beta}", "{more}"]
    options: {beta: [1, 2e-1], more: [[]]}
"""


@pytest.fixture
def study(tmp_path):
    (tmp_path / 'host.py').write_text(HOST)

    def study(text=STUDY):
        (tmp_path / 'mine.yaml').write_text(text.replace('HOST', str(tmp_path / 'host.py')))
        return read_study(tmp_path / 'mine.yaml')

    return study


@pytest.fixture
def run(study, tmp_path):
    """Runs all cells of a study that are not finished."""

    def run(text=STUDY, jobs=2):
        launcher = Launcher('none', jobs, 'no tools')
        cells = make_cells(study(text), tmp_path / 'out', launcher)
        watcher = Watcher('eval_top1')
        run_cells([c for c in cells if c.state != 'finished'], launcher, watcher, tmp_path / 'out')
        return watcher, cells

    return run


def journal(cell):
    lines = (cell.folder / 'journal').read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_commands_are_run_and_their_last_metrics_kept(run, study):
    watcher, cells = run()
    assert watcher.reasons == {}
    assert watcher.results == {
        f'{name}, seed {seed}': 70 + seed + beta
        for name, beta in (
            ('plain', 0), ('two words', 0.5),
            ('beta/beta=1,more=[]', 1), ('beta/beta=0.2,more=[]', 0.2),
        )
        for seed in (0, 2)
    }  # fmt: skip
    (words,) = journal(cells[1])
    assert words == ['--seed', '0', '--out', str(cells[1].folder), '--beta', '0.5']
    values = results(study(), [cell.result() for cell in cells])
    assert values['rows']['plain']['mean'] == 71
    result = cells[0].result()
    assert result['metrics'] == {'train_loss': 1.5, 'eval_top1': 70.0}
    assert result['step'] == 2 and result['command'][-1] == '{more}'
    assert run()[0].results == {}, 'nothing is trained twice'


ONE = 'metric: eval_top1\nmetrics: run/summary.csv\nrows: {a: }\ncommand: python HOST --out {out} '


def test_changed_commands_are_known(run, study, tmp_path):
    run(ONE + '--seed 1')
    (cell,) = make_cells(study(ONE + '--seed 2'), tmp_path / 'out', Launcher('none', 1, ''))
    assert cell.state == 'changed'


@pytest.mark.parametrize('resume', [True, False])
def test_an_attempt_goes_on_or_starts_anew(run, resume):
    text = ONE + '--seed 0 --falls\n'
    if resume:
        text += 'resume: --resume {out}/run/last.pth.tar\n'
    watcher, (cell,) = run(text)
    assert 'ended with code 1' in watcher.reasons['a, seed 0']
    watcher, (cell,) = run(text)
    first, second = journal(cell)
    assert '--resume' not in first
    records = read_records(cell.folder, 'run/summary.csv')
    if resume:
        assert watcher.results == {'a, seed 0': 70}
        assert second[-2:] == ['--resume', f'{cell.folder}/run/last.pth.tar']
        assert [record['epoch'] for record in records] == [0, 1, 2]
    else:
        assert watcher.results == {}
        assert [record['epoch'] for record in records] == [0, 1], 'not those of before'


def test_what_an_earlier_attempt_wrote_is_no_result(run, study, tmp_path):
    _, (cell,) = run(ONE + '--seed 0 --falls')
    assert read_records(cell.folder, 'run/summary.csv')
    watcher, _ = run(ONE + '--seed 0 --nothing')
    assert 'without a validation' in watcher.reasons['a, seed 0']


@pytest.mark.parametrize('command', ['no_such_program {out}', '/ {out}'])
def test_a_command_that_cannot_be_started_fails_alone(run, command):
    watcher, cells = run(
        f'metric: eval_top1\nmetrics: run/summary.csv\nrows: {{bad: {{command: "{command}"}}, '
        'good: {command: "python HOST --seed 3 --out {out}"}}'
    )
    assert watcher.results == {'good, seed 0': 73}
    assert 'cannot be started' in watcher.reasons['bad, seed 0']
    assert [cell.state for cell in cells] == ['failed', 'finished']


@pytest.mark.parametrize(
    'text, message',
    [
        ('command: x {out}', r'rows.a: a command needs the metrics file'),
        ('metrics: m.csv', r'rows.a: a command needs the metrics file'),
        ('command: x\nmetrics: m.csv', r'rows.a.command has no \{out\}'),
        ('command: x {out}\nmetrics: m.csv\nseeds: [0, 1]', r'has no \{seed\}'),
        ('command: x {out}\nmetrics: m.csv\noptions: {beta: 1}', r'has no \{beta\}'),
        (
            'command: x {out} {beta}\nmetrics: m.csv',
            r'\{beta\} is none of seed, out, processes',
        ),
        (
            'command: x {out}\nmetrics: m.txt',
            r"metrics='m.txt' must be .* one of .csv, .json, .jsonl",
        ),
        ('command: x {out}\nmetrics: ../m.csv', "in the cell's folder"),
        ('command: x {out}\nmetrics: /m.csv', "in the cell's folder"),
        ('command: "x {out} \'"\nmetrics: m.csv', 'No closing quotation'),
        ('command: x {out}\nmetrics: m.csv\noptions: {out: 1}', 'options: out is set'),
    ],
)
def test_mistakes_are_named(text, message, tmp_path):
    (tmp_path / 'mine.yaml').write_text(f'rows: {{a: }}\n{text}')
    with pytest.raises(ConfigError, match=message) as error:
        read_study(tmp_path / 'mine.yaml')
    assert '\n' not in str(error.value)


def test_a_row_is_a_config_or_a_command(tmp_path):
    path = tmp_path / 'mine.yaml'
    path.write_text('rows: {a: {config: a.py, command: "x {out}", metrics: m.csv}}')
    with pytest.raises(ConfigError, match=r'rows\.a has a config and a command'):
        read_study(path)
    path.write_text('command: x {out}\nmetrics: m.csv\nrows: {a: , b: b.py}')
    rows = read_study(path).rows
    assert rows['a'].command and not rows['b'].command


def test_slurm_is_for_configs(study, tmp_path):
    with pytest.raises(ConfigError, match='plain: --launcher slurm:gpu is for configs'):
        make_cells(study(), tmp_path, Launcher('slurm:gpu', 1, ''))


def test_records_of_all_kinds(tmp_path):
    (tmp_path / 'a.json').write_text('{"top1": 3}')
    (tmp_path / 'b.json').write_text('[{"top1": 3}, 4, {"top1": 5}]')
    (tmp_path / 'c.jsonl').write_text('{"top1": 3}\n{"top1": 4}\n{"to')
    (tmp_path / 'd.json').write_text('{"log_history": [{"eval_loss": 3.5}], "epoch": 3}')
    (tmp_path / 'e.csv').write_text('epoch,top1,note\n0,3.5,x\n1,nan,\n2')
    (tmp_path / 'f.json').write_text('[' * 10**5)
    found = {path.stem: read_records(tmp_path, path.name) for path in tmp_path.iterdir()}
    assert found['a'] == [{'top1': 3}]
    assert found['b'] == [{'top1': 3}, {'top1': 5}]
    assert found['c'] == [{'top1': 3}, {'top1': 4}]
    assert found['d'] == [{'eval_loss': 3.5}]
    assert found['e'][0] == {'epoch': 0, 'top1': 3.5, 'note': 'x'}
    assert found['e'][1]['top1'] != found['e'][1]['top1'] and found['e'][2] == {'epoch': 2}
    assert found['f'] == []
    assert read_records(tmp_path, 'gone/*.csv') == []
