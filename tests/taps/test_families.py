"""Tapped attention against what every family really computes."""

import copy
import importlib
from functools import partial

import pytest
import timm
import torch
from taps.zoo import PADDED, ZOO, Case, actual_maps, beside, hugging_face, language, llama, small
from torch import nn
from torch.testing import assert_close

from shd_vit.errors import UnsupportedAttention
from shd_vit.functional import attention_maps, counted_rows
from shd_vit.taps import TapBank
from shd_vit.taps.families.no_maps import REASONS


def tapped(case, bank=None):
    bank = bank or TapBank(case.model)
    with bank.record():
        output = case.run(case.model)
    return bank.collect().attention, output


@pytest.mark.parametrize('name', ZOO)
def test_a_tap_that_is_passed_on_is_the_one_that_would_be_collected(name):
    case = ZOO[name]()
    case.model.eval()
    bank = TapBank(case.model)
    torch.manual_seed(5)
    expected, _ = tapped(case, bank)
    passed = {}
    readers = {number: partial(passed.__setitem__, number) for number in bank.layers}
    torch.manual_seed(5)
    with bank.record(readers=readers):
        case.run(case.model)
    assert list(bank.collect().attention) == [None] * len(bank.layers)
    for number, tap in zip(bank.layers, expected, strict=True):
        assert_close(passed[number]._asdict(), tap._asdict(), rtol=0, atol=0)


ATTENTION_WEIGHTS = (
    *(
        'qkv.weight',
        'in_proj.weight',
        'in_proj_weight',
        'q_proj.weight',
        'Wqkv.weight',
        'to_q.weight',
    ),
    *('table', 'attention_biases', 'rel_pos', 'logit_scale', 'cpb_mlp.2.weight'),
)


def maps_of(tap):
    return attention_maps(tap.q, tap.k, tap.scale, 1.0, every_window(tap.bias, tap), tap.mask)


def rows_of(tap):
    """Which rows count: (B, H, N)."""
    bias = tap.whole_bias()
    if bias is None:
        return torch.ones(tap.q.shape[:3], dtype=torch.bool)
    return counted_rows(every_window(bias, tap)).expand(tap.q.shape[:3])


