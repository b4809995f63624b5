"""What of diffusers' attention is left out, and what is refused with its reason."""

import diffusers
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, HunyuanAttnProcessor2_0
from taps.zoo import dit, pixart, wan, z_image
from torch import nn
from torch.testing import assert_close

from shd_vit.errors import UnsupportedAttention
from shd_vit.taps import Anatomy, TapBank

SIZES = dict(num_attention_heads=2, attention_head_dim=12, in_channels=2, num_layers=1)


def flux():
    return diffusers.FluxTransformer2DModel(
        **SIZES,
        num_single_layers=1,
        joint_attention_dim=6,
        pooled_projection_dim=6,
        axes_dims_rope=(4, 4, 4),
    )


def flux_of_single_blocks():
    model = flux()
    model.transformer_blocks = nn.ModuleList()
    return model


def sd3():
    sizes = dict(joint_attention_dim=24, caption_projection_dim=24, pooled_projection_dim=6)
    return diffusers.SD3Transformer2DModel(**SIZES, **sizes, sample_size=8)


def sana():
    sizes = dict(num_cross_attention_heads=2, cross_attention_head_dim=12, cross_attention_dim=24)
    return diffusers.SanaTransformer2DModel(**SIZES, **sizes, caption_channels=6)


def with_processor(processor):
    model = dit().model
    model.transformer_blocks[1].attn1.set_processor(processor)
    return model


@pytest.mark.parametrize(
    'build, reason',
    [
        (flux, "'transformer_blocks.0.attn': joint attention of text and image"),
        (flux_of_single_blocks, 'no output projection of its own'),
        (sd3, 'JointAttnProcessor|joint attention of text and image'),
        (sana, 'SanaLinearAttnProcessor2_0 is linear attention, which has no maps'),
        (
            lambda: with_processor(HunyuanAttnProcessor2_0()),
            'its processor HunyuanAttnProcessor2_0 is unknown',
        ),
        (
            lambda: with_processor(AttnProcessor()),
            "'transformer_blocks.1.attn1': its processor AttnProcessor is unknown",
        ),
    ],
)
def test_what_is_not_read_exactly_is_refused_with_the_reason(build, reason):
    with pytest.raises(UnsupportedAttention, match=reason) as caught:
        TapBank(build())
    assert '\n' not in str(caught.value)


def test_cross_attention_is_no_layer_and_is_named():
    anatomy = Anatomy(pixart().model)
    assert [layer.name for layer in anatomy.layers] == [
        f'transformer_blocks.{n}.attn1' for n in range(2)
    ]
    assert anatomy.left_out == [f"Attention at 'transformer_blocks.{n}.attn2'" for n in range(2)]


def test_self_attention_that_is_given_a_text_is_refused():
    """As of LTX's kind, whose module does not say which it is."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = diffusers.models.attention_processor.Attention(24, heads=2, dim_head=12)

        def forward(self, x, text):
            return self.attn(x, encoder_hidden_states=text)

    model = nn.Sequential(Block())
    bank = TapBank(model)
    with bank.record():
        model[0](torch.randn(1, 4, 24), torch.randn(1, 4, 24))
    with pytest.raises(UnsupportedAttention, match='encoder_hidden_states: cross-attention'):
        bank.collect()


def test_a_processor_that_is_exchanged_later_is_refused():
    case = dit()
    bank = TapBank(case.model)
    case.model.transformer_blocks[0].attn1.set_processor(AttnProcessor())
    with bank.record():
        case.run(case.model)
    with pytest.raises(UnsupportedAttention, match='its processor is AttnProcessor by now'):
        bank.collect()


def test_another_backend_is_refused_and_the_librarys_own_is_left_as_it_was():
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    case = wan()
    before = dict(_AttentionBackendRegistry._backends)
    first, second = TapBank(case.model), TapBank(case.model, layers=[2])
    with first.record(), second.record():
        case.run(case.model)
    assert _AttentionBackendRegistry._backends == before
    assert_close(first.collect().attention[1].q, second.collect().attention[0].q, rtol=0, atol=0)
    case.model.blocks[0].attn1.processor._attention_backend = '_native_math'
    refused = pytest.raises(UnsupportedAttention, match="'_native_math' is not 'native'")
    with refused, first.record():
        case.run(case.model)


def test_an_exception_inside_attention_leaves_nobody_listening():
    from shd_vit.taps.families.diffusers import _inside

    case = wan()
    bank = TapBank(case.model)
    case.model.blocks[0].attn1.norm_q.weight = None  # fails in the middle of attention
    case.model.blocks[0].attn1.norm_q.normalized_shape = (7,)
    with pytest.raises(RuntimeError), bank.record():
        case.run(case.model)
    assert _inside == []


def test_padding_is_neither_key_nor_query_of_maps():
    case = pixart(mask=True)
    bank = TapBank(case.model)
    with bank.record():
        case.run(case.model)
    for tap in bank.collect().attention:
        assert tap.mask.padding.tolist() == [[True] * 16, [True] * 11 + [False] * 5]
    case = z_image()
    bank = TapBank(case.model)
    with bank.record():
        case.run(case.model)
    masks = [tap.mask.padding for tap in bank.collect().attention]
    assert any(mask is not None and not mask.all() for mask in masks)


def test_the_tokens_of_dit_are_patches_and_final_is_after_its_norm():
    case = dit()
    bank = TapBank(case.model, layers=[], tokens=[2, 'final'])
    with bank.record():
        case.run(case.model)
    tokens = bank.collect().tokens
    assert tokens[2].num_prefix == 0 and tokens[2].grid == (4, 4)
    final = tokens['final'].x
    assert_close(final.mean(-1), torch.zeros(2, 16), rtol=0, atol=1e-5)
    assert_close(final.var(-1, unbiased=False), torch.ones(2, 16), rtol=1e-3, atol=1e-3)
