"""Steps of several trainers in turns: as many as were asked, one trainer at a time, whole steps."""

import json
from types import SimpleNamespace

import pytest
import yaml
from lab.language.text import write_models, write_text
from tooling import load_tool, run_tool

from shd_vit.errors import ConfigError
from shd_vit.lab.language.step_time import Turns


class Trainer:
    """Calls back as transformers' does, and tells a shared record of each step."""

    def __init__(self, name, steps, record, fails_at=None):
        self.name, self.steps, self.record, self.fails_at = name, steps, record, fails_at

    def add_callback(self, callback):
        self.callback = callback

    def train(self):
        state = SimpleNamespace(global_step=0)
        for step in range(self.steps):
            self.callback.on_step_begin(None, state, None)
            if step == self.fails_at:
                raise ConfigError('broken')
            self.record.append(self.name)
            state.global_step += 1
            self.callback.on_step_end(None, state, None)


def test_turns_are_taken_one_after_the_other():
    record = []
    turns = [Turns(Trainer(name, 6, record), 2) for name in 'ab']
    for _ in range(3):
        for turn in turns:
            turn()
    assert ''.join(record) == 'aabb' * 3
    for turn in turns:
        turn.join()
    assert [len(turn.seconds) for turn in turns] == [6, 6]


def test_an_error_of_a_trainer_is_that_of_its_turn():
    record = []
    turn = Turns(Trainer('a', 4, record, fails_at=2), 2)
    turn()
    with pytest.raises(ConfigError, match='broken'):
        turn()
    assert record == ['a', 'a']


@pytest.mark.slow
def test_the_tool(tmp_path, monkeypatch, capsys):
    write_text(tmp_path / 'text', speeches=120, novels=83)
    write_models(tmp_path)
    values = dict(
        model=str(tmp_path / 'llama'),
        teachers=[str(tmp_path / 'gpt2')],
        text=dict(folder=str(tmp_path / 'text'), length=8),
        losses=dict(kd=dict(reduction='sequences')),
        arguments=dict(output_dir=str(tmp_path / 'out'), per_device_train_batch_size=4),
    )
    values['arguments']['use_cpu'] = True
    config = tmp_path / 'a.yaml'
    config.write_text(yaml.safe_dump(values))
    rows = f'KD={config}', f'+ FD={config} losses.fd=true'
    out = tmp_path / 'times.json'
    short = '--steps', 1, '--rounds', 2, '--json', out
    run_tool('analysis/lm_step_time', monkeypatch, *rows, *short)
    found = json.loads(out.read_text())['step_time']
    assert list(found) == ['KD', '+ FD'] and found['KD']['ratio'] == 1
    student = json.loads((tmp_path / 'llama/config.json').read_text())['hidden_size']
    teacher = json.loads((tmp_path / 'gpt2/config.json').read_text())['n_embd']
    # A Linear from one width to the other, with biases, for each of the student's layers.
    depth = json.loads((tmp_path / 'llama/config.json').read_text())['num_hidden_layers']
    assert found['+ FD']['loss_parameters'] == depth * (student + 1) * teacher
    assert found['KD']['loss_parameters'] == 0
    assert all(r['seconds'] >= r['fastest'] > 0 for r in found.values())
    assert '+ FD' in capsys.readouterr().out
    assert not (tmp_path / 'out').exists(), 'nothing is written where the training would write'
    tool = load_tool('analysis/lm_step_time')
    for text in ('KD', '=a.yaml', 'KD='):
        with pytest.raises(ConfigError, match='expected NAME=CONFIG'):
            tool.read_training(text)
