"""Masks of transformers in words, against the tensors that transformers makes of them."""

import itertools
import types

import pytest
import torch
from torch.testing import assert_close
from transformers import masking_utils

from shd_vit.taps import TapBank
from shd_vit.taps.families import hugging_face
from shd_vit.taps.families.hugging_face_masks import described, words_of

N = 9
X = torch.zeros(2, N, 4)
LEFT, RIGHT = torch.ones(2, 2, N, dtype=torch.long).unbind(0)
LEFT[0, :3], RIGHT[1, -4:] = 0, 0
POSITIONS = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4], [5, 6, 0, 0, 1, 2, 3, 4, 5]])


@pytest.fixture(autouse=True)
def registered():
    hugging_face._register('sdpa')


def make(kind, window=4, padding=None, positions=None, **more):
    """A mask of a model whose attention is tapped."""
    config = types.SimpleNamespace(
        _attn_implementation=f'{hugging_face.PREFIX}sdpa',
        sliding_window=window,
        attention_chunk_size=window,
    )
    if 'bidirectional' not in kind:
        more.update(cache=None, position_ids=positions)
    function = getattr(masking_utils, f'create_{kind}_mask')
    return function(config=config, inputs_embeds=X, attention_mask=padding, **more)


def check(made):
    mask = described(made)
    seen = mask.dense(2, N, N, made.device)
    assert_close(made, torch.ones_like(made) if seen is None else seen.expand(made.shape))
    return mask


@pytest.mark.parametrize('window', [1, 4, N, N + 1])
@pytest.mark.parametrize('padding', [None, LEFT, RIGHT], ids=['none', 'left', 'right'])
@pytest.mark.parametrize('kind', ['sliding_window_causal', 'bidirectional_sliding_window'])
def test_windows(kind, window, padding):
    made = make(kind, window, padding)
    if made is None:
        assert window > N and padding is None
    else:
        mask = check(made)
        assert (mask.window, mask.is_causal) == (
            (window, True) if 'causal' in kind else (window + 1, False)
        )


@pytest.mark.parametrize('padding', [LEFT, RIGHT], ids=['left', 'right'])
@pytest.mark.parametrize('kind', ['causal', 'bidirectional'])
def test_padding(kind, padding):
    assert check(make(kind, padding=padding)).window is None


@pytest.mark.parametrize('kind', ['causal', 'sliding_window_causal'])
def test_packed_rows(kind):
    mask = check(make(kind, positions=POSITIONS))
    assert len(mask.documents.unique()) == 3
    assert mask.padding is None


def is_even(batch, head, query, key):
    return key % 2 == 0


@pytest.mark.parametrize(
    'kind, more',
    [
        ('causal', dict(or_mask_function=is_even)),
        ('causal', dict(and_mask_function=is_even)),
        ('causal', dict(block_sequence_ids=torch.tensor([[0, 0, -1, -1, 1, 1, 1, -1, -1]] * 2))),
        ('sliding_window_causal', dict(or_mask_function=is_even)),
        ('bidirectional', dict(and_mask_function=is_even)),
        ('chunked_causal', dict()),
    ],
)
def test_what_has_no_words_stays_a_tensor(kind, more):
    made = make(kind, **more)
    assert isinstance(made, torch.Tensor) and described(made) is None


def test_words_hold_for_the_very_tensor_alone():
    made = make('causal', padding=LEFT)
    assert described(made) is not None
    assert described(made[:, :, :, :N]) is None
    made &= torch.rand(N, N) > 0.5
    assert described(made) is None
    with torch.inference_mode():  # where changes cannot be told
        assert described(make('causal', padding=LEFT)) is None
    assert described(None) is None


@pytest.mark.parametrize(
    'change',
    [
        dict(kv_length=N + 1),
        dict(q_offset=1, kv_length=N + 1),
        dict(q_offset=2, kv_offset=2),
        dict(attention_mask=torch.ones(2, N + 1, dtype=torch.bool)),
        dict(attention_mask=torch.ones(2, N, dtype=torch.long)),
        dict(mask_function=masking_utils.sliding_window_overlay(3)),  # sees all that lies ahead
        dict(
            mask_function=masking_utils.and_masks(
                masking_utils.sliding_window_causal_mask_function(3),
                masking_utils.sliding_window_overlay(5),
            )
        ),
        dict(
            mask_function=masking_utils.remap_positions_for_packed_sequence(
                masking_utils.causal_mask_function, POSITIONS
            )
        ),
    ],
)
def test_what_fields_cannot_say_is_not_said(change):
    call = dict(batch_size=2, q_length=N, kv_length=N)
    call['mask_function'] = masking_utils.causal_mask_function
    assert words_of(**call) is not None
    assert words_of(**{**call, **change}) is None


SIZES = dict(
    vocab_size=50,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    intermediate_size=48,
)
ROWS = dict(padded=dict(attention_mask=LEFT), packed=dict(position_ids=POSITIONS, use_cache=False))


@pytest.mark.parametrize('name, rows', itertools.product(('Llama', 'Mistral', 'Qwen2'), ROWS))
def test_taps_of_a_model_hold_no_tensor_of_n_by_n(name, rows):
    import transformers

    config = getattr(transformers, f'{name}Config')(**SIZES)
    config.sliding_window = 4
    model = getattr(transformers, f'{name}Model')(config)
    bank = TapBank(model)
    with bank.record():
        model(input_ids=torch.randint(0, 50, (2, N)), **ROWS[rows])
    for tap in bank.collect().attention:
        assert tap.bias is None
        assert tap.mask.is_causal
        assert (tap.mask.padding is not None) == (rows == 'padded')
        assert (tap.mask.documents is not None) == (rows == 'packed')
        assert tap.mask.window == (4 if name == 'Mistral' else None)
