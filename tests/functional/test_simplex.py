import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.testing import assert_close

from shd_vit.functional import (
    gram_matrix,
    group_sizes,
    head_outputs,
    merge_maps,
    residual_gram,
    simplex_weights,
    weigh_simplex,
)
from shd_vit.functional import squeeze_heads as squeeze


def teacher(heads, B=3, N=7, D=4, E=10, sharpness=3.0):
    g = torch.Generator().manual_seed(heads)
    maps = (sharpness * torch.randn(B, heads, N, N, generator=g, dtype=torch.float64)).softmax(-1)
    value = torch.randn(B, heads, N, D, generator=g, dtype=torch.float64)
    return maps, value, torch.randn(E, heads * D, generator=g, dtype=torch.float64)


def simplex_heads(maps, value, out_proj, num_heads):
    sizes = group_sizes(maps.shape[1], num_heads)
    return merge_maps(maps, value, gram_matrix(out_proj), sizes, weigh_simplex)


def errors(merged, maps, value, out_proj, sizes):
    """||A~ S - sum_i A_i X_i||^2 for every sample and group, forming every X."""
    D = value.shape[-1]
    x = [value[:, h] @ out_proj[:, h * D : (h + 1) * D].T for h in range(maps.shape[1])]
    results, start = [], 0
    for group, size in enumerate(sizes):
        heads = range(start, start + size)
        target = sum(maps[:, h] @ x[h] for h in heads)
        rebuilt = merged[:, group] @ sum(x[h] for h in heads)
        results.append(((rebuilt - target) ** 2).sum((-2, -1)))
        start += size
    return torch.stack(results, dim=1)


@pytest.mark.parametrize(
    'heads, target, sizes',
    [
        (6, 3, (2, 2, 2)),
        (9, 3, (4, 4, 1)),
        (16, 6, (4, 4, 2, 2, 2, 2)),
        (25, 16, (2,) * 9 + (1,) * 7),
        (7, 2, (4, 3)),
    ],
)
def test_groups_are_those_of_progressive_merging(heads, target, sizes):
    """By merging heads of which each attends to a token of its own."""
    assert group_sizes(heads, target) == sizes
    maps, value, out_proj = teacher(heads, N=heads)
    maps = torch.eye(heads, dtype=torch.float64)[None, :, None].expand(3, -1, heads, -1)
    value = value + 0 * maps[..., :4]
    for squeezed in (
        squeeze(maps, value, out_proj, target).maps,
        simplex_heads(maps, value, out_proj, target),
    ):
        start = 0
        for group, size in enumerate(sizes):
            outside = torch.ones(heads).bool()
            outside[start : start + size] = False
            assert (squeezed[:, group][..., outside] == 0).all()
            start += size


@pytest.mark.parametrize('heads, target', [(2, 1), (6, 3)])
def test_pairs_are_merged_as_eq_9_does(heads, target):
    args = teacher(heads)
    assert_close(simplex_heads(*args, target), squeeze(*args, target).maps)


@pytest.mark.parametrize('heads, target', [(3, 1), (4, 1), (8, 2), (7, 2), (12, 3)])
def test_equals_the_minimum_that_scipy_finds(heads, target):
    maps, value, out_proj = teacher(heads)
    sizes = group_sizes(heads, target)
    merged = simplex_heads(maps, value, out_proj, target)
    found = errors(merged, maps, value, out_proj, sizes)
    start = 0
    for group, size in enumerate(sizes):
        part = slice(start, start + size)
        columns = slice(4 * part.start, 4 * part.stop)
        for b in range(len(maps)):

            def error(w, b=b, part=part, columns=columns, size=size):
                group_map = (torch.from_numpy(w)[:, None, None] * maps[b, part]).sum(0)
                args = maps[b : b + 1, part], value[b : b + 1, part], out_proj[:, columns]
                return errors(group_map[None, None], *args, [size]).item()

            best = minimize(
                error,
                np.full(size, 1 / size),
                bounds=[(0, 1)] * size,
                constraints=dict(type='eq', fun=lambda w: w.sum() - 1),
                tol=1e-12,
            )
            assert found[b, group].item() == pytest.approx(best.fun, rel=1e-5)
        start += size


@pytest.mark.parametrize('sharpness', [0.3, 3.0, 30.0])
def test_is_never_worse_than_progressive_merging(sharpness):
    args = teacher(12, B=40, sharpness=sharpness)
    sizes = group_sizes(12, 3)
    ours, linear = (
        errors(maps, *args, sizes) for maps in (simplex_heads(*args, 3), squeeze(*args, 3).maps)
    )
    assert (ours <= linear * (1 + 1e-9)).all()
    assert (ours < 0.999 * linear).any()


def test_gram_matrix_is_that_of_the_residuals():
    maps, value, out_proj = teacher(4)
    x = torch.einsum('bhnd,ehd->bhne', value, out_proj.unflatten(1, (4, 4)))
    target = (maps @ x).sum(1, keepdim=True)
    residual = (maps @ x.sum(1, keepdim=True) - target).flatten(2)
    expected = residual @ residual.mT
    outputs = head_outputs(maps, value)
    assert_close(residual_gram(outputs, out_proj.T @ out_proj), expected)


def test_weights_are_a_distribution_and_survive_what_is_degenerate():
    zero = torch.zeros(2, 4, 4)
    assert_close(simplex_weights(zero).sum(-1), torch.ones(2))
    same = torch.ones(1, 3, 3)  # equal heads: any weights do
    weights = simplex_weights(same)
    assert (weights >= 0).all()
    assert_close(weights.sum(-1), torch.ones(1))
    huge = simplex_weights(1e30 * torch.eye(3)[None])
    assert_close(huge, torch.full((1, 3), 1 / 3))
    corner = torch.diag(torch.tensor([1.0, 0.0, 5.0]))
    assert_close(simplex_weights(corner), torch.tensor([0.0, 1.0, 0.0]))


def test_float32_and_autocast_are_close_to_float64():
    maps, value, out_proj = teacher(12)
    expected = errors(
        simplex_heads(maps, value, out_proj, 3), maps, value, out_proj, group_sizes(12, 3)
    )
    with torch.autocast('cpu', dtype=torch.bfloat16):
        low = simplex_heads(maps.float(), value.float(), out_proj.float(), 3)
    assert low.dtype == torch.float32
    got = errors(low.double(), maps, value, out_proj, group_sizes(12, 3))
    assert_close(got, expected, rtol=1e-4, atol=1e-4)
