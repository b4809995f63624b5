"""Attention functions of transformers other than SDPA: the maps that they compute, or a refusal."""

from itertools import pairwise
from unittest import mock

import pytest
import torch
import transformers
from taps.flash import flash_kernels
from taps.test_families import maps_of, rows_of
from taps.zoo import hugging_face
from torch.testing import assert_close
from transformers.integrations import flex_attention as flex

from shd_vit.errors import UnsupportedAttention
from shd_vit.taps import TapBank

TOKENS = 9
SIZES = dict(
    vocab_size=50,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    intermediate_size=48,
    pad_token_id=0,
)
PACKED = torch.tensor([[0, 1, 2, 3, 0, 0, 1, 2, 3]])  # documents of 4, 1 and 4 tokens
ENDS = torch.tensor([0, 4, 5, 9], dtype=torch.int32)


def model(name='Llama', implementation='flash_attention_2', **kwargs):
    torch.manual_seed(0)
    config = getattr(transformers, f'{name}Config')(**{**SIZES, **kwargs})
    made = getattr(transformers, f'{name}Model')(config).eval()
    made.config._attn_implementation = implementation
    return made


def words(batch=2, padding=None):
    ids = torch.randint(1, 50, (batch, TOKENS), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    if padding:
        mask[1, slice(0, 5) if padding == 'left' else slice(5, TOKENS)] = 0
    return dict(input_ids=ids, attention_mask=mask)


def tapped(made, **inputs):
    bank = TapBank(made)
    with torch.no_grad(), bank.record():
        made(**inputs, use_cache=False)
    return bank.collect().attention


def lengths(dtype=torch.int32):
    return dict(cu_seq_lens_q=ENDS, cu_seq_lens_k=ENDS, max_length_q=4, max_length_k=4)


window = dict(name='Mistral', sliding_window=3)
qwen = dict(
    name='Qwen2', use_sliding_window=True, sliding_window=3, max_window_layers=1
)  # a layer without and one with
packed = {'input_ids': words(1)['input_ids'], 'position_ids': PACKED}
FLASH = {
    'grouped heads': ({}, words()),
    'left padding': ({}, words(padding='left')),
    'right padding': ({}, words(padding='right')),
    'window': (window, words()),
    'window, left padding': (window, words(padding='left')),
    'window wider than the text': ({**window, 'sliding_window': TOKENS}, words()),
    'window in one layer': (qwen, words(padding='right')),
    'packed by positions': ({}, packed),
    'packed by positions, window': (window, packed),
    'packed by lengths': ({}, {**packed, **lengths()}),
    'flash attention 3': (dict(implementation='flash_attention_3'), words(padding='left')),
}


@pytest.mark.parametrize('case', FLASH)
def test_flash_attention_has_the_maps_of_its_kernels(case):
    settings, inputs = FLASH[case]
    made = model(**settings)
    with flash_kernels(made.config._attn_implementation) as kernels:
        taps = tapped(made, **inputs)
    check_sequences(taps, kernels.maps, inputs)
    assert all(tap.bias is None for tap in taps)  # no dense mask is made
    assert made.config._attn_implementation == settings.get('implementation', 'flash_attention_2')


def check_sequences(taps, found, inputs):
    """Maps of a tap against those of its sequences, which stand where the batch says."""
    assert len(taps) == len(found) > 0
    mask = inputs.get('attention_mask', torch.ones_like(inputs['input_ids'])).bool()
    rows = [(b, m.nonzero().flatten()) for b, m in enumerate(mask)]
    if 'position_ids' in inputs:
        rows = [(0, torch.arange(a, b)) for a, b in pairwise(ENDS)]
    for tap, maps in zip(taps, found, strict=True):
        expected = torch.zeros(*tap.q.shape[:3], TOKENS, dtype=torch.float64)
        for (b, places), each in zip(rows, maps, strict=True):
            expected[b, :, places[:, None], places] = each
        assert_close(maps_of(tap).double(), expected, rtol=1e-4, atol=1e-6)
        assert rows_of(tap).any(1).equal(mask)


def test_flash_attention_of_images_looks_both_ways():
    case = hugging_face('ViT')
    case.model.eval().config._attn_implementation = 'flash_attention_2'
    bank = TapBank(case.model)
    with flash_kernels() as kernels, torch.no_grad(), bank.record():
        case.run(case.model)
    for tap, maps in zip(bank.collect().attention, kernels.maps, strict=True):
        assert_close(maps_of(tap).double(), torch.stack(maps), rtol=1e-4, atol=1e-6)


def test_flash_attention_learns_through_its_tap():
    made = model().train()
    bank = TapBank(made)
    with flash_kernels(), bank.record():
        made(**words(), use_cache=False)
    sum(tap.q.square().sum() for tap in bank.collect().attention).backward()
    assert made.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0


def holes():
    inputs = words()
    inputs['attention_mask'][0, 3] = 0
    return inputs


REFUSED = {
    'packed rows that see each other': (
        {},
        dict(input_ids=words()['input_ids'], position_ids=PACKED.repeat(2, 1)),
        'position_ids start anew within 2 rows',
    ),
    'several rows of lengths': (
        {},
        dict(input_ids=words()['input_ids'], **lengths()),
        'cu_seq_lens_q of 2 rows',
    ),
    'padding inside a window': (window, holes(), 'sliding_window=3 counts tokens without'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_calls_that_a_mask_cannot_say(case):
    settings, inputs, message = REFUSED[case]
    with flash_kernels(), pytest.raises(UnsupportedAttention, match=message):
        tapped(model(**settings), **inputs)


@pytest.mark.parametrize('implementation', ['sdpa', 'flash_attention_2', 'flex_attention'])
@pytest.mark.parametrize(
    'name, message',
    [
        ('Gemma2', r'its logits are capped \(attn_logit_softcapping\)'),
        ('GptOss', r'its sinks take a part of each row \(sinks\)'),
    ],
)
def test_what_changes_maps_otherwise_is_refused_at_construction(implementation, name, message):
    made = model(name, implementation, head_dim=4)
    with pytest.raises(UnsupportedAttention, match=message) as caught:
        TapBank(made)
    assert '\n' not in str(caught.value)


def test_gemma2_without_capping_is_tapped():
    settings = dict(name='Gemma2', head_dim=4, attn_logit_softcapping=None, sliding_window=3)
    made = model(**settings)
    with flash_kernels() as kernels:
        taps = tapped(made, **words(padding='left'))
    check_sequences(taps, kernels.maps, words(padding='left'))


FLEX = {
    'grouped heads': ({}, words()),
    'left padding': ({}, words(padding='left')),
    'window': (window, words(padding='right')),
    'packed': ({}, packed),
    'additive mask': (
        {},
        dict(words(), attention_mask=torch.randn(2, 1, TOKENS, TOKENS).triu(1) * -1e4),
    ),
}


def check_flex(made, inputs):
    """Against the maps that eager attention of the same model gives."""
    taps = tapped(made, **inputs)
    made.config._attn_implementation = 'eager'
    with torch.no_grad():
        expected = made(**inputs, use_cache=False, output_attentions=True).attentions
    assert len(taps) == len(expected) > 0
    for tap, maps in zip(taps, expected, strict=True):
        rows = rows_of(tap)
        assert_close(maps_of(tap)[rows], maps[rows], rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings('ignore:flex_attention called without')
@pytest.mark.parametrize('case', FLEX)
def test_flex_attention_has_the_maps_of_eager_attention(case):
    """Run without compiling, as flex attention may be; its masks likewise."""
    from transformers import masking_utils

    settings, inputs = FLEX[case]
    plain = masking_utils.create_block_mask
    with (
        mock.patch.object(flex, 'is_torchdynamo_compiling', lambda: True),
        mock.patch.object(
            masking_utils,
            'create_block_mask',
            lambda *args, _compile, **kwargs: plain(*args, _compile=False, **kwargs),
        ),
    ):
        check_flex(model(**{**settings, 'implementation': 'flex_attention'}), inputs)


@pytest.mark.slow
def test_compiled_flex_attention_has_the_maps_of_eager_attention():
    check_flex(model(implementation='flex_attention'), words(padding='left'))
