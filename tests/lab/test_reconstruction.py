import json

import fashion
import numpy as np
import pytest
import torch
from scipy.optimize import minimize, nnls
from tooling import run_tool
from torch.testing import assert_close

from shd_vit.functional import attention_maps, squeeze_heads
from shd_vit.lab import reconstruction
from shd_vit.lab.reconstruction import (
    constrained_maps,
    project_on_simplex,
    squared_errors,
    unconstrained_maps,
)
from shd_vit.taps import AttentionTap


def teacher(heads=4, B=2, N=6, D=3, E=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(B, heads, N, D, generator=g, dtype=torch.float64) for _ in range(3))
    out_proj = torch.randn(E, heads * D, generator=g, dtype=torch.float64)
    tap = AttentionTap(3 * q, k, v, out_proj, 0.6)
    return tap, attention_maps(tap.q, tap.k, tap.scale)


def group(tap, maps, b, first, size):
    """S and the target of one group, head by head."""
    D = tap.v.shape[-1]
    x = [tap.v[b, h] @ tap.out_proj[:, h * D : (h + 1) * D].T for h in range(first, first + size)]
    target = sum(maps[b, first + i] @ xi for i, xi in enumerate(x))
    return sum(x), target


def test_errors_are_those_of_eq_6():
    tap, maps = teacher()
    shared = squeeze_heads(maps, tap.v, tap.out_proj, 2).maps
    error, norm = squared_errors(shared, tap, maps)
    for b in range(2):
        pairs = [group(tap, maps, b, first, 2) for first in (0, 2)]
        lost = sum(((shared[b, i] @ s - t) ** 2).sum() for i, (s, t) in enumerate(pairs))
        assert_close(error[b], lost)
        assert_close(norm[b], sum((t**2).sum() for _, t in pairs))


@pytest.mark.parametrize('N', [5, 6, 12])
def test_the_best_matrix_is_that_of_least_squares(N):
    """By numpy's lstsq. It is exact if there are k D = 6 tokens."""
    tap, maps = teacher(N=N)
    best = unconstrained_maps(tap, maps, 2)
    error, norm = squared_errors(best, tap, maps)
    lost = 0.0
    for first in (0, 2):
        s, t = group(tap, maps, 0, first, 2)
        a = np.linalg.lstsq(s.T.numpy(), t.T.numpy(), rcond=None)[0].T
        lost += ((a @ s.numpy() - t.numpy()) ** 2).sum()
    assert error[0].item() == pytest.approx(lost, abs=1e-9)
    assert (lost > 0.01 * norm[0]) == (N < 6)


@pytest.mark.parametrize('heads, left', [(4, 2), (3, 1), (9, 2)])
def test_the_best_map_is_the_one_that_scipy_finds(heads, left):
    """Row by row: non-negative least squares, with a heavy row for the sum of 1."""
    tap, maps = teacher(heads)
    start = squeeze_heads(maps, tap.v, tap.out_proj, left).maps
    best = constrained_maps(tap, maps, start)
    assert (best >= 0).all()
    assert_close(best.sum(-1), torch.ones_like(best[..., 0]))
    error, norm = squared_errors(best, tap, maps)
    sizes = {(4, 2): [2, 2], (3, 1): [3], (9, 2): [8, 1]}[heads, left]
    for b in range(2):
        lost, first = 0.0, 0
        for size in sizes:
            s, t = group(tap, maps, b, first, size)
            system = np.vstack([s.T.numpy(), np.full((1, s.shape[0]), 1e5)])
            for row in t.numpy():
                a = nnls(system, np.append(row, 1e5), maxiter=10000)[0]
                lost += ((a @ s.numpy() - row) ** 2).sum()
            first += size
        assert error[b].item() == pytest.approx(lost, rel=1e-4, abs=2e-6 * norm[b].item())


def test_what_no_steps_can_reach_is_said(monkeypatch):
    tap, maps = teacher()
    monkeypatch.setattr(reconstruction, 'STEPS', 3)
    with pytest.raises(RuntimeError, match='not found in 3 steps'):
        constrained_maps(tap, maps, squeeze_heads(maps, tap.v, tap.out_proj, 2).maps)


def test_projection_is_the_nearest_distribution():
    rows = 2 * torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for row, found in zip(rows.numpy(), project_on_simplex(rows).numpy(), strict=True):
        nearest = minimize(
            lambda w, row=row: ((w - row) ** 2).sum(),
            np.full(6, 1 / 6),
            bounds=[(0, 1)] * 6,
            constraints=dict(type='eq', fun=lambda w: w.sum() - 1),
            tol=1e-12,
        )
        np.testing.assert_allclose(found, nearest.x, atol=1e-5)
    inside = torch.tensor([[0.2, 0.5, 0.3]])
    assert_close(project_on_simplex(inside), inside)


def test_order_of_the_strategies():
    """No map beats the best map, no matrix the best matrix, no weights the simplex's."""
    tap, maps = teacher(heads=8, N=7)
    linear = squeeze_heads(maps, tap.v, tap.out_proj, 2).maps
    errors = [
        squared_errors(shared, tap, maps)[0]
        for shared in (
            unconstrained_maps(tap, maps, 2),
            constrained_maps(tap, maps, linear),
            linear,
        )
    ]
    assert (errors[0] < errors[1]).all() and (errors[1] < errors[2]).all()


@pytest.mark.slow
def test_tool(tmp_path, monkeypatch):
    data = fashion.write_images(tmp_path / 'fashion')
    options = {**fashion.overrides(data), 'model.teacher.checkpoint': f'{data}/teacher.pth'}
    results, table, picture = tmp_path / 'r.json', tmp_path / 'r.md', tmp_path / 'r.svg'
    run_tool(
        'analysis/reconstruction',
        monkeypatch,
        f'{fashion.CONFIGS}/shd.py',
        *('--images', 8, '--batch', 4, '--temperature', 1, 4, '--json', results),
        *('--markdown', table, '--out', picture),
        *('--cfg-options', *(f'{key}={value}' for key, value in options.items())),
    )
    values = json.loads(results.read_text())
    assert list(values) == ['T_a = 1', 'T_a = 4']
    for by in values.values():
        errors = {name: layers['all'] for name, layers in by.items()}
        assert errors['best matrix'] < errors['best map'] < errors['simplex']
        assert errors['simplex'] <= errors['linear'] * (1 + 1e-9)
        assert errors['linear'] < min(errors['constant'], errors['hard'])
    assert '| linear |' in table.read_text()
    assert 'best map' in picture.read_text()
