"""Advantages against double loops in float64."""

import pytest
import torch
from torch.testing import assert_close

pytest.importorskip('trl')

from shd_vit.hosts.transformers.minillm.advantage import returns, whiten


def looped(rewards, tokens, gamma, own, length_normalisation):
    """One response: the sum over later tokens, written out; ``tokens`` are their places."""
    out = torch.zeros(len(rewards), dtype=torch.float64)
    for i, t in enumerate(tokens):
        later = tokens[i:] if own else tokens[i + 1 :]
        total = 0.0
        for steps, place in enumerate(later):
            total += gamma**steps * float(rewards[place])
        if length_normalisation and later:
            total /= len(later)
        out[t] = total
    return out


PLACES = {
    'padded on the right': ([0, 1, 2], [0, 1, 2, 3, 4, 5, 6], [0]),
    'padded on the left': ([4, 5, 6], [0, 1, 2, 3, 4, 5, 6], [6]),
    'truncated, a tool in between, none': ([0, 1, 2, 3], [0, 1, 4, 5], []),
}


@pytest.mark.parametrize('places', PLACES.values(), ids=PLACES)
@pytest.mark.parametrize('own', [False, True])
@pytest.mark.parametrize('normalised', [False, True])
@pytest.mark.parametrize('gamma', [0.0, 0.7, 1.0])
def test_returns_are_those_of_a_double_loop(places, own, normalised, gamma):
    rewards = torch.randn(3, 7, dtype=torch.float64)
    mask = torch.zeros(3, 7, dtype=torch.long)
    for row, tokens in enumerate(places):
        mask[row, tokens] = 1
    rewards[mask == 0] = float('nan')  # what stands at padding leaks nowhere
    found = returns(rewards, mask, gamma, own=own, length_normalisation=normalised)
    wanted = [looped(rewards[n], tokens, gamma, own, normalised) for n, tokens in enumerate(places)]
    assert_close(found, torch.stack(wanted), rtol=1e-12, atol=1e-12)


def test_discounts_count_tokens_not_places():
    """TRL's removed trainer discounted by absolute position: late tokens, and long responses,
    had other advantages."""
    rewards = torch.randn(1, 5)
    for shift in range(4):
        moved = torch.nn.functional.pad(rewards, (shift, 3 - shift), value=9.0)
        mask = torch.nn.functional.pad(torch.ones(1, 5), (shift, 3 - shift))
        found = returns(moved, mask, 0.5)[:, shift : shift + 5]
        assert_close(found, returns(rewards, torch.ones(1, 5), 0.5))
    long = returns(torch.ones(1, 4000), torch.ones(1, 4000), 0.5)  # 0.5 ** 4000 is 0
    assert_close(long[:, :-100], torch.full((1, 3900), 2.0))


def test_whitening_is_over_tokens_alone():
    x = torch.randn(4, 6, dtype=torch.float64)
    mask = torch.rand(4, 6) > 0.4
    counted = [float(x[i, j]) for i in range(4) for j in range(6) if mask[i, j]]
    mean = sum(counted) / len(counted)
    deviation = (sum((value - mean) ** 2 for value in counted) / len(counted) + 1e-8) ** 0.5
    wanted = torch.where(mask, (x - mean) / deviation, 0)
    assert_close(whiten(x.masked_fill(~mask, float('nan')), mask), wanted, rtol=1e-12, atol=1e-12)


def test_whitening_of_two_processes_is_that_of_all_tokens():
    x, mask = torch.randn(4, 6, dtype=torch.float64), torch.rand(4, 6) > 0.4
    alone, halves = whiten(x, mask), []
    for half in (slice(0, 2), slice(2, 4)):
        counts = mask.sum().double(), x[mask].sum()
        mean = x[mask].mean()
        answers = iter([torch.stack(counts), (x[mask] - mean).square().sum()])
        halves.append(whiten(x[half], mask[half], lambda _, answers=answers: next(answers)))
    assert_close(torch.cat(halves), alone)


@pytest.mark.parametrize('mask', [torch.zeros(2, 3), torch.ones(2, 3)])
def test_whitening_of_nothing_or_of_equal_values_is_0(mask):
    assert_close(whiten(torch.full((2, 3), 7.0), mask), torch.zeros(2, 3))


def test_a_response_of_one_token_has_nothing_after_it():
    one = torch.tensor([[1, 0, 0]])
    assert_close(
        returns(torch.full((1, 3), 5.0), one, length_normalisation=True), torch.zeros(1, 3)
    )
    assert returns(torch.zeros(2, 0), torch.zeros(2, 0)).shape == (2, 0)
