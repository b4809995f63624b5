import pytest
import references
import torch
from torch.testing import assert_close

from shd_vit.functional import gram_matrix, squeeze_heads


def teacher(B=2, heads=6, N=7, D=4, E=10, sharpness=3.0, dtype=torch.float64):
    g = torch.Generator().manual_seed(heads)
    maps = (sharpness * torch.randn(B, heads, N, N, generator=g, dtype=dtype)).softmax(-1)
    value = torch.randn(B, heads, N, D, generator=g, dtype=dtype)
    out_proj = torch.randn(E, heads * D, generator=g, dtype=dtype)
    return maps, value, out_proj


@pytest.mark.parametrize(
    'heads, target, merges',
    [
        (6, 3, [3]),
        (9, 3, [4, 2]),
        (16, 6, [8, 2]),
        (25, 16, [9]),
        (40, 32, [8]),
        (12, 1, [6, 3, 1, 1]),
        (7, 1, [3, 2, 1]),
        (2, 1, [1]),
    ],
)
def test_equals_loop_over_heads(heads, target, merges):
    maps, value, out_proj = teacher(heads=heads)
    squeezed = squeeze_heads(maps, value, out_proj, target)
    expected_maps, expected_alphas = references.squeeze_heads(maps, value, out_proj, target)
    assert [a.shape[1] for a in squeezed.alphas] == merges
    assert squeezed.maps.shape[1] == target
    for raw, alpha, expected in zip(
        squeezed.raw_alphas, squeezed.alphas, expected_alphas, strict=True
    ):
        assert_close(raw, expected, rtol=1e-9, atol=1e-9)
        assert_close(alpha, expected.clamp(0, 1), rtol=1e-9, atol=1e-9)
    assert_close(squeezed.maps, expected_maps, rtol=1e-9, atol=1e-9)


def test_float32_is_close_to_float64():
    maps, value, out_proj = teacher(heads=16)
    squeezed = squeeze_heads(maps.float(), value.float(), out_proj.float(), 6)
    expected, _ = references.squeeze_heads(maps, value, out_proj, 6)
    assert_close(squeezed.maps.double(), expected, rtol=1e-5, atol=1e-5)


def test_trap_1_the_printed_n_does_not_minimise_eq_6():
    """Eq. 7 prints N = A_2 X_1 - A_1 X_2. Its alpha is worse than ours by Eq. 6 itself."""
    maps, value, out_proj = teacher(B=1, heads=2, E=8)
    x1, x2 = (value[0, h] @ out_proj[:, 4 * h : 4 * h + 4].T for h in range(2))
    a1, a2 = maps[0]
    m = (a1 - a2) @ (x1 + x2)
    literal = -(m * (a2 @ x1 - a1 @ x2)).sum() / (m**2).sum()
    ours = squeeze_heads(maps, value, out_proj, 1).raw_alphas[0][0, 0]
    assert_close(ours, references.best_alpha(a1, a2, x1, x2))
    errors = [references.merge_error(a, a1, a2, x1, x2) for a in (ours, literal)]
    assert errors[1] > 1.05 * errors[0]
    for nearby in (ours - 1e-3, ours + 1e-3):
        assert references.merge_error(nearby, a1, a2, x1, x2) > errors[0]


@pytest.mark.parametrize('heads, target', [(16, 6), (9, 4), (25, 16)])
def test_trap_2_plain_halving_overshoots(heads, target):
    """The published loop halves until it is at or below the target, and so misses it."""
    literal = heads
    while literal > target:
        literal = (literal + 1) // 2
    assert literal < target
    assert squeeze_heads(*teacher(heads=heads), target).maps.shape[1] == target


def test_maps_stay_distributions_even_where_alpha_is_clamped():
    maps, value, out_proj = teacher(heads=4)
    # X_2 = -1.5 X_1 makes S = -0.5 X_1 and alpha = -2; X_4 = -0.5 X_3 makes alpha = 2.
    value[:, 1], value[:, 3] = -1.5 * value[:, 0], -0.5 * value[:, 2]
    out_proj[:, 4:8], out_proj[:, 12:] = out_proj[:, :4], out_proj[:, 8:12]
    squeezed = squeeze_heads(maps, value, out_proj, 2)
    assert_close(squeezed.raw_alphas[0], torch.tensor([[-2.0, 2.0]] * 2, dtype=torch.float64))
    assert squeezed.alphas[0].tolist() == [[0.0, 1.0]] * 2
    assert_close(squeezed.maps, maps[:, 1:3])
    assert squeezed.maps.min() >= 0
    assert_close(squeezed.maps.sum(-1), torch.ones_like(squeezed.maps[..., 0]))


def test_as_many_heads_as_asked_for_are_left_alone():
    maps, value, out_proj = teacher(heads=3)
    squeezed = squeeze_heads(maps, value, out_proj, 3)
    assert_close(squeezed.maps, maps)
    assert squeezed.alphas == squeezed.raw_alphas == ()


def test_equal_heads_give_one_half_and_no_nan():
    maps, value, out_proj = teacher(heads=2)
    maps = maps[:, :1].expand(-1, 2, -1, -1)
    squeezed = squeeze_heads(maps, value, out_proj, 1)
    assert_close(squeezed.alphas[0], torch.full((2, 1), 0.5, dtype=torch.float64))
    assert_close(squeezed.maps, maps[:, :1])


def test_autocast_does_not_touch_the_result():
    maps, value, out_proj = teacher(heads=6, dtype=torch.float32)
    expected = squeeze_heads(maps, value, out_proj, 3)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        squeezed = squeeze_heads(maps, value, out_proj, 3)
    assert squeezed.maps.dtype == torch.float32
    assert_close(squeezed.maps, expected.maps, rtol=0, atol=0)


def test_bfloat16_products_give_alphas_within_a_thousandth():
    """As under autocast, where v and W^O are bfloat16, against float64 of the same values."""
    maps, value, out_proj = teacher(B=8, heads=6, N=65, D=32, E=192)
    value, out_proj = value.bfloat16(), out_proj.bfloat16()
    low = squeeze_heads(maps.float(), value, out_proj, 2)
    exact = squeeze_heads(maps, value.double(), out_proj.double(), 2)
    for ours, theirs in zip(low.alphas, exact.alphas, strict=True):
        assert_close(ours.double(), theirs, rtol=0, atol=1e-3)
    assert any((a != b).any() for a, b in zip(low.alphas, exact.alphas, strict=True))


def test_a_gram_matrix_at_hand_changes_nothing():
    maps, value, out_proj = teacher(heads=9)
    ours = squeeze_heads(maps, value, out_proj, 4, gram_matrix(out_proj))
    assert_close(ours, squeeze_heads(maps, value, out_proj, 4), rtol=0, atol=0)


@pytest.mark.parametrize('num_heads', [0, 7])
def test_bad_head_count_names_both(num_heads):
    with pytest.raises(ValueError, match=rf'num_heads={num_heads}.*6 heads'):
        squeeze_heads(*teacher(heads=6), num_heads)


def test_shapes_that_do_not_fit_are_named():
    maps, value, out_proj = teacher(heads=6)
    with pytest.raises(ValueError, match=r'out_proj \(10, 20\)'):
        squeeze_heads(maps, value, out_proj[:, :20], 3)
    with pytest.raises(ValueError, match='expected'):
        squeeze_heads(maps[..., :5], value, out_proj, 3)
