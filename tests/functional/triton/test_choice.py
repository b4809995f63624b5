"""The kernels are compared with plain torch before they are used, and left where they fail."""

import logging

import pytest
import torch
from torch.testing import assert_close

from shd_vit.functional import Mask, shd_loss, weigh_constant
from shd_vit.functional.triton import choice

NAME = choice.__name__


def call(dtype=torch.float32, N=6, B=2, **options):
    student = [torch.randn(B, 1, N, 4, dtype=dtype).requires_grad_() for _ in range(2)]
    teacher = [torch.randn(B, 2, N, 4, dtype=dtype) for _ in range(3)]
    names = ('query', 'key', 'teacher_query', 'teacher_key', 'value')
    given = dict(zip(names, [*student, *teacher], strict=True))
    rest = dict(
        out_proj=torch.randn(3, 8), scale=0.5, teacher_scale=0.5, temperature=1.0, sizes=(2,),
        weigh=weigh_constant, distance='kl', bias=None, teacher_bias=None, mask=Mask(),
        teacher_mask=Mask(),
    )  # fmt: skip
    return {**given, **rest, **options}


TIMED = choice._time


@pytest.fixture
def forgotten(monkeypatch):
    """Nothing has been found out yet, and a CPU will do."""
    monkeypatch.setattr(choice, '_errors', {})
    monkeypatch.setattr(choice, '_fastest', {})
    monkeypatch.setattr(choice, '_warned', set())
    monkeypatch.setattr(choice, '_unavailable', lambda device, backend: None)
    monkeypatch.setattr(choice, '_time', lambda call, entry: 'triton')


def with_kernels(monkeypatch, kernels):
    """An entry whose kernels are these; and the calls to each backend."""
    used = []

    def entry(backend, **given):
        used.append(backend)
        loss = shd_loss(**given, backend='torch')
        return kernels(loss) if backend == 'triton' else loss

    return entry, used


def test_what_agrees_is_used_and_compared_once(forgotten, monkeypatch):
    entry, used = with_kernels(monkeypatch, lambda loss: loss)
    assert choice.choose('auto', call(), entry) == 'triton'
    assert used == ['torch', 'triton']
    assert (
        choice.choose('auto', call(), entry) == choice.choose('triton', call(), entry) == 'triton'
    )
    assert used == ['torch', 'triton']
    choice.choose('auto', call(N=17), entry)  # another class of shapes
    assert used == ['torch', 'triton'] * 2


def broken(loss):
    raise RuntimeError('no ptxas\nhere')


@pytest.mark.parametrize(
    'kernels, message',
    [
        (lambda loss: 1.001 * loss, 'the loss differs by 1.0e-03 from plain torch'),
        (lambda loss: loss.detach() + 0.9 * (loss - loss.detach()), 'gradient of the queries diff'),
        (lambda loss: loss * float('nan'), 'the loss differs by nan'),
        (broken, 'RuntimeError: no ptxas$'),
    ],
)
def test_what_does_not_agree_is_left_with_one_warning(
    kernels, message, forgotten, monkeypatch, caplog
):
    entry, used = with_kernels(monkeypatch, kernels)
    with caplog.at_level(logging.WARNING, NAME):
        for _ in range(2):
            assert choice.choose('auto', call(), entry) == 'auto'
    assert used == ['torch', 'triton']
    assert len(caplog.records) == 1
    with pytest.raises(RuntimeError, match=message):
        choice.choose('triton', call(), entry)


def test_a_batch_that_shows_nothing_decides_nothing(forgotten, monkeypatch):
    entry, _ = with_kernels(monkeypatch, lambda loss: loss)
    same = call()
    with torch.no_grad():  # maps of a student that has learned all: no gradient
        for name in ('query', 'teacher_query'):
            same[name].zero_()
    assert choice.choose('auto', same, entry) == 'auto'
    assert not choice._errors
    assert choice.choose('auto', call(), entry) == 'triton'


