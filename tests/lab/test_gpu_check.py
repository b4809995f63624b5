"""The check of a GPU where there is none, and its verdicts."""

import torch

from shd_vit.lab.gpu import Goal, goal_table, suites


def test_a_goal_is_met_at_its_limit_and_not_by_what_is_no_number():
    assert Goal('time', 1.1, 1.1).is_met
    assert not Goal('time', 1.101, 1.1).is_met
    assert not Goal('time', float('nan'), 1.1).is_met
    _, rows = goal_table([Goal('time', 1.2, 1.1), Goal('peak', 1.0, 1.15)])
    assert [row[-1] for row in rows[1:]] == ['MISSED', 'met']


def test_without_a_gpu_something_is_wrong(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert suites.versions().wrong == ('torch sees no CUDA GPU',)


def test_what_is_not_installed_is_said_and_not_wrong(monkeypatch):
    monkeypatch.setattr(suites, 'find_spec', lambda name: None)
    outcome = suites.loader()
    assert not outcome.wrong
    assert 'ffcv, mmpretrain not installed' in outcome.tables[0][1][1][0]
