"""Queries that are left out: no part in the distance, none in the weights; their keys stay."""

import pytest
import references
import torch
from torch.testing import assert_close

from shd_vit.errors import ConfigError
from shd_vit.functional import Mask, tiles
from shd_vit.functional.shd import shd_loss

B, N, HEADS, WIDTH = 2, 7, (4, 2), 3


def tensors():
    draw = torch.Generator().manual_seed(0)

    def heads(count):
        return torch.randn(B, count, N, WIDTH, generator=draw, dtype=torch.float64)

    q, k = (heads(HEADS[1]).requires_grad_() for _ in range(2))
    out_proj = torch.randn(5, HEADS[0] * WIDTH, generator=draw, dtype=torch.float64)
    return q, k, heads(HEADS[0]), heads(HEADS[0]), heads(HEADS[0]), out_proj


def looped(q, k, tq, tk, v, out_proj, counted, hidden):
    """Row by row; weights of Eq. 6 from the rows that count, of which alone maps are not 0."""
    maps = references.softmax_maps(tq, tk, 0.5, bias=hidden)
    maps = maps * counted[:, None, :, None]
    squeezed = references.squeeze_heads(maps, v, out_proj, HEADS[1])[0]
    total = 0.0
    for b in range(B):
        for h in range(HEADS[1]):
            for n in counted[b].nonzero().flatten():
                seen = hidden[b, 0, n] == 0
                log_q = (q[b, h, n] @ k[b, h, seen].T * 0.5).log_softmax(-1)
                p = squeezed[b, h, n, seen]
                total = total + (p * (p.log() - log_q)).sum()
    return total / counted.sum()


@pytest.mark.parametrize('is_padded', [False, True])
@pytest.mark.parametrize('streamed', [False, True])
def test_only_counted_rows_are_compared_and_weighed(streamed, is_padded, monkeypatch):
    if streamed:
        monkeypatch.setitem(tiles.CHUNK_ELEMENTS, 'cpu', 16)
        monkeypatch.setattr(tiles, 'WHOLE_ROWS', {True: 2, False: 2})
        monkeypatch.setattr(tiles, 'FEWEST_ROWS', 2)
    counted = torch.tensor([[0, 0, 0, 1, 1, 1, 0], [0, 1, 1, 0, 1, 1, 1]]).bool()
    padding = torch.ones(B, N, dtype=torch.bool)
    if is_padded:
        padding[0, :2] = False
        padding[1, 6:] = False
    seen = torch.ones(N, N).tril().bool() & padding[:, None, None]
    hidden = torch.zeros(B, 1, N, N, dtype=torch.float64).masked_fill(~seen, float('-inf'))
    q, k, *teacher = tensors()
    mask = Mask(is_causal=True, padding=padding if is_padded else None, queries=counted)
    loss = shd_loss(q, k, *teacher, 0.5, 0.5, mask=mask, teacher_mask=mask, backend='torch')
    hidden[:, :, range(N), range(N)] = 0  # rows of padding are left out in any case
    expected = looped(q, k, *teacher, counted & padding, hidden)
    assert_close(loss, expected, rtol=1e-9, atol=1e-12)
    grads, wanted = (torch.autograd.grad(x, (q, k)) for x in (loss, expected))
    assert_close(grads, wanted, rtol=1e-8, atol=1e-10)


def test_no_row_is_no_loss():
    q, k, *teacher = tensors()
    mask = Mask(is_causal=True, queries=torch.zeros(B, N, dtype=torch.bool))
    loss = shd_loss(q, k, *teacher, 0.5, 0.5, mask=mask, teacher_mask=mask, backend='torch')
    assert loss == 0 and not torch.cat(torch.autograd.grad(loss, (q, k))).any()


def test_rows_of_another_batch_are_refused():
    q, k, *teacher = tensors()
    mask = Mask(queries=torch.ones(B, N + 1, dtype=torch.bool))
    with pytest.raises(ConfigError, match=r'queries \(2, 8\) must be \(B, N\) = \(2, 7\)'):
        shd_loss(q, k, *teacher, 0.5, 0.5, mask=mask, backend='torch')
