"""What is found of a model: its layers, what is left out, its norm, its tokens and their grid."""

import pytest
import timm
import torch
from mmpretrain.models import MODELS
from models import batch, build_distiller, timm_classifier
from taps.zoo import (
    PADDED,
    encoder,
    hugging_face,
    language,
    llama,
    mmpretrain_vit,
    timm_vit,
    torchvision_vit,
)
from torch import nn
from torch.testing import assert_close

from shd_vit.distillation.summary import summary
from shd_vit.errors import UnsupportedAttention
from shd_vit.taps import FINAL, Anatomy, TapBank
from shd_vit.taps.norms import FINAL_NORMS
from shd_vit.taps.tokens import Segment, segment_places


def siglip(**kwargs):
    return timm_vit('vit_base_patch16_siglip_224', **kwargs)


def final_tokens(model, run, tokens=(FINAL,)):
    bank = TapBank(model, layers=[], tokens=tokens)
    with bank.record():
        output = run(model)
    return bank.collect().tokens, output


@pytest.mark.parametrize('wrap', [False, True])
@pytest.mark.parametrize('depth', [1, 3])
def test_an_attention_pool_behind_the_blocks_is_left_out(depth, wrap):
    model = siglip(depth=depth)
    model = nn.Sequential(nn.Identity(), model) if wrap else model
    anatomy = Anatomy(model)
    assert (anatomy.depth, anatomy.stages) == (depth, [list(range(1, depth + 1))])
    place = '1.attn_pool' if wrap else 'attn_pool'
    assert anatomy.left_out == [f"AttentionPoolLatent at '{place}'"]
    assert anatomy.prefix_tokens == ()
    tap = final_tokens(model, lambda m: m(torch.randn(2, 3, 32, 32)))[0][FINAL]
    assert tap.patches.shape == (2, 16, 24) and tap.grid == (4, 4)


def test_so_is_the_pool_of_siglip_in_transformers_which_a_family_knows():
    model, run = hugging_face('SiglipVision')
    anatomy = Anatomy(model)
    assert anatomy.left_out == ["MultiheadAttention at 'head.attention'"]
    assert (anatomy.depth, anatomy.prefix_tokens) == (3, ())
    taps, output = final_tokens(model.eval(), run)
    assert_close(taps[FINAL].x, output.last_hidden_state, rtol=0, atol=0)  # normed
    assert taps[FINAL].grid == (4, 4)


def test_models_without_such_a_pool_leave_nothing_out():
    for model in (timm_vit(), torchvision_vit(), encoder()().model, llama(None).model):
        assert Anatomy(model).left_out == []


def test_unknown_attention_among_the_blocks_is_refused_all_the_same():
    model = siglip()
    model.blocks[1].attn = timm.layers.DiffAttention(24, 3)
    with pytest.raises(UnsupportedAttention, match=r"DiffAttention at 'blocks.1.attn'"):
        Anatomy(model).layers  # noqa: B018
    beside = timm_vit()
    beside.blocks[0].cross = timm.layers.AttentionPoolLatent(24, num_heads=3)
    with pytest.raises(UnsupportedAttention, match=r"AttentionPoolLatent at 'blocks.0.cross'"):
        Anatomy(beside).layers  # noqa: B018


def test_attention_of_bare_parameters_is_not_overlooked():
    class BareAttention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Parameter(torch.randn(24, 72))

    model = timm_vit()
    model.blocks[1].attn = BareAttention()
    with pytest.raises(UnsupportedAttention, match=r"BareAttention at 'blocks.1.attn'"):
        Anatomy(model).layers  # noqa: B018


def test_the_opening_table_says_what_is_left_out():
    teacher = timm_classifier(6, model_name='vit_base_patch16_siglip_224', num_classes=0)
    distiller = build_distiller(
        student=timm_classifier(3, class_token=False, global_pool='avg'),
        teacher=teacher,
        losses=dict(shd=dict(type='SHDLoss', tokens='patches')),
    )
    text = summary(distiller.distillation)
    assert "teacher that is left out: AttentionPoolLatent at 'model.attn_pool'" in text
    assert text.count('left out') == 1
    losses = distiller(*batch(), mode='loss')
    assert losses['loss_shd'].isfinite() and losses['loss_shd'] > 0


@pytest.mark.parametrize(
    'case',
    [
        lambda: language('GPT2', n_embd=24, n_layer=2, n_head=3),
        lambda: llama('left'),
        lambda: language(
            'OPT',
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=3,
            ffn_dim=48,
            word_embed_proj_dim=24,
        ),
        lambda: hugging_face('ViT'),
        lambda: hugging_face('SiglipVision'),
    ],
)
def test_the_final_norm_is_that_of_the_library(case):
    model, run = case()
    taps, output = final_tokens(model.eval(), run)
    assert_close(taps[FINAL].x, output.last_hidden_state, rtol=0, atol=0)


