import torch
from torch.testing import assert_close

from shd_vit.functional import random_token_mask, squared_error


def test_squared_error_sums_all_but_the_batch():
    s, t = torch.randn(2, 3, 4, 5).unbind(0)
    mask = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    whole = part = 0.0
    for b in range(3):
        for n in range(4):
            error = sum((s[b, n, e] - t[b, n, e]).item() ** 2 for e in range(5))
            whole += error / 3
            part += error / 3 * mask[b, n].item()
    assert_close(squared_error(s, t).item(), whole, rtol=1e-5, atol=1e-6)
    assert_close(squared_error(s, t, mask).item(), part, rtol=1e-5, atol=1e-6)


def test_mask_keeps_the_stated_number_and_differs_by_sample():
    for tokens, ratio, kept in [(196, 0.5, 98), (49, 0.5, 24), (16, 0.25, 12), (9, 1.0, 0)]:
        mask = random_token_mask(8, tokens, ratio)
        assert mask.shape == (8, tokens)
        assert ((~mask).sum(1) == kept).all()
    assert len({tuple(row) for row in random_token_mask(64, 49, 0.5).tolist()}) == 64


def test_every_token_is_masked_equally_often():
    frequency = random_token_mask(4000, 16, 0.5).float().mean(0)
    assert (frequency - 0.5).abs().max() < 0.05
