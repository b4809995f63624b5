"""The check of a GPU where there is none, and its verdicts."""

from types import SimpleNamespace

import pytest
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


def test_a_step_is_told_from_its_kernels_and_its_peak(monkeypatch):
    """Every figure of a variant is divided by that of the step without SHD, in its own column."""
    pytest.importorskip('timm.task')
    from shd_vit.lab.gpu import steps

    def cost(shd=None, **losses):
        return (90, 40, 7) if shd else (60, 32, 5)  # milliseconds, of kernels, MiB

    def model(images, labels, dtype, **losses):
        figures = cost(**losses)
        return lambda: figures

    nothing = SimpleNamespace(randn=lambda *size, **kind: 0, randint=lambda *size, **kind: 0)
    monkeypatch.setattr(steps, 'torch', nothing)
    monkeypatch.setattr(steps, '_plain', model)
    monkeypatch.setattr(steps, '_distilled', model)
    monkeypatch.setattr(steps, 'in_turns', lambda s, *a: {n: [f()[0]] * 3 for n, f in s.items()})
    monkeypatch.setattr(steps, 'kernel_milliseconds', lambda step: step()[1])
    monkeypatch.setattr(steps, 'peak_mib', lambda step: step()[2])
    found = steps.measure(256, 3, 'bfloat16')
    assert [goal.value for goal in found.goals] == [1.5, 1.25, 1.4]
    assert [goal.is_met for goal in found.goals] == [False] * 3 and not found.wrong
    (_, rows), _ = found.tables
    assert {len(row) for row in rows} == {8}
    row = next(row for row in rows if row[0] == '+ ViTKD + NKD + SHD, auto')
    assert row[1:] == ['90.00', '1.500', '2,844', '40.00', '1.250', '7', '1.400']


def test_shd_is_held_beside_flash_attention_with_and_without_the_host(monkeypatch):
    pytest.importorskip('triton')
    from shd_vit.lab.gpu import growth

    def runs(batch, tokens, causal, dtype):
        ms = {'flash': (4, 1, 2), 'triton': (12 if tokens == 7 else 8, 3, 5)}
        return {name: lambda own=own: own for name, own in ms.items()}

    monkeypatch.setattr(growth, 'TOKENS', (7, 9))
    monkeypatch.setattr(growth, '_runs', runs)
    monkeypatch.setattr(growth, '_launches', lambda *args: ('short', []))
    for place, name in enumerate(('milliseconds', 'peak_mib', 'kernel_milliseconds')):
        monkeypatch.setattr(growth, name, lambda run, *a, place=place, **k: run()[place])
    found = growth.measure(3)
    assert [(goal.value, goal.is_met) for goal in found.goals] == [(3, False), (2.5, True)] * 2
    _, rows = found.tables[0]
    assert rows[1] == ['7 x 2340', '4.00 ms', '12.00 ms', '3.00', '2.50', '', '', '3', '']
    assert {len(row) for row in rows} == {9}


@pytest.mark.filterwarnings('ignore:invalid value encountered:RuntimeWarning')
def test_short_maps_are_timed_by_whole_rows_and_by_tiles(monkeypatch):
    pytest.importorskip('triton')
    from shd_vit.functional.triton import choice, loss
    from shd_vit.lab.gpu import growth

    def tap(heads, batch, tokens, dtype):
        q, k, v = torch.randn(3, batch, heads, tokens, 64).to(dtype).unbind(0)
        return growth.AttentionTap(q, k, v, torch.randn(heads * 64, heads * 64), 0.125)

    def kernels_of(run):
        launched = []
        with monkeypatch.context() as patched:
            own = loss.launch

            def launch(kernel, *args, **constants):
                launched.append(kernel.fn.__name__)
                own(kernel, *args, **constants)

            patched.setattr(loss, 'launch', launch)
            run()
        return 1.0 if 'loss_and_gradients' in launched else 2.0

    monkeypatch.setattr(choice, '_is_examining', True)
    monkeypatch.setattr(growth, 'SHORT', (5,))
    monkeypatch.setattr(growth, 'MANY', 5)
    monkeypatch.setattr(growth, '_tap', tap)
    monkeypatch.setattr(growth, 'milliseconds', lambda run, rounds: rounds)
    monkeypatch.setattr(growth, 'kernel_milliseconds', kernels_of)
    _, rows = growth._launches(3, torch.float16, wrong := [])
    assert rows[1] == ['5 x 1', '3.00 ms', '1.00 ms', '3.00 ms', '2.00 ms']
    _, rows = growth._launches(3, torch.float32, wrong)
    assert rows[1] == ['5 x 1', '', '', '3.00 ms', '2.00 ms'] and not wrong
    monkeypatch.setattr(growth, '_shd', lambda *args: 1 / 0)
    growth._launches(3, torch.float16, wrong)
    assert wrong == ['triton of 5 tokens: ZeroDivisionError: division by zero'] * 2