class Blocks(nn.Module):
    """A trunk with a norm of a given name, or none."""

    num_prefix_tokens = 0

    def __init__(self, norm=None, first=False, module=None):
        super().__init__()
        module = nn.LayerNorm(24) if module is None else module
        if norm and first:
            self.add_module(norm, module)
        self.blocks = nn.ModuleList(nn.Sequential() for _ in range(2))
        for block in self.blocks:
            block.add_module('attn', timm.layers.Attention(24, 3))
        if norm and not first:
            self.add_module(norm, module)
        self.path, self.first = norm, first

    def forward(self, x):
        norm = getattr(self, self.path) if self.path else nn.Identity()
        x = norm(x) if self.first else x
        for block in self.blocks:
            x = block(x)
        return x if self.first else norm(x)


@pytest.mark.parametrize('name', ['ln_post', 'ln_f', 'norm_out', 'norm', 'final_layer_norm'])
def test_norms_by_the_names_of_other_libraries(name):
    model = Blocks(name)
    taps, output = final_tokens(model, lambda m: m(torch.randn(2, 5, 24)))
    assert_close(taps[FINAL].x, output, rtol=0, atol=0)


def test_the_norm_inside_the_last_layer_of_the_authors_dit():
    model = Blocks('final_layer', module=nn.Sequential())
    model.final_layer.add_module('norm_final', nn.LayerNorm(24))
    taps, output = final_tokens(model, lambda m: m(torch.randn(2, 5, 24)))
    assert_close(taps[FINAL].x, output, rtol=0, atol=0)


@pytest.mark.parametrize(
    'model',
    [
        lambda: Blocks('my_scaling'),
        lambda: Blocks('my_scaling', first=True),
        lambda: Blocks('head', module=nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 5))),
    ],
)
def test_a_norm_of_an_unknown_name_is_refused_and_says_what_was_looked_for(model):
    with pytest.raises(
        UnsupportedAttention, match=r"of the student .*(my_scaling|head\.0)'.*norm, ln1, .*ln_post"
    ):
        TapBank(model(), layers=[], tokens=[FINAL], role='student')
    TapBank(model(), layers=[], tokens=[1, 2])  # which asks for no norm


def test_a_norm_of_ones_own_is_added_by_name(monkeypatch):
    monkeypatch.setattr('shd_vit.taps.norms.FINAL_NORMS', FINAL_NORMS)
    FINAL_NORMS.append('my_scaling')
    try:
        model = Blocks('my_scaling')
        taps, output = final_tokens(model, lambda m: m(torch.randn(2, 5, 24)))
    finally:
        FINAL_NORMS.remove('my_scaling')
    assert_close(taps[FINAL].x, output, rtol=0, atol=0)


def test_a_norm_of_a_known_name_that_runs_before_the_blocks_is_refused():
    with pytest.raises(UnsupportedAttention, match='LayerNorm runs before the last block'):
        final_tokens(Blocks('norm', first=True), lambda m: m(torch.randn(2, 5, 24)))


def test_a_norm_of_the_pooled_token_alone_is_refused():
    model, run = hugging_face('CLIPVision')
    with pytest.raises(UnsupportedAttention, match=r'LayerNorm gives \[\(2, 24\)\]'):
        final_tokens(model, run)


def test_models_without_a_norm_end_with_their_last_block():
    stack = encoder()()
    stack.model.num_prefix_tokens = 0
    for model, run in (
        stack,  # states norm=None
        (Blocks(), lambda m: m(torch.randn(2, 5, 24))),
        (timm_vit(global_pool='avg'), lambda m: m.forward_features(torch.randn(2, 3, 32, 32))),
    ):
        taps, output = final_tokens(model.eval(), run)
        assert_close(taps[FINAL].x, output, rtol=0, atol=0)
    beit = mmpretrain_vit('BEiTViT')  # a norm of the average alone
    assert Anatomy(beit).final_norm is beit.layers[-1]


WIDE = (16, 64)  # 2 x 8 patches of 8


