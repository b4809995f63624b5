"""The benchmark of language models: its steps train, and its figures are shown."""

import pytest
import torch

from shd_vit.errors import ConfigError
from shd_vit.lab import language_step


def test_pair_is_as_the_table_says():
    made = language_step.teacher(), language_step.student()
    sizes = [sum(p.numel() for p in model.parameters()) for model in made]
    assert 4.5e6 < sizes[0] < 5.5e6 and 1e6 < sizes[1] < 2e6
    assert [model.config.num_attention_heads for model in made] == [8, 4]
    assert all(len(language_step.batch_of(n)['labels'].flatten()) == 2048 for n in (128, 512))


def test_a_step_trains_with_the_terms_of_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(language_step, 'TOKENS', {16: 1})
    monkeypatch.setitem(language_step.LOSSES, 'KD + SHD', dict(kd=True, shd=dict(backend='torch')))
    for name, terms in {'KD': ['kd'], 'KD + SHD': ['kd', 'shd']}.items():
        step = language_step.Step(name, 16, tmp_path)
        assert list(step.trainer.distillation.losses) == terms
        before = step.trainer.model.lm_head.weight.detach().clone()
        step()
        assert not torch.equal(step.trainer.model.lm_head.weight, before)
        assert step.trainer.model.lm_head.weight.grad is None


def test_table():
    results = {
        f'{name}, 128 tokens': dict(seconds=0.5, fastest=0.4, ratio=1.1, peak_mib=80)
        for name in language_step.LOSSES
    }
    ((_, rows),) = language_step.table(results)
    assert rows[2] == ['KD + SHD, 128 tokens', '0.500', '1.100', '80 MiB']


def test_peaks_of_other_losses_are_refused():
    with pytest.raises(ConfigError, match='allowed are KD, KD'):
        language_step.peak_of('ViTKD', 128)
