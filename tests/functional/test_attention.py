import pytest
import references
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck
from torch.testing import assert_close

from shd_vit.functional import attention_kl, attention_maps, attention_mse, counted_rows, tiles


def student(B=3, H=2, N=5, D=4, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, B, H, N, D, generator=g, dtype=dtype).requires_grad_().unbind(0)
    q, k = q.detach().requires_grad_(), k.detach().requires_grad_()
    target = torch.randn(B, H, N, N, generator=g, dtype=dtype).mul(2).softmax(-1)
    return q, k, target


def plain_kl(q, k, target, scale, temperature=1.0, bias=0.0):
    """The same loss through torch's own ops and autograd."""
    log_p = ((q @ k.transpose(-2, -1) * scale + bias) / temperature).log_softmax(-1)
    rows = q.shape[0] * q.shape[2]
    return F.kl_div(log_p, target, reduction='none').sum() / rows


@pytest.mark.parametrize('temperature', [0.3, 1.0, 4.0])
def test_maps_equal_the_loop(temperature):
    q, k, _ = student()
    bias = torch.randn(1, 2, 5, 5, dtype=torch.float64)
    for b in (None, bias):
        maps = attention_maps(q, k, 0.5, temperature, b)
        assert_close(maps, references.softmax_maps(q, k, 0.5, temperature, b))


def test_maps_are_what_sdpa_weighs_values_with():
    q, k, _ = student(dtype=torch.float32)
    v = torch.randn_like(q)
    expected = F.scaled_dot_product_attention(q, k, v)
    assert_close(attention_maps(q, k, q.shape[-1] ** -0.5) @ v, expected)


def test_temperature_must_be_positive():
    q, k, target = student()
    for call in (lambda: attention_maps(q, k, 1.0, 0.0), lambda: attention_kl(q, k, target, 1, -1)):
        with pytest.raises(ValueError, match='temperature'):
            call()


@pytest.mark.parametrize('temperature', [0.3, 1.0, 4.0])
@pytest.mark.parametrize('chunk_elements', [1, 2 * 5 * 5 * 2, 2**22])
def test_kl_and_gradients(temperature, chunk_elements, monkeypatch):
    """Loss against the loop, gradients against autograd, whatever the chunk."""
    monkeypatch.setitem(tiles.CHUNK_ELEMENTS, 'cpu', chunk_elements)
    q, k, target = student()
    loss = attention_kl(q, k, target, 0.5, temperature)
    assert_close(loss, references.attention_kl(q, k, target, 0.5, temperature))
    grads = torch.autograd.grad(loss * 3, (q, k))
    expected = torch.autograd.grad(plain_kl(q, k, target, 0.5, temperature) * 3, (q, k))
    assert_close(grads, expected)


def test_kl_gradcheck():
    q, k, target = student(B=2, N=3)
    assert gradcheck(lambda q, k: attention_kl(q, k, target, 0.5, 2.0), (q, k))


@pytest.mark.parametrize('shape', [(5, 5), (1, 1, 5, 5), (3, 1, 5, 5), (3, 2, 5, 5)])
def test_kl_with_bias_of_any_broadcastable_shape(shape, monkeypatch):
    monkeypatch.setitem(tiles.CHUNK_ELEMENTS, 'cpu', 1)
    q, k, target = student()
    bias = torch.randn(shape, dtype=torch.float64)
    loss = attention_kl(q, k, target, 0.5, 2.0, bias)
    assert_close(loss, references.attention_kl(q, k, target, 0.5, 2.0, bias))
    expected = torch.autograd.grad(plain_kl(q, k, target, 0.5, 2.0, bias), (q, k))
    assert_close(torch.autograd.grad(loss, (q, k)), expected)


def test_padding_costs_nothing():
    """Tokens 1 and 4, which no query sees, have no weight as keys and no part as queries."""
    q, k, target = student()
    mask = torch.zeros(5, dtype=torch.float64).index_fill(0, torch.tensor([1, 4]), float('-inf'))
    target = target.masked_fill(mask.isinf(), 0)
    target = target / target.sum(-1, keepdim=True)
    keep = [0, 2, 3]
    loss = attention_kl(q, k, target, 0.5, bias=mask)
    grads = torch.autograd.grad(loss, (q, k))
    short = attention_kl(q[:, :, keep], k[:, :, keep], target[:, :, keep][..., keep], 0.5)
    assert_close(loss, short)
    for grad, expected in zip(grads, torch.autograd.grad(short, (q, k)), strict=True):
        assert_close(grad, expected)
        assert (grad[:, :, [1, 4]] == 0).all()


