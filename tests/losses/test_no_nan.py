"""Whatever the maps: a finite loss, finite gradients, distributions, and weights in [0, 1]."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from models import batch, build_distiller

from shd_vit.functional import attention_maps, counted_rows, squeeze_heads
from shd_vit.losses import ModelOutput, SHDLoss
from shd_vit.taps import AttentionTap

MASKS = ('none', 'one key for all', 'causal', 'left padding', 'nothing visible', 'one per sample')


def mask_of(kind, B, N):
    mask = torch.zeros(B, 1, N, N)
    hidden = float('-inf')
    if kind == 'one key for all':
        mask[..., 1:] = hidden
    elif kind == 'causal':
        mask.masked_fill_(~torch.ones(N, N).tril().bool(), hidden)
    elif kind == 'left padding':
        mask.masked_fill_(~torch.ones(N, N).tril().bool(), hidden)
        mask[..., : N // 2] = hidden
    elif kind == 'nothing visible':
        mask[:] = hidden
    elif kind == 'one per sample':
        mask[0] = hidden
    return None if kind == 'none' else mask


def case(tokens, heads, logits, identical, dtype, mask, temperature=1.0, compile=False):
    """Student and teacher taps whose largest logit before T_a is +-``logits``."""
    student_heads, teacher_heads = heads
    g = torch.Generator().manual_seed(tokens)

    def tap(H, grad):
        q, k, v = torch.randn(3, 2, H, tokens, 4, generator=g).unbind(0)
        if identical:
            q, k, v = (x[:, :1].expand(-1, H, -1, -1) for x in (q, k, v))
        q = q * (logits / (q @ k.mT).abs().max().clamp(min=1e-3))
        q, k, v = (x.to(dtype).contiguous() for x in (q, k, v))
        bias = mask_of(mask, 2, tokens)
        weight = torch.randn(6, 4 * H, generator=g).to(dtype)
        return AttentionTap(q.requires_grad_(grad), k.requires_grad_(grad), v, weight, 1.0, bias)

    loss = SHDLoss(temperature=temperature, compile=compile)
    loss.pairs = [(1, 1)]
    return loss, tap(student_heads, True), tap(teacher_heads, False)


@settings(max_examples=150, deadline=None)
@given(
    tokens=st.integers(1, 9),
    heads=st.sampled_from([(1, 1), (1, 2), (3, 6), (2, 7)]),
    temperature=st.floats(0.1, 100),
    logits=st.sampled_from([0.0, 1e-6, 1.0, 100.0, 1e4]),
    identical=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    mask=st.sampled_from(MASKS),
    compile=st.booleans(),  # as a C++ kernel where that serves; torch.compile is off in tests
)
@example(1, (1, 2), 0.1, 1e4, True, torch.bfloat16, 'nothing visible', False)
@example(5, (1, 2), 0.1, 1e4, False, torch.float32, 'causal', False)
@example(5, (3, 6), 100.0, 1e4, True, torch.bfloat16, 'left padding', False)
@example(9, (2, 7), 0.1, 1e4, False, torch.float32, 'none', True)
@example(1, (1, 2), 100.0, 0.0, True, torch.float32, 'none', True)
def test_loss_and_gradients_are_finite(
    tokens, heads, temperature, logits, identical, dtype, mask, compile
):
    loss, student, teacher = case(
        tokens, heads, logits, identical, dtype, mask, temperature, compile
    )
    value = loss(*(ModelOutput(None, {1: tap}, {}) for tap in (student, teacher)), None)
    assert value.isfinite() and value > -1e-4
    for grad in torch.autograd.grad(value, (student.q, student.k)):
        assert grad.isfinite().all()
    maps = attention_maps(teacher.q, teacher.k, 1.0, temperature, teacher.bias)
    squeezed = squeeze_heads(maps, teacher.v, teacher.out_proj, heads[0])
    assert squeezed.maps.isfinite().all() and squeezed.maps.min() >= 0
    rows = torch.ones(2, 1, tokens, dtype=torch.bool)
    rows = rows if teacher.bias is None else counted_rows(teacher.bias)
    expected = rows[..., None].float().expand_as(squeezed.maps[..., :1]).squeeze(-1)
    torch.testing.assert_close(squeezed.maps.sum(-1), expected)
    for alpha, raw in zip(squeezed.alphas, squeezed.raw_alphas, strict=True):
        assert raw.isfinite().all() and alpha.min() >= 0 and alpha.max() <= 1


def test_equal_maps_of_equal_heads_cost_nothing():
    loss, student, _ = case(5, (2, 2), 3.0, True, torch.float32, 'none')
    value = loss(*[ModelOutput(None, {1: student}, {})] * 2, None)
    assert abs(value) < 1e-6


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('scale', [0.0, 1e3])
def test_models_with_dead_or_wild_weights(dtype, scale):
    model = build_distiller(losses=dict(shd=dict(type='SHDLoss', temperature=0.1)))
    with torch.no_grad():
        for model_part in (model.student, model.teacher):
            for layer in model_part.backbone.layers:
                layer.attn.qkv.weight.mul_(scale)
    with torch.autocast('cpu', torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = model(*batch(), mode='loss')['loss_shd']
    loss.backward()
    grads = [p.grad for p in model.student.parameters() if p.grad is not None]
    assert loss.isfinite() and all(grad.isfinite().all() for grad in grads)
