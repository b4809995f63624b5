"""TapBank: what it records, and when."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from taps.zoo import ZOO, actual_maps, timm_vit
from torch import nn
from torch.testing import assert_close

from shd_vit.errors import ConfigError, UnsupportedAttention
from shd_vit.functional import attention_maps
from shd_vit.taps import ATTENTION_TAPS, AttentionFamily, AttentionTap, TapBank
from shd_vit.taps.anatomy import Anatomy

FAMILIES = [name for name in ZOO if name.startswith(('timm ViT', 'timm DeiT', 'mmpretrain'))]
FAMILIES = [n for n in FAMILIES if not any(x in n for x in ('Swin', 'BEiT', 'parallel'))]


def test_timm_without_fused_attention_has_the_same_maps():
    model = timm_vit(qk_norm=True).eval()
    images, bank = torch.randn(2, 3, 32, 32), TapBank(model)
    maps = []
    for fused in (True, False):
        for block in model.blocks:
            block.attn.fused_attn = fused
        with bank.record():
            model(images)
        tap = bank.collect().attention[2]
        maps.append(attention_maps(tap.q, tap.k, tap.scale))
    assert_close(*maps)


def test_tap_of_the_student_carries_gradients():
    model = timm_vit()
    bank = TapBank(model, layers=[2])
    with bank.record():
        model(torch.randn(1, 3, 32, 32))
    (tap,) = bank.collect().attention
    tap.q.square().sum().backward()
    assert model.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
    assert model.blocks[2].attn.qkv.weight.grad is None


@pytest.mark.parametrize('mask', ['bool', 'float', 'causal'])
def test_timm_masks_become_bias(mask):
    attn = timm.layers.Attention(24, num_heads=3)
    causal = torch.ones(6, 6).tril().bool()
    kwargs = {
        'bool': dict(attn_mask=causal),
        'float': dict(attn_mask=torch.zeros(6, 6).masked_fill(~causal, float('-inf'))),
        'causal': dict(is_causal=True),
    }[mask]
    bank = TapBank(nn.ModuleDict(dict(attn=attn)))
    with actual_maps(attn) as actual, bank.record():
        attn(torch.randn(2, 6, 24), **kwargs)
    tap = bank.collect().attention[0]
    maps = attention_maps(tap.q, tap.k, tap.scale, 1.0, tap.bias, tap.mask)
    assert (maps.triu(1) == 0).all()
    assert_close(maps.double(), actual[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('family', FAMILIES)
def test_tokens_are_block_outputs_and_the_normed_end(family):
    model, run = ZOO[family]()
    model.eval()
    bank = TapBank(model, layers=[], tokens=[1, 'final'])
    with bank.record():
        output = run(model)
    captured = bank.collect()
    assert captured.attention == []
    prefix = 2 if 'distilled' in family else 1
    assert captured.tokens[1].patches.shape == (2, 16, 24)
    assert captured.tokens['final'].x.shape == (2, 16 + prefix, 24)
    cls_token = captured.tokens['final'].x[:, 0]
    if family.startswith('timm'):
        assert_close(model.head(model.fc_norm(cls_token)), output)
    else:
        first = output[-1][0] if isinstance(output[-1], (tuple, list)) else output[-1]
        assert_close(cls_token, first)


def test_a_block_that_is_its_own_attention_is_the_block():
    model, run = ZOO['timm ViT, attention beside MLP']()
    bank, outputs = TapBank(model.eval(), layers=[], tokens=[1, 2]), []
    for block in model.blocks:
        block.register_forward_hook(lambda module, args, output: outputs.append(output))
    with bank.record():
        run(model)
    captured = bank.collect()
    assert_close([captured.tokens[n].x for n in (1, 2)], outputs, rtol=0, atol=0)
    anatomy = Anatomy(nn.Sequential(nn.Identity(), model))
    assert anatomy.blocks == list(model.blocks)
    assert anatomy.trunk is model


def test_layers_are_numbered_from_one_and_come_in_the_asked_order():
    model = timm_vit().eval()
    images = torch.randn(1, 3, 32, 32)
    whole, part = TapBank(model), TapBank(model, layers=[3, 1])
    with whole.record(), part.record():
        model(images)
    every, some = whole.collect().attention, part.collect().attention
    assert_close([t.q for t in some], [every[2].q, every[0].q])


@pytest.mark.parametrize('kwargs', [dict(layers=[0]), dict(layers=[4]), dict(tokens=[9])])
def test_a_layer_outside_the_model_is_refused_before_any_hook(kwargs):
    model = timm_vit()
    with pytest.raises(ConfigError, match='between 1 and 3'):
        TapBank(model, **kwargs)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_idle_bank_keeps_nothing_and_collect_pops():
    model = timm_vit()
    bank = TapBank(model)
    model(torch.randn(1, 3, 32, 32))
    with pytest.raises(RuntimeError, match='did not run inside record'):
        bank.collect()
    with bank.record():
        model(torch.randn(1, 3, 32, 32))
    bank.collect()
    with pytest.raises(RuntimeError, match='did not run inside record'):
        bank.collect()


def test_a_layer_that_runs_twice_is_refused_when_its_first_tap_has_been_passed_on_too():
    model, seen = timm_vit(), []
    bank = TapBank(model, layers=[2])
    with pytest.raises(RuntimeError, match='ran twice'), bank.record(readers={2: seen.append}):
        model(torch.randn(1, 3, 32, 32))
        model(torch.randn(1, 3, 32, 32))
    assert len(seen) == 1 and not model.blocks[1].attn._forward_hooks
    with bank.record(readers={2: seen.append}):
        model(torch.randn(1, 3, 32, 32))
    assert bank.collect().attention == [None] and len(seen) == 2


def test_an_exception_disarms_and_empties():
    model = timm_vit()
    bank = TapBank(model)
    with pytest.raises(ZeroDivisionError), bank.record():
        model(torch.randn(1, 3, 32, 32))
        raise ZeroDivisionError
    assert not bank._store.armed
    assert not bank._store.kept


def test_two_forwards_in_one_record_and_nested_records_are_refused():
    model = timm_vit()
    bank = TapBank(model)
    with pytest.raises(RuntimeError, match='ran twice'), bank.record():
        for _ in range(2):
            model(torch.randn(1, 3, 32, 32))
    with bank.record(), pytest.raises(RuntimeError, match='already'), bank.record():
        pass


def test_a_deep_copy_of_the_model_leaves_the_bank_alone():
    model = timm_vit()
    bank = TapBank(model)
    copied = copy.deepcopy(model)
    with bank.record():
        model(torch.ones(1, 3, 32, 32))
        copied(torch.zeros(1, 3, 32, 32))
    assert len(bank.collect().attention) == 3


def test_close_removes_the_hooks():
    model = timm_vit()
    TapBank(model, tokens=[1, 'final']).close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_model_without_attention_is_refused_only_when_attention_is_asked_for():
    cnn = timm.create_model('resnet10t')
    TapBank(cnn, layers=[])
    with pytest.raises(UnsupportedAttention, match='no attention layer'):
        TapBank(cnn)


@pytest.mark.parametrize(
    'model, reason',
    [
        (lambda: timm.layers.Attention(24, 3, gated=True), 'a gate'),
        (lambda: timm.layers.Attention(24, 3, scale_norm=True, norm_layer=nn.LayerNorm), 'a norm'),
        (lambda: nn.MultiheadAttention(24, 3, add_bias_kv=True), 'add_bias_kv'),
        (lambda: nn.MultiheadAttention(24, 3, kdim=12), 'cross-attention'),
        (lambda: timm.layers.AttentionRope(24, 3, gated=True), 'a gate'),
        (lambda: timm.layers.DiffAttention(24, 3), 'difference of two softmaxes'),
        (
            lambda: type('Sub', (timm.layers.Attention,), dict(forward=lambda *a: 0))(24, 3),
            'overri',
        ),
        (lambda: timm.models.tnt.Attention(24, 24, 3), 'no attention family reads this class'),
    ],
)
def test_what_cannot_be_exact_is_refused_by_class_and_layer(model, reason):
    with pytest.raises(UnsupportedAttention, match=rf"at '.*{reason}"):
        TapBank(nn.ModuleDict(dict(layer=model())))


def test_mmpretrain_qk_scale_is_refused():
    from mmpretrain.models.utils import MultiheadAttention

    attn = MultiheadAttention(24, 3, qk_scale=0.5)
    with pytest.raises(UnsupportedAttention, match=r"'attn'.*qk_scale"):
        TapBank(nn.ModuleDict(dict(attn=attn)))


def test_a_family_is_added_with_one_decorator():
    class Mine(nn.Module):
        num_heads = 2

        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.proj = (nn.Linear(8, 8) for _ in range(4))

        def forward(self, x):
            q, k, v = (m(x).unflatten(-1, (2, 4)).transpose(1, 2) for m in (self.q, self.k, self.v))
            return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    @ATTENTION_TAPS.register(Mine)
    class MineFamily(AttentionFamily):
        outputs = ('q', 'k', 'v')

        def read(self, attn, outputs, call):
            q, k, v = (outputs[n].unflatten(-1, (2, 4)).transpose(1, 2) for n in 'qkv')
            return AttentionTap(q, k, v, attn.proj.weight, 0.5)

    model = nn.Sequential(type('Child', (Mine,), {})())
    bank = TapBank(model)
    with bank.record():
        out = model(torch.randn(1, 3, 8))
    tap = bank.collect().attention[0]
    x = attention_maps(tap.q, tap.k, tap.scale) @ tap.v
    assert_close(model[0].proj(x.transpose(1, 2).flatten(2)), out)