def test_padding_of_each_sample_counts_for_itself(monkeypatch):
    monkeypatch.setitem(tiles.CHUNK_ELEMENTS, 'cpu', 1)
    q, k, target = student()
    lengths = (5, 3, 1)
    mask = torch.zeros(3, 1, 1, 5, dtype=torch.float64)
    for sample, length in enumerate(lengths):
        mask[sample, ..., length:] = float('-inf')
    target = target.masked_fill(mask.isinf(), 0)
    target = target / target.sum(-1, keepdim=True)
    total = 0.0
    for b, n in enumerate(lengths):
        part = slice(b, b + 1)
        own = attention_kl(q[part, :, :n], k[part, :, :n], target[part, :, :n, :n], 0.5)
        total = total + own * n
    loss = attention_kl(q, k, target, 0.5, bias=mask)
    assert_close(loss, total / sum(lengths))
    assert_close(*(torch.autograd.grad(x, (q, k)) for x in (loss, total / sum(lengths))))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_a_bias_does_not_widen_the_loss(dtype):
    q, k, target = (t.detach().to(dtype) for t in student())
    for bias in (torch.zeros(5, 5), torch.zeros(5, 5, dtype=dtype)):
        assert attention_kl(q, k, target.float(), 0.5, bias=bias).dtype == torch.float32


def test_causal_rows_count_and_rows_without_keys_do_not():
    causal = torch.zeros(5, 5).masked_fill(~torch.ones(5, 5).tril().bool(), float('-inf'))
    assert counted_rows(causal).all()
    left_padded = causal.clone()
    left_padded[:, :2] = float('-inf')  # rows 0 and 1 see nothing at all
    assert counted_rows(left_padded).tolist() == [False, False, True, True, True]
    not_oneself = torch.zeros(5, 5).fill_diagonal_(float('-inf'))
    assert counted_rows(not_oneself).all()
    q, k, _ = student(dtype=torch.float32)
    maps = attention_maps(q, k, 0.5, bias=left_padded)
    assert (maps[:, :, :2] == 0).all()
    expected = F.scaled_dot_product_attention(q, k, torch.eye(5).expand(3, 2, 5, 5), left_padded)
    assert_close(maps[:, :, 2:], expected[:, :, 2:], atol=1e-3, rtol=1e-3)


def test_gradient_of_a_learned_bias():
    q, k, target = student(B=4)
    for shape in [(5, 5), (1, 2, 5, 5), (4, 1, 5, 5), (4, 2, 5, 5)]:
        bias = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        losses = (f(q, k, target, 0.5, 2.0, bias) for f in (attention_kl, plain_kl))
        assert_close(*(torch.autograd.grad(loss, (q, k, bias)) for loss in losses))


@pytest.mark.parametrize('chunk_elements', [1, 3 * 2 * 5 * 5, 2**20])
def test_a_bias_of_windows_repeats_over_the_batch(chunk_elements, monkeypatch):
    monkeypatch.setitem(tiles.CHUNK_ELEMENTS, 'cpu', chunk_elements)
    q, k, target = student(B=6)
    bias = torch.randn(3, 2, 5, 5, dtype=torch.float64)
    bias[1, :, :3, 3:] = bias[1, :, 3:, :3] = float('-inf')  # as in a shifted window
    target = (target.log() + bias.repeat(2, 1, 1, 1)).softmax(-1)
    bias.requires_grad_()
    full = bias.repeat(2, 1, 1, 1).clamp(min=-1e300)
    loss = attention_kl(q, k, target, 0.5, bias=bias)
    expected = plain_kl(q, k, target, 0.5, bias=full)
    assert_close(loss, expected)
    grads, expected = (torch.autograd.grad(x, (q, k, bias)) for x in (loss, expected))
    assert_close(grads, expected)


def test_kl_is_zero_at_the_target_and_positive_elsewhere():
    q, k, target = student()
    own = attention_maps(q, k, 0.5).detach()
    assert_close(attention_kl(q, k, own, 0.5), torch.zeros((), dtype=torch.float64))
    assert attention_kl(q, k, target, 0.5) > 0.01


