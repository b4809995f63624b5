"""What docs/lm_evaluation.md says."""

import json
import re
import shlex
from pathlib import Path

import pytest
from tooling import run_tool

from shd_vit.data.text.task_sources import SOURCES
from shd_vit.lab.language import commands, generation_command

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / 'docs/lm_evaluation.md').read_text()
COMMANDS = re.findall(r'^python tools/lm_eval\.py ((?:.*\\\n)*.*)$', PAGE, re.MULTILINE)


@pytest.mark.parametrize('command', COMMANDS)
def test_commands_are_understood(command, monkeypatch):
    called = []
    for module, name in (
        (commands, 'perplexity'),
        (commands, 'tuning'),
        (generation_command, 'generate'),
    ):
        monkeypatch.setattr(module, name, called.append)
    run_tool('lm_eval', monkeypatch, *shlex.split(command))
    assert len(called) == 1 and called[0].models[0] == 'teacher=work_dirs/teacher'


def test_there_is_one_of_each():
    assert [command.split()[0] for command in COMMANDS] == ['perplexity', 'tune', 'generate']
    for name, source in SOURCES.items():
        assert f'| `{name}` |' in PAGE and source.package.version in PAGE


def test_what_is_said_of_alphas_is_what_was_counted():
    found = json.loads((ROOT / 'docs/results/alpha_smollm2.json').read_text())
    outside = [row for row in found['pairs'] if row['outside']]
    assert {(row['layer'], row['pair']) for row in outside} == {(24, '3+4'), (1, '(1+2)+(3+4)')}
    assert f'{found["alphas"]:,} raw alphas {round(found["alphas"] * found["outside"])} ' in PAGE
    near = sum(0.35 <= row['median'] <= 0.65 for row in found['pairs'])
    assert f'{len(found["pairs"])} merges {near} have' in ' '.join(PAGE.split())
    assert found['tokens'] == 196 * 512
