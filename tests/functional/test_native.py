"""The C++ kernel against the slow loops of references.py, in float64."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
import references
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from shd_vit.functional import gram_matrix, native
from shd_vit.losses import ModelOutput, SHDLoss
from shd_vit.taps import AttentionTap

HERE = Path(__file__).parent


@pytest.fixture(scope='module', autouse=True)
def _kernel():
    if error := native.kernel_error():
        pytest.skip(f'the kernel cannot be built here: {error}')


def taps(heads=(2, 4), B=2, N=5, D=4, teacher_widths=(4, 4), sharpness=1.0):
    """Views of joint projections (B, N, ...), as models make them: student, teacher."""

    def heads_of(width, number):
        return (sharpness * torch.randn(B, N, number, width)).transpose(1, 2)

    Hs, Ht = heads
    Dt, Dv = teacher_widths
    qkv = torch.randn(B, N, 3, Hs, D)
    q, k, v = (x.transpose(1, 2).requires_grad_() for x in qkv.unbind(2))
    student = AttentionTap(q, k, v, torch.randn(3, Hs * D), 0.6)
    t_q, t_k = heads_of(Dt, Ht), heads_of(Dt, Ht)
    return student, AttentionTap(t_q, t_k, heads_of(Dv, Ht), torch.randn(7, Ht * Dv), 0.4)


def from_kernel(student, teacher, temperature=1.0):
    gram = gram_matrix(teacher.out_proj)
    return native.squeezed_kl(
        *student[:2], *teacher[:3], gram, student.scale, teacher.scale, temperature
    )


def exact(student, teacher, temperature=1.0):
    """Loss by the loops, gradients by autograd through plain operations, all in float64."""
    maps = references.softmax_maps(teacher.q, teacher.k, teacher.scale, temperature)
    target, _ = references.squeeze_heads(maps, teacher.v, teacher.out_proj, student.q.shape[1])
    loss = references.attention_kl(student.q, student.k, target, student.scale, temperature)
    q, k = (x.detach().double().requires_grad_() for x in student[:2])
    log_p = (q @ k.mT * student.scale / temperature).log_softmax(-1)
    rows = q.shape[0] * q.shape[2]
    return loss.detach(), torch.autograd.grad(-(target * log_p).sum() / rows, (q, k))


def check_exact(student, teacher, temperature=1.0):
    loss = from_kernel(student, teacher, temperature)
    gradients = torch.autograd.grad(loss, student[:2])
    expected, expected_gradients = exact(student, teacher, temperature)
    assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert (gradient.double() - wanted).norm() <= 1e-5 * wanted.norm() + 1e-7


@settings(max_examples=60, deadline=None)
@given(
    heads=st.tuples(st.integers(1, 5), st.integers(0, 8)).map(lambda h: (h[0], h[0] + h[1])),
    N=st.integers(2, 9),  # one token makes equal maps, which the loops divide by 0 for
    D=st.integers(1, 6),
    teacher_widths=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    temperature=st.sampled_from([0.5, 1.0, 4.0]),
)
def test_any_heads_tokens_and_widths(heads, N, D, teacher_widths, temperature):
    torch.manual_seed(N)
    check_exact(*taps(heads, 2, N, D, teacher_widths), temperature)


# One more and one less than the lanes of a vector; groups of unequal sizes.
@pytest.mark.parametrize('heads', [(3, 6), (2, 7), (1, 5)])
@pytest.mark.parametrize('N, D', [(15, 17), (16, 16), (17, 33), (33, 8)])
def test_whole_vectors_and_what_is_left_of_them(heads, N, D):
    check_exact(*taps(heads, 1, N, D, (D, 2)), 0.7)


def test_heads_that_are_alike_share_their_map():
    student, teacher = taps()
    q, k, v = (x[:, :1].expand(-1, 4, -1, -1) for x in teacher[:3])
    alike = teacher._replace(q=q, k=k, v=v)
    two = AttentionTap(*(x[:, :2] for x in (q, k, v)), teacher.out_proj[:, :8], teacher.scale)
    assert_close(from_kernel(student, alike).double(), exact(student, two)[0], rtol=1e-5, atol=0)


def test_tensors_of_any_strides():
    student, teacher = taps()
    value = from_kernel(student, teacher)
    as_columns = [x.mT.contiguous().mT for x in (*student[:2], *teacher[:3])]
    contiguous = [x.contiguous() for x in (*student[:2], *teacher[:3])]
    for q, k, *others in (as_columns, contiguous):
        other = from_kernel(
            student._replace(q=q, k=k), AttentionTap(*others, teacher.out_proj, teacher.scale)
        )
        assert_close(other, value, rtol=1e-6, atol=0)


def test_any_number_of_threads():
    student, teacher = taps((3, 6), B=3, N=19, D=8)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        loss = from_kernel(student, teacher)
        results.append((loss, *torch.autograd.grad(loss, student[:2])))
    torch.set_num_threads(1)
    for result in results[1:]:
        assert_close(result, results[0], rtol=1e-6, atol=1e-8)


def test_gradients_may_be_asked_for_twice():
    student, teacher = taps()
    loss = from_kernel(student, teacher)
    first = torch.autograd.grad(3 * loss, student[:2], retain_graph=True)
    second = torch.autograd.grad(loss, student[:2])
    assert_close([x / 3 for x in first], list(second))


@pytest.mark.parametrize('whose', [0, 1])
@pytest.mark.parametrize('part', ['q', 'k'])
def test_what_is_not_a_number_shows(whose, part):
    pair = taps()
    with torch.no_grad():
        getattr(pair[whose], part)[0, 0, 0, 0] = float('nan')
    assert from_kernel(*pair).isnan()


def test_backward_keeps_two_gradients_and_nothing_else():
    student, teacher = taps((3, 6), B=3, N=19, D=8)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda x: x):
        from_kernel(student, teacher)
    assert sum(x.nbytes for x in kept) == student.q.nbytes + student.k.nbytes


def test_wrong_shapes_and_types_are_refused():
    student, teacher = taps()
    few, _ = taps((5, 5))
    short, _ = taps(N=4)
    for wrong in (student._replace(k=student.k[:, :1]), few, short):
        with pytest.raises(ValueError, match='shapes of squeezed_kl'):
            from_kernel(wrong, teacher)
    with pytest.raises(ValueError, match='shapes of squeezed_kl'):
        from_kernel(student, teacher._replace(out_proj=teacher.out_proj[:, 1:]))
    with pytest.raises(ValueError, match='float32'):
        from_kernel(student._replace(q=student.q.double()), teacher)
    with pytest.raises(ValueError, match='temperature'):
        from_kernel(student, teacher, 0.0)


def test_the_loss_takes_the_kernel_where_it_can(monkeypatch):
    calls, kernel = [], native._kernel()

    def counted(*args):
        calls.append(args)
        return kernel(*args)

    monkeypatch.setattr(native, '_kernel', lambda: counted)

    student, teacher = taps((2, 4), N=6)
    mask = torch.zeros(6, 6).masked_fill(~torch.ones(6, 6).tril().bool(), float('-inf'))
    half = [tap._replace(**{x: getattr(tap, x).bfloat16() for x in 'qkv'}) for tap in taps()]
    masked = [tap._replace(bias=mask) for tap in (student, teacher)]

    def value(pair, **options):
        loss = SHDLoss(**options)
        loss.pairs = [(1, 1)]
        return loss(*(ModelOutput(None, {1: tap}, {}) for tap in pair), None)

    for options in (dict(), dict(temperature=2.0), dict(beta=0.3)):
        assert_close(
            value((student, teacher), **options),
            value((student, teacher), compile=False, **options),
            rtol=1e-5,
            atol=1e-7,
        )
    assert len(calls) == 3
    for pair, options in (
        ((student, teacher), dict(distance='mse')),
        ((student, teacher), dict(strategy='constant')),
        ((student, teacher), dict(strategy='simplex')),
        (masked, {}),
        (half, {}),
        ([tap._replace(**{x: getattr(tap, x).double() for x in 'qkv'}) for tap in taps()], {}),
    ):
        assert value(pair, **options).isfinite()
    assert len(calls) == 3


def test_without_a_compiler_the_loss_is_as_before(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv('CXX', '/no/compiler')
    monkeypatch.setenv('TORCH_EXTENSIONS_DIR', str(tmp_path))
    student, teacher = taps()
    outputs = [ModelOutput(None, {1: tap}, {}) for tap in (student, teacher)]
    kernel = from_kernel(student, teacher)
    for cached in (native._kernel, native.kernel_error):
        cached.cache_clear()
    try:
        loss = SHDLoss()
        loss.pairs = [(1, 1)]
        values = [loss(*outputs, None) for _ in range(2)]
        with pytest.raises(OSError, match='/no/compiler'):
            from_kernel(student, teacher)
    finally:
        native.kernel_error.cache_clear()
    assert_close(values, [kernel] * 2, rtol=1e-5, atol=1e-7)
    (said,) = (r.getMessage() for r in caplog.records if r.levelname == 'WARNING')
    assert '/no/compiler' in said
    assert not list(tmp_path.rglob('*.so'))


def test_an_error_of_the_compiler_is_passed_on(monkeypatch, tmp_path):
    broken = tmp_path / 'broken.cpp'
    broken.write_text('int main() { return nothing; }')
    monkeypatch.setattr(native, 'SOURCE', broken)
    monkeypatch.setenv('TORCH_EXTENSIONS_DIR', str(tmp_path))
    with pytest.raises(RuntimeError, match=r'error: .nothing. was not declared'):
        native._build()
    assert not list(tmp_path.rglob('*.so'))


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """Sources that a stand-in for the compiler copies; how often it was called."""
    calls = tmp_path / 'calls'
    compiler = tmp_path / 'compiler'
    compiler.write_text(
        f'#!/bin/sh\necho x >> {calls}\n'
        'while [ "$1" != -o ]; do case $1 in *.cpp) source=$1;; esac; shift; done\n'
        'cp "$source" "$2"\n'
    )
    compiler.chmod(0o700)
    monkeypatch.setenv('CXX', str(compiler))
    monkeypatch.setenv('TORCH_EXTENSIONS_DIR', str(tmp_path / 'cache'))
    return lambda: len(calls.read_text().split())


def test_a_damaged_library_is_built_anew(compiled):
    library = native._build()
    whole = library.read_bytes()
    assert whole == native.SOURCE.read_bytes()
    assert native._build() == library and compiled() == 1
    damage = (
        lambda: library.write_bytes(whole[:1000]),
        lambda: library.write_bytes(b'planted'),
        lambda: library.with_suffix('.sha256').write_text(''),
        lambda: library.with_suffix('.sha256').unlink(),
        library.unlink,
    )
    for count, spoil in enumerate(damage, start=2):
        spoil()
        assert native._build() == library and compiled() == count
        assert library.read_bytes() == whole
    assert native._build() == library and compiled() == count
    assert len(list(library.parent.iterdir())) == 2


def test_what_others_can_write_is_not_used(compiled, tmp_path, monkeypatch):
    library = native._build()
    folder, above = library.parent, library.parent.parent
    # What is made is its user's alone, whatever the umask.
    assert {path.stat().st_mode & 0o77 for path in (library, folder, above)} == {0}
    digest = library.with_suffix('.sha256')
    for path, modes in (
        (library, [0o722, 0o720]),
        (digest, [0o620]),
        (folder, [0o777, 0o1777, 0o770]),
        (above, [0o777, 0o770]),
    ):
        for mode in modes:
            path.chmod(mode)
            with pytest.raises(PermissionError, match=f'{path} can be written by others: chmod'):
                native._build()
            path.chmod(0o700)
    above.chmod(0o1777)  # as /tmp: others cannot rename what they do not own
    assert native._build() == library
    planted = library.rename(tmp_path / 'elsewhere.so')
    library.symlink_to(planted)
    with pytest.raises(PermissionError, match='can be written by others'):
        native._build()
    library.unlink()
    native._build()
    monkeypatch.setattr(os, 'getuid', lambda: 4321)
    with pytest.raises(PermissionError, match='can be written by others'):
        native._build()


def nobody(*_):
    raise KeyError('uid not found')


@pytest.mark.parametrize('fault', ['others', 'home', 'silent'])
def test_one_warning_and_no_kernel(fault, compiled, tmp_path, monkeypatch, caplog):
    wanted = 'home directory'
    if fault == 'others':
        (tmp_path / 'cache').mkdir()
        (tmp_path / 'cache').chmod(0o777)
        wanted = 'can be written by others'
    elif fault == 'home':
        monkeypatch.delenv('TORCH_EXTENSIONS_DIR')
        monkeypatch.delenv('HOME', raising=False)
        monkeypatch.setattr(pwd, 'getpwuid', nobody)
    else:  # an error without a word
        monkeypatch.setattr(native, '_build', lambda: (_ for _ in ()).throw(RuntimeError))
        wanted = 'RuntimeError'
    caches = native._kernel, native.kernel_error
    for cached in caches:
        cached.cache_clear()
    try:
        assert wanted in native.kernel_error()
        assert wanted in native.kernel_error()
    finally:
        for cached in caches:
            cached.cache_clear()
    (said,) = (r.getMessage() for r in caplog.records if r.levelname == 'WARNING')
    assert wanted in said


@pytest.mark.slow
@pytest.mark.parametrize('capability', ['avx2', 'default'])
def test_on_other_processors(capability, tmp_path):
    """As torch treats a processor without the vectors that this one may have."""
    code = (
        'import sys, torch; sys.path[:0] = sys.argv[1:]\n'
        'import test_native as t\n'
        'from shd_vit.functional import native\n'
        't.check_exact(*t.taps((2, 7), 1, 33, 17, (8, 5)))\n'
        'print(torch.backends.cpu.get_cpu_capability())'
    )
    env = dict(
        os.environ, ATEN_CPU_CAPABILITY=capability, TORCH_EXTENSIONS_DIR=str(tmp_path),
        PYTHONPATH=str(HERE.parents[1]),
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, '-c', code, str(HERE), str(HERE.parent)],
        env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == capability.upper()
    assert len(list(tmp_path.rglob('*.so'))) == 1
