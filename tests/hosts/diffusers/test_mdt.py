"""MDTv2 against loops over its equations; masks; weights of the authors' layout."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from shd_vit.errors import CheckpointError, ConfigError
from shd_vit.hosts.diffusers.mdt import SIZES, MDTv2Model, RelativeAttention, draw_kept
from shd_vit.hosts.diffusers.mdt_weights import load_authors_weights
from shd_vit.taps import TapBank

GRID, CLASSES = 4, 3
TINY = dict(
    num_attention_heads=2,
    attention_head_dim=8,
    num_layers=6,
    decoder_layers=2,
    sample_size=8,
    num_embeds_ada_norm=CLASSES,
)


def model(**changes):
    torch.manual_seed(0)
    model = MDTv2Model(**{**TINY, **changes})
    for parameter in model.parameters():  # as made, blocks pass on their input
        nn.init.normal_(parameter, std=0.2)
    return model


def inputs(batch=3):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 4, 8, 8, generator=generator)
    return x, torch.tensor([0, 500, 999][:batch]), torch.tensor([0, 1, CLASSES][:batch])


def test_bias_is_that_of_the_offset_between_two_patches():
    attn = RelativeAttention(16, 2, GRID)
    bias = attn.bias(model().relative)
    table = attn.table.unflatten(0, (2 * GRID - 1, 2 * GRID - 1))
    for query in range(GRID**2):
        for key in range(GRID**2):
            down = query // GRID - key // GRID + GRID - 1
            right = query % GRID - key % GRID + GRID - 1
            assert_close(bias[:, query, key], table[down, right])


def test_a_masked_block_sees_kept_tokens_alone_with_their_own_bias():
    """In float64, by a loop over samples, heads and queries."""
    torch.manual_seed(0)
    attn = RelativeAttention(16, 2, GRID).double()
    whole = attn.bias(model().relative)
    kept = draw_kept(2, GRID**2)
    x = torch.randn(2, kept.shape[1], 16).double()
    relative = model().relative[kept[:, :, None], kept[:, None, :]]
    q, k, v = attn.qkv(x).unflatten(-1, (3, 2, 8)).unbind(2)
    expected = torch.zeros_like(x)
    for b in range(2):
        for h in range(2):
            for i, token in enumerate(kept[b]):
                logits = torch.stack(
                    [
                        q[b, i, h] @ k[b, j, h] / 8**0.5 + whole[h, token, other]
                        for j, other in enumerate(kept[b])
                    ]
                )
                expected[b, i, 8 * h : 8 * h + 8] = logits.softmax(0) @ v[b, :, h]
    assert_close(attn(x, relative), attn.proj(expected))


def test_with_every_token_kept_the_masked_pass_is_the_whole_one():
    net, given = model(), inputs()
    kept = torch.stack([torch.randperm(GRID**2) for _ in range(3)])
    assert_close(net(*given, kept).sample, net(*given).sample, rtol=1e-4, atol=1e-4)


def test_side_block_changes_the_tokens_that_were_left_out_alone():
    net, given, kept = model(), inputs(), draw_kept(3, GRID**2)
    entered = {}
    net.decoder[0].register_forward_pre_hook(lambda _, args: entered.update(x=args[0]))
    net.side[0].register_forward_pre_hook(lambda _, args: entered.update(side=args[0]))
    net(*given, kept)
    is_kept = torch.zeros(3, GRID**2, dtype=torch.bool).scatter(1, kept, True)
    differs = (entered['x'] != entered['side']).any(-1)
    assert torch.equal(differs, ~is_kept)


def test_other_tokens_kept_give_other_outputs():
    net, given = model(), inputs()
    one, other = (draw_kept(3, GRID**2, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    assert not torch.allclose(net(*given, one).sample, net(*given, other).sample)


def test_every_parameter_learns_from_a_whole_and_a_masked_pass():
    net, given = model(), inputs()
    (
        net(*given).sample.square().sum() + net(*given, draw_kept(3, 16)).sample.square().sum()
    ).backward()
    still = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


def test_checkpointed_activations_give_the_same_gradients():
    gradients = []
    for is_checkpointed in (False, True):
        net = model()
        if is_checkpointed:
            net.enable_gradient_checkpointing()
        net(
            *inputs(), draw_kept(3, 16, generator=torch.Generator().manual_seed(0))
        ).sample.sum().backward()
        gradients.append([p.grad for p in net.parameters()])
    assert_close(*gradients)


def test_a_new_model_predicts_nothing_and_so_do_its_sizes():
    assert not MDTv2Model(**TINY)(*inputs()).sample.any()
    with torch.device('meta'):
        counts = {n: MDTv2Model(**SIZES[n]).num_parameters() / 1e6 for n in ('S', 'XL')}
    assert {name: round(count) for name, count in counts.items()} == dict(S=38, XL=742)


def test_saved_and_loaded_it_is_the_same(tmp_path):
    net = model()
    net.save_pretrained(tmp_path)
    again = MDTv2Model.from_pretrained(tmp_path)
    assert torch.equal(net.eval()(*inputs()).sample, again(*inputs()).sample)


def test_taps_of_a_whole_pass_leave_the_side_block_out():
    net = model()
    bank = TapBank(net, [1, 2, 3, 4, 6, 7])
    assert [layer.name.split('.')[0] for layer in bank.anatomy.layers][4] == 'side'
    with bank.record():
        net(*inputs())
    taps = bank.collect().attention
    assert len(taps) == 6 and all(tap.bias.requires_grad for tap in taps)


def test_kept_tokens_are_as_many_as_the_ratio_says_and_none_twice():
    counts = set()
    for seed in range(200):
        kept = draw_kept(4, 256, generator=torch.Generator().manual_seed(seed))
        assert all(len(set(row.tolist())) == kept.shape[1] for row in kept)
        assert not torch.equal(kept[0], kept[1])
        counts.add(kept.shape[1])
    assert min(counts) in range(128, 132) and max(counts) in range(175, 180)


@pytest.mark.parametrize('ratio', [(0.5, 0.3), (-0.1, 0.2), (0.5, 1.0), (float('nan'), 0.5)])
def test_a_ratio_that_is_none_is_refused(ratio):
    with pytest.raises(ConfigError, match='mask ratio'):
        draw_kept(2, 16, ratio)


@pytest.mark.parametrize(
    ('field', 'value', 'reason'),
    [
        ('decoder_layers', 3, 'even number'),
        ('decoder_layers', 6, 'even number'),
        ('decoder_layers', 0, 'decoder_layers 1 or more'),
        ('sample_size', 7, 'multiple of'),
    ],
)
def test_sizes_that_do_not_come_out_even_are_refused(field, value, reason):
    with pytest.raises(ConfigError, match=reason):
        MDTv2Model(**{**TINY, field: value})


def authors_layout(net):
    """A state dict under the names of their modules, from the model's."""
    weights = {}
    lists = dict(encoder_in='en_inblocks', encoder_out='en_outblocks', decoder='de_blocks')
    lists |= dict(side='sideblocks')
    parts = dict(
        modulation='adaLN_modulation.1', merge='skip_linear', mlp_0='mlp.fc1', mlp_2='mlp.fc2'
    )
    for ours, theirs in lists.items():
        for n, block in enumerate(getattr(net, ours)):
            for name, weight in block.state_dict().items():
                name = name.replace('mlp.', 'mlp_')
                head = name.rpartition('.')[0]
                if name == 'attn.table':
                    weight = torch.cat([weight, torch.full((3, 2), float('nan'))])
                    name = 'attn.rel_pos_bias.relative_position_bias_table'
                    weights[f'{theirs}.{n}.attn.rel_pos_bias.relative_position_index'] = (
                        net.relative
                    )
                weights[f'{theirs}.{n}.{name.replace(head, parts.get(head, head))}'] = weight
    others = {
        'patches': 'x_embedder.proj',
        'time.linear_1': 't_embedder.mlp.0',
        'time.linear_2': 't_embedder.mlp.2',
        'label': 'y_embedder',
        'modulation': 'final_layer.adaLN_modulation.1',
        'head': 'final_layer.linear',
    }
    for ours, theirs in others.items():
        for name, weight in net.get_submodule(ours).state_dict().items():
            weights[f'{theirs}.{name}'] = weight
    weights |= dict(pos_embed=net.position, decoder_pos_embed=net.decoder_position)
    return weights | dict(mask_token=net.mask_token)


def test_weights_in_the_authors_layout_load():
    net, other = model(), MDTv2Model(**TINY)
    load_authors_weights(other, authors_layout(net))
    assert torch.equal(net(*inputs()).sample, other(*inputs()).sample)


def test_weights_of_another_size_are_refused_by_name():
    with pytest.raises(CheckpointError, match=r'decoder\.2.*the model has none'):
        load_authors_weights(model(), authors_layout(model(num_layers=7, decoder_layers=3)))
    with pytest.raises(CheckpointError, match=r'label\.embedding_table\.weight: the model has'):
        load_authors_weights(model(), authors_layout(model(num_embeds_ada_norm=9)))