@pytest.mark.parametrize(
    'options, reason',
    [
        (dict(dtype=torch.float64), 'query is torch.float64: expected float32, float16 or bfl'),
        (dict(bias=torch.zeros(6, 6).requires_grad_()), 'a bias that asks for a gradient'),
        (dict(query=torch.randn(2, 1, 6, 129)), 'heads of query are 129 wide: at most 128'),
    ],
)
def test_what_they_do_not_take_is_refused_by_name(options, reason, forgotten):
    assert choice.choose('auto', call(**options), shd_loss) == 'auto'
    with pytest.raises(ValueError, match=rf"backend='triton': {reason}"):
        choice.choose('triton', call(**options), shd_loss)


def test_without_a_gpu_or_triton(monkeypatch):
    cpu = torch.device('cpu')
    assert 'need a GPU, tensors are on cpu' in choice._unavailable(cpu, 'auto')
    monkeypatch.setitem(__import__('sys').modules, 'triton', None)
    assert 'Triton cannot be imported' in choice._unavailable(torch.device('cuda'), 'auto')
    monkeypatch.setenv('TRITON_INTERPRET', '0')
    with pytest.raises(ValueError, match="backend='triton': the kernels need a GPU"):
        shd_loss(**call(), backend='triton')


@pytest.mark.parametrize('left', [True, False])
def test_the_part_that_is_compared_is_that_of_the_most_tokens(left, monkeypatch):
    monkeypatch.setattr(choice, 'TOKENS', 3)
    padding = torch.ones(3, 6, dtype=torch.bool)
    padding[0] = False
    padding[1, slice(0, 3) if left else slice(3, 6)] = False
    padding[2, slice(0, 2) if left else slice(4, 6)] = False
    whole = call(B=3, mask=Mask(padding=padding), bias=torch.randn(3, 1, 6, 6))
    part = choice.part_of(whole)
    run = slice(3, 6) if left else slice(0, 3)
    assert_close(part['query'], whole['query'].detach()[[2, 1]][:, :, run])
    assert_close(part['value'], whole['value'][[2, 1]][:, :, run])
    assert_close(part['bias'], whole['bias'][[2, 1]][..., run, run])
    assert torch.equal(part['mask'].padding, padding[[2, 1]][:, run])


def test_the_part_of_queries_after_a_prefix_has_its_keys(monkeypatch):
    monkeypatch.setattr(choice, 'TOKENS', 3)
    mask = Mask(is_causal=True, offset=2)
    whole = call(N=6, mask=mask, teacher_mask=mask)
    for name in ('query', 'teacher_query'):
        whole[name] = whole[name][:, :, :4]
    part = choice.part_of(whole)
    assert part['query'].shape[2] == 3 and part['key'].shape[2] == part['value'].shape[2] == 5
    shd_loss(**part, backend='torch')


@pytest.mark.parametrize('times', [dict(triton=1.0, torch=2.0), dict(triton=2.0, torch=1.0)])
def test_the_faster_stays(times, forgotten, monkeypatch, caplog):
    timed = []

    def milliseconds(entry, call, backend):
        timed.append(backend)
        return times[backend]

    monkeypatch.setattr(choice, '_time', TIMED)
    monkeypatch.setattr(choice, '_milliseconds', milliseconds)
    monkeypatch.setattr(choice, 'compiler_error', lambda device_type: 'there is none')
    entry, _ = with_kernels(monkeypatch, lambda loss: loss)
    fastest = min(times, key=times.get)
    with caplog.at_level(logging.INFO, NAME):
        for _ in range(2):
            chosen = choice.choose('auto', call(), entry)
            assert chosen == ('triton' if fastest == 'triton' else 'auto')
    assert timed == ['triton', 'torch']
    assert f'(2, 1, 6) runs by {fastest}: triton {times["triton"]:.2f} ms' in caplog.text


@pytest.mark.gpu
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_a_gpu_runs_them_and_says_so(dtype, forgotten, monkeypatch, caplog):
    monkeypatch.setattr(choice, '_time', TIMED)
    given = {
        k: v.detach().cuda().requires_grad_(v.requires_grad) if torch.is_tensor(v) else v
        for k, v in call(dtype, N=300, B=3).items()
    }
    with caplog.at_level(logging.INFO, NAME):
        loss = shd_loss(**given)
    assert 'runs by' in caplog.text and 'without' not in caplog.text
    assert_close(loss, shd_loss(**given, backend='torch'), rtol=choice.tolerance(given), atol=1e-6)