def every_window(bias, tap):
    """A bias of W windows, repeated over a batch of B' W."""
    if bias is None or bias.dim() < 4 or len(bias) in (1, len(tap.q)):
        return bias
    return bias.repeat(len(tap.q) // len(bias), 1, 1, 1)


def projection_of(attn):
    if hasattr(attn, 'to_out'):
        return attn.to_out[0]  # of diffusers
    names = ('proj', 'o_proj', 'out_proj', 'c_proj', 'Wo')
    return next(getattr(attn, name) for name in names if hasattr(attn, name))


def maps_as_tapped(maps, tap):
    """SDPA's (B H, N, N) and, of windows, (B, H, W, N, N) as (B, H, N, N)."""
    if maps.dim() == 3:
        return maps.unflatten(0, (-1, tap.q.shape[1]))
    return maps.transpose(1, 2).flatten(0, 1) if maps.dim() == 5 else maps


def output_as_tapped(output, tap):
    """(B, N, E) of a layer's output, which may be images, or windows side by side."""
    x = output[0] if isinstance(output, tuple) else output
    x = x.flatten(1, -2)
    units = len(tap.q) // len(x)
    return x.unflatten(1, (-1, units)).transpose(1, 2).flatten(0, 1) if units > 1 else x


@pytest.mark.parametrize('family', ZOO)
@torch.no_grad()  # as torch's fast path needs it
def test_taps_hold_the_maps_and_give_the_output_of_the_layer(family):
    case = ZOO[family]()
    case.model.eval()
    bank = TapBank(case.model)
    ran = []  # layers by number, in the order in which they run, with their outputs
    for number, layer in enumerate(bank.anatomy.layers):
        layer.attn.register_forward_hook(
            lambda module, args, output, number=number: ran.append((number, output)), prepend=True
        )
    with actual_maps(case.model) as maps:
        case.run(case.model)
    maps = [each for each in maps if each.shape[-2] == each.shape[-1]]  # no cross-attention
    order = sorted(range(len(ran)), key=lambda place: ran[place][0])
    ran.clear()
    taps, _ = tapped(case, bank)
    maps, outputs = [maps[place] for place in order], [ran[place][1] for place in order]
    assert len(taps) == len(maps) == len(outputs) == len(bank.anatomy.layers)
    for tap, actual, output, layer in zip(taps, maps, outputs, bank.anatomy.layers, strict=True):
        ours, rows = maps_of(tap), rows_of(tap)
        actual = maps_as_tapped(actual, tap)
        assert_close(ours[rows].double(), actual[rows], rtol=1e-5, atol=1e-6)
        if 'beside MLP' in family:
            continue  # the layer is the block: see the next test
        x = (ours @ tap.v).transpose(1, 2).flatten(2)
        mixed = x @ tap.out_proj.T
        bias = projection_of(layer.attn).bias
        mixed = mixed if bias is None else mixed + bias
        mixed = getattr(layer.attn, 'gamma1', nn.Identity())(mixed)  # mmpretrain's LayerScale
        if 'batch second' in family:
            output = output[0].transpose(0, 1)
        expected = output_as_tapped(output, tap)
        counted = rows.any(1)
        assert_close(mixed[counted], expected[counted], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('is_fused', [False, True])
@torch.no_grad()
def test_a_block_of_attention_beside_an_mlp(is_fused):
    """Block by block, its output is its input, what attention adds and what the MLP adds."""
    case = ZOO['timm ViT, attention beside MLP']()
    if is_fused:
        case = Case(
            small('vit_base_patch16_xp_224', block_fn=beside(fuse_out_proj=True))(), case.run
        )
    case.model.eval()
    calls = []
    for block in case.model.blocks:
        block.register_forward_hook(lambda module, args, output: calls.append((args[0], output)))
    taps, _ = tapped(case)
    for tap, (x, output), block in zip(taps, calls, case.model.blocks, strict=True):
        hidden = block.in_proj(block.in_norm(x))[..., : block.in_split[0]]
        if block.mlp_bias is not None:
            hidden = hidden + block.mlp_bias
        hidden = block.mlp_act(hidden)
        if is_fused:
            nothing = torch.zeros_like(x)
            of_mlp = block.out_proj(torch.cat([nothing, hidden], dim=-1))
        else:
            of_mlp = block.mlp_out_proj(hidden) + block.attn_out_proj.bias
        mixed = (maps_of(tap) @ tap.v).transpose(1, 2).flatten(2) @ tap.out_proj.T
        assert_close(x + mixed + of_mlp, output, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('family', ZOO)
@torch.no_grad()
def test_tapping_changes_no_output_and_closing_restores(family):
    case = ZOO[family]()
    case.model.eval()

    def run():
        torch.manual_seed(1)
        output = case.run(case.model)
        output = output if isinstance(output, torch.Tensor) else output[0]
        return output[-1] if isinstance(output, (tuple, list)) else output

    before = run()
    bank = TapBank(case.model)
    _, with_taps = tapped(case, bank)
    armed = with_taps if isinstance(with_taps, torch.Tensor) else with_taps[0]
    armed = armed[-1] if isinstance(armed, (tuple, list)) else armed
    idle = run()
    bank.close()
    assert_close(run(), before, rtol=0, atol=0)
    # torch's fast path is left while hooks are installed, so the last bits may differ there.
    tolerance = dict(rtol=1e-5, atol=1e-5) if 'torch' in family else dict(rtol=0, atol=0)
    assert_close(armed, before, **tolerance)
    assert_close(idle, before, **tolerance)


@pytest.mark.parametrize('family', ZOO)
def test_gradients_reach_what_the_maps_are_made_from(family):
    case = ZOO[family]()
    case.model.train()
    taps, _ = tapped(case)
    sum(maps_of(tap).square().sum() for tap in taps).backward()
    layer = TapBank(case.model).anatomy.layers[0].attn
    for name, parameter in layer.named_parameters():
        if any(part in name for part in ATTENTION_WEIGHTS):
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_masks_hide_keys_and_padding_does_not_count():
    taps, _ = tapped(llama('left'))
    for tap in taps:
        maps = maps_of(tap)
        assert (maps.triu(1) == 0).all()
        assert (maps[1, :, :, :3] == 0).all()
        assert (maps[1, :, :3] == 0).all()
        assert_close(maps[1, :, 3:].sum(-1), torch.ones(6, 4))
        assert tap.k.shape[1] == tap.v.shape[1] == 6


def test_a_copy_of_a_hugging_face_model_records_for_itself():
    case = hugging_face('ViT')
    bank = TapBank(case.model)
    copied = copy.deepcopy(case.model)
    with bank.record():
        case.run(case.model)
        case.run(copied)  # would be refused as a second forward
    assert len(bank.collect().attention) == 3


def test_hugging_face_keeps_sdpa_and_gets_it_back():
    case = hugging_face('ViT')
    first, second = TapBank(case.model), TapBank(case.model, layers=[2])
    with first.record(), second.record():
        case.run(case.model)
    assert_close(second.collect().attention[0].q, first.collect().attention[1].q)
    first.close()
    tapped(case, second)
    second.close()
    assert case.model.config._attn_implementation == 'sdpa'


def test_what_hugging_face_computes_otherwise_is_refused():
    case = hugging_face('ViT')
    case.model.set_attn_implementation('eager')
    with pytest.raises(
        UnsupportedAttention, match=r"'layers.0.attention'.*set_attn_implementation"
    ):
        TapBank(case.model)
    with_cache = language('GPT2', n_embd=24, n_layer=2, n_head=3)
    bank = TapBank(with_cache.model)
    past = with_cache.model(input_ids=torch.ones(1, 4, dtype=torch.long)).past_key_values
    step = Case(
        with_cache.model,
        lambda m: m(input_ids=torch.ones(1, 2, dtype=torch.long), past_key_values=past),
    )
    with pytest.raises(UnsupportedAttention, match='2 queries see 6 keys'):
        tapped(step, bank)


@pytest.mark.parametrize('heads_apart', [False, True])
def test_boolean_masks_of_torch_hide_where_they_are_true(heads_apart):
    """The module's own weights are the oracle; a mask may be (N, N) or (B * H, N, N)."""
    mask = torch.rand(2 * 3, 6, 6) > 0.7 if heads_apart else torch.ones(6, 6).triu(1).bool()
    mask[..., 0] = False  # every query sees something
    weights = []

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.MultiheadAttention(24, 3, batch_first=True)

        def forward(self, x):
            masks = dict(attn_mask=mask, key_padding_mask=PADDED)
            weights.append(self.attn(x, x, x, average_attn_weights=False, **masks)[1])

    x = torch.randn(2, 6, 24)
    ((tap,), _) = tapped(Case(Layer(), lambda model: model(x)))
    rows = rows_of(tap)
    assert rows.any() and not rows.all()
    assert_close(maps_of(tap)[rows], weights[0][rows])


@torch.no_grad()
def test_nested_tensors_of_torch_are_refused():
    layer = nn.TransformerEncoderLayer(24, 4, 48, batch_first=True)
    case = Case(
        nn.TransformerEncoder(layer, 2).eval(),
        lambda model: model(torch.randn(2, 6, 24), src_key_padding_mask=PADDED),
    )
    with pytest.raises(UnsupportedAttention, match='enable_nested_tensor=False'):
        tapped(case)


@pytest.mark.parametrize(
    'name, reason',
    [
        ('cait_xxs24_224', 'TalkingHeadAttn .*mixed between heads after the softmax'),
        ('convit_tiny', "GPSA at 'blocks.0.attn': .*mixture of two softmaxes"),
        ('levit_128s', 'levit.Attention .*activation between attention and its output projection'),
        ('xcit_nano_12_p16_224', 'XCA .*between channels'),
        ('pvt_v2_b0', 'keys are pooled'),
        ('mvitv2_tiny', 'keys are pooled'),
        ('hiera_tiny_224', r"'blocks.1.attn': its queries are pooled \(q_stride=4\)"),
        ('efficientvit_b0', 'LiteMLA .*linear attention'),
        ('volo_d1_224', 'OutlookAttention .*without keys'),
        ('vit_dpwee_patch16_reg1_gap_256', 'difference of two softmaxes'),
    ],
)
def test_what_is_no_map_is_refused_by_name(name, reason):
    with torch.device('meta'):
        model = timm.create_model(name)
    with pytest.raises(UnsupportedAttention, match=reason) as error:
        TapBank(model)
    assert '\n' not in str(error.value)


def test_every_refused_class_exists():
    for path in REASONS:
        module, name = path.rsplit('.', 1)
        assert issubclass(getattr(importlib.import_module(module), name), nn.Module)


def test_cross_attention_of_torch_is_refused():
    class Cross(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.MultiheadAttention(24, 3, batch_first=True)

        def forward(self, x):
            return self.attn(x, x + 1, x + 1)

    x = torch.randn(2, 5, 24)
    with pytest.raises(UnsupportedAttention, match='cross-attention'):
        tapped(Case(Cross(), lambda model: model(x)))


def test_relative_positions_that_are_dropped_at_random_are_refused():
    """timm's RelPosMlp has a dropout of 0.125, drawn anew at each call."""
    case = ZOO['timm RelPos ViT']()
    for block in case.model.train().blocks:
        block.attn.rel_pos.mlp.drop1.p = 0.125
    with pytest.raises(UnsupportedAttention, match='relative positions are dropped at random'):
        tapped(case)
    for block in case.model.blocks:
        block.attn.rel_pos.mlp.drop1.p = 0
    with actual_maps(case.model) as expected:
        taps, _ = tapped(case)
    for tap, maps in zip(taps, expected, strict=True):
        assert_close(maps_of(tap).double(), maps, rtol=1e-5, atol=1e-5)