def test_only_the_size_of_q_and_k_is_kept_for_backward():
    q, k, target = student(N=64, dtype=torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        attention_kl(q, k, target, 0.5)
    assert sorted(t.shape for t in kept) == [q.shape, k.shape]


def test_half_precision_inputs_get_half_gradients_computed_in_float32():
    q, k, target = student(dtype=torch.float32)
    low_q, low_k = (t.detach().bfloat16().requires_grad_() for t in (q, k))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = attention_kl(low_q, low_k, target, 0.5)
    exact = references.attention_kl(low_q, low_k, target, 0.5)
    assert loss.dtype == torch.float32
    assert_close(loss.double(), exact, rtol=1e-5, atol=1e-6)
    loss.backward()
    assert low_q.grad.dtype == torch.bfloat16
    expected = torch.autograd.grad(plain_kl(q, k, target, 0.5), q)[0]
    assert_close(low_q.grad.float(), expected, rtol=0.05, atol=2e-4)


def test_fp16_gradients_survive_a_large_batch():
    """1 / (B N) times a small gradient underflows in fp16 unless the loss scale comes first."""
    q, k, _ = student(B=64, N=16, dtype=torch.float32)
    target = attention_maps(q + 2e-3, k, 0.5).detach()
    half = q.detach().half().requires_grad_()
    (attention_kl(half, k.detach().half(), target, 0.5) * 65536).backward()
    exact = torch.autograd.grad(plain_kl(half.float(), k, target, 0.5) * 65536, k)
    assert exact[0].isfinite().all()
    assert (half.grad != 0).float().mean() > 0.99


def test_second_derivatives_are_refused():
    q, k, target = student()
    (grad,) = torch.autograd.grad(attention_kl(q, k, target, 0.5) ** 2, q, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()


def test_targets_that_ask_for_gradients_and_wrong_shapes_are_refused():
    q, k, target = student()
    with pytest.raises(ValueError, match='target is a constant'):
        attention_kl(q, k, target.requires_grad_(), 0.5)
    with pytest.raises(ValueError, match=r'target \(3, 1, 5, 5\)'):
        attention_kl(q, k, target.detach()[:, :1], 0.5)


@pytest.mark.parametrize('temperature', [0.3, 1.0, 4.0])
@pytest.mark.parametrize('chunk_elements', [1, 2**22])
def test_mse_and_gradients(temperature, chunk_elements, monkeypatch):
    monkeypatch.setitem(tiles.CHUNK_ELEMENTS, 'cpu', chunk_elements)
    q, k, target = student()
    loss = attention_mse(q, k, target, 0.5, temperature)
    assert_close(loss, references.attention_mse(q, k, target, 0.5, temperature))
    plain = (q @ k.mT * 0.5 / temperature).softmax(-1).sub(target).square().sum((1, 3)).mean()
    grads, expected = (torch.autograd.grad(3 * x, (q, k)) for x in (loss, plain))
    assert_close(grads, expected)


def test_mse_gradcheck_with_a_bias():
    q, k, target = student(B=2, N=3)
    bias = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(
        lambda *leaves: attention_mse(*leaves[:2], target, 0.5, 2.0, leaves[2]), (q, k, bias)
    )


def test_mse_leaves_out_rows_that_do_not_count():
    """With padded keys, the error of the rows that are left, and no gradient to the others."""
    q, k, target = student()
    mask = torch.zeros(5, 5, dtype=torch.float64)
    mask[:, 3:] = float('-inf')
    target = (target.log() + mask).softmax(-1)
    loss = attention_mse(q, k, target, 0.5, bias=mask)
    assert_close(loss, references.attention_mse(q, k, target, 0.5, bias=mask, counted=range(3)))
    grad_q, grad_k = torch.autograd.grad(loss, (q, k))
    assert (grad_q[:, :, 3:] == 0).all() and (grad_k[:, :, 3:] == 0).all()
    assert grad_q[:, :, :3].abs().max() > 0


def test_mse_of_maps_with_themselves_is_nothing():
    q, k, _ = student()
    own = attention_maps(q, k, 0.5).detach()
    loss = attention_mse(q, k, own, 0.5)
    assert_close(loss, torch.zeros_like(loss))
    assert all(g.abs().max() < 1e-12 for g in torch.autograd.grad(loss, (q, k)))
