"""docs/instruction_tuning.md: its script runs as it is written, its table has all settings."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from hosts.transformers.lm import gpt2, llama
from transformers import AutoModelForCausalLM

trl = pytest.importorskip('trl')

from hosts.transformers.test_trl import tokenizer  # noqa: E402

from shd_vit.hosts.transformers import MiniLLMConfig  # noqa: E402

PAGE = (Path(__file__).parents[4] / 'docs/instruction_tuning.md').read_text()
SCRIPT = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)[0]


def test_the_script_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, model in (('teacher', gpt2()), ('start', llama())):
        model.save_pretrained(name)
        tokenizer().save_pretrained(name)
    prompts = [f'w{n} w{n + 1}' for n in range(8)]
    names = dict(TEACHER='teacher', STUDENT='start', prompts=prompts)
    short = SCRIPT.replace("'output',", "'output', use_cpu=True,")
    exec(short.replace('max_completion_length=64', 'max_completion_length=4'), names)
    assert AutoModelForCausalLM.from_pretrained('student').config.model_type == 'llama'
    assert [row for row in names['trainer'].state.log_history if 'train_loss' in row]


def test_every_setting_is_in_the_table():
    known = {f.name for f in fields(trl.DistillationConfig)}
    own = {f.name for f in fields(MiniLLMConfig)} - known
    table = PAGE[PAGE.index('| setting |') : PAGE.index('The log has')]
    assert own == set(re.findall(r'`([a-z_]+)`', table)) & own
    defaults = MiniLLMConfig('x', use_cpu=True, bf16=False)
    for name in ('gamma', 'reward_scale', 'epsilon', 'teacher_mix', 'kd_ratio', 'num_iterations'):
        row = next(line for line in table.splitlines() if f'`{name}`' in line)
        assert f'{getattr(defaults, name):g}' in row