@pytest.mark.parametrize(
    'build',
    [
        lambda: timm_vit(img_size=WIDE),
        lambda: timm_vit(img_size=32, dynamic_img_size=True),
        lambda: timm_vit('vit_small_patch14_reg4_dinov2', img_size=WIDE),
        lambda: timm_vit('vit_small_patch16_dinov3'),
        lambda: MODELS.build(
            dict(
                type='VisionTransformer',
                arch=dict(embed_dims=24, num_layers=2, num_heads=3, feedforward_channels=48),
                img_size=WIDE,
                patch_size=8,
            )
        ),
        lambda: hugging_face('ViT', image_size=WIDE).model,
    ],
)
def test_the_grid_is_that_of_the_images(build):
    model = build()
    model.eval()
    tap = final_tokens(model, lambda m: m(torch.randn(1, 3, *WIDE)), [1])[0][1]
    assert tap.grid == (2, 8)
    assert tap.patches.shape[1] == 16


def test_positions_that_are_interpolated_have_the_grid_of_the_images():
    model = hugging_face('ViT').model.eval()
    x = torch.randn(1, 3, *WIDE)
    run = lambda m: m(pixel_values=x, interpolate_pos_encoding=True)  # noqa: E731
    assert final_tokens(model, run, [1])[0][1].grid == (2, 8)


def test_a_grid_that_the_tokens_do_not_fill_is_not_known():
    dropped = timm_vit(patch_drop_rate=0.5).train()
    tap = final_tokens(dropped, lambda m: m(torch.randn(1, 3, 32, 32)), [1])[0][1]
    assert tap.grid is None and tap.patches.shape[1] == 8
    taps, _ = final_tokens(*llama(None), [1])
    assert taps[1].grid is None


def test_words_are_of_one_kind_and_padding_does_not_count():
    for padding, expected in (
        (None, torch.ones(2, 7).bool()),
        ('left', torch.tensor([[1] * 7, [0] * 3 + [1] * 4]).bool()),
        ('right', torch.tensor([[1] * 7, [1] * 4 + [0] * 3]).bool()),
    ):
        model, run = llama(padding)
        taps, _ = final_tokens(model, run, [1, FINAL])
        for tap in taps.values():
            assert (tap.num_prefix, tap.segments) == (0, ())
            assert (tap.mask == expected).all() and tap.mask.dtype == torch.bool
    assert Anatomy(model).segments == ()
    with pytest.raises(UnsupportedAttention, match='has no patches'):
        Anatomy(model).prefix_tokens  # noqa: B018


def test_padding_of_torch_and_none_at_all():
    for masks, expected in ((dict(src_key_padding_mask=PADDED), ~PADDED), ({}, None)):
        model, run = encoder(**masks)()
        model.num_prefix_tokens = 0
        mask = final_tokens(model.train(), run, [1])[0][1].mask
        assert mask is expected if expected is None else (mask == expected).all()


def test_padding_among_the_patches_of_timms_naflex():
    model = timm.create_model('naflexvit_base_patch16_gap', embed_dim=24, depth=2, num_heads=3)
    prefix = Anatomy(model).num_prefix_tokens
    assert prefix == 4
    valid = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    coord = torch.cartesian_prod(torch.arange(2), torch.arange(3)).expand(2, 6, 2)
    patches = dict(patches=torch.randn(2, 6, 768), patch_coord=coord, patch_valid=valid)
    tap = final_tokens(model, lambda m: m(patches), [1])[0][1]
    assert tap.mask[:, :prefix].all() and (tap.mask[:, prefix:] == valid).all()
    assert tap.grid is None


def test_a_mask_of_other_tokens_is_refused():
    class Masked(Blocks):
        def forward(self, x, attention_mask):
            return super().forward(x)

    with pytest.raises(UnsupportedAttention, match=r'mask \(2, 6\) for tokens \(2, 5, 24\)'):
        final_tokens(Masked(), lambda m: m(torch.randn(2, 5, 24), torch.ones(2, 6)), [1])


def test_segments_that_a_model_states():
    model = Blocks()
    model.token_segments = [('text', 2), ('image', None)]
    anatomy = Anatomy(model)
    assert anatomy.segments == (Segment('text', 2), Segment('image', None))
    assert (anatomy.prefix_tokens, anatomy.num_prefix_tokens) == (('text',), 2)
    assert segment_places(anatomy.segments, 5) == [range(2), range(2, 5)]
    tap = final_tokens(model, lambda m: m(torch.randn(1, 5, 24)), [1])[0][1]
    assert (tap.num_prefix, tap.segments) == (2, anatomy.segments)


def test_two_streams_are_not_taken_for_one():
    model = Blocks()
    model.blocks[0].register_forward_hook(lambda module, args, x: (x, x))
    model.blocks[1].register_forward_pre_hook(lambda module, args: args[0][0])
    with pytest.raises(UnsupportedAttention, match='not one sequence'):
        final_tokens(model, lambda m: m(torch.randn(1, 5, 24)), [1])
