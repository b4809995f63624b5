"""Names of the tokens before the patches."""

import pytest
import timm
import torch
from taps.zoo import ZOO, encoder, hugging_face, timm_vit

from shd_vit.errors import UnsupportedAttention
from shd_vit.taps import FINAL, Anatomy, TapBank

CLS, DISTILLED = ('cls',), ('cls', 'dist')
REGISTERS = ('cls', 'reg1', 'reg2', 'reg3', 'reg4')

NAMES = {
    'mmpretrain ViT': CLS,
    'mmpretrain DeiT3': CLS,
    'mmpretrain distilled DeiT': DISTILLED,
    'mmpretrain BEiT': CLS,
    'timm DeiT3': CLS,
    'timm EVA, rotary': ('reg1',),
    'timm DINOv3, rotary': REGISTERS,
    'timm BEiT': CLS,
    'torchvision ViT': CLS,
    'Hugging Face ViT': CLS,
    'Hugging Face DeiT': DISTILLED,
    'Hugging Face DINOv2': CLS,
    'Hugging Face DINOv3, rotary': CLS,
    'Hugging Face BEiT, relative': CLS,
}


@pytest.mark.parametrize('family', NAMES)
def test_prefix_tokens_have_names(family):
    anatomy = Anatomy(ZOO[family]().model)
    assert anatomy.prefix_tokens == NAMES[family]
    assert anatomy.num_prefix_tokens == len(NAMES[family])


def test_more_prefix_tokens_have_names():
    for model, expected in (
        (timm_vit('deit_tiny_distilled_patch16_224'), DISTILLED),
        (timm_vit('vit_small_patch14_reg4_dinov2'), REGISTERS),
        (timm_vit(class_token=False, global_pool='avg'), ()),
    ):
        assert Anatomy(model).prefix_tokens == expected
    with_registers = hugging_face('Dinov2WithRegisters', num_register_tokens=4)
    assert Anatomy(with_registers.model).prefix_tokens == REGISTERS


@pytest.mark.parametrize('name', ['ViT', 'DeiT', 'Dinov2WithRegisters', 'DINOv3ViT'])
@torch.no_grad()
def test_tokens_of_hugging_face_models(name):
    """Each patch's tokens, by what the patch embedding and the library's own output say."""
    model, run = hugging_face(name)
    model.eval()
    bank = TapBank(model, layers=[], tokens=[3, FINAL])
    with bank.record():
        output = run(model)
    tokens = bank.collect().tokens
    assert tokens[3].patches.shape == (2, 16, 24)
    torch.testing.assert_close(tokens[FINAL].x, output.last_hidden_state, rtol=0, atol=0)


def test_the_order_is_that_of_the_sequence():
    """With all other inputs zero, what goes into the first block is the tokens themselves."""
    model = timm_vit('deit_tiny_distilled_patch16_224')
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda module, args: seen.append(args[0][0]))
    torch.nn.init.zeros_(model.pos_embed)
    torch.nn.init.normal_(model.cls_token)
    model(torch.randn(1, 3, 32, 32))
    for place, name in enumerate(Anatomy(model).prefix_tokens):
        assert (seen[0][place] == getattr(model, f'{name}_token')[0, 0]).all()


def test_unknown_prefix_tokens_are_refused_until_told():
    model = encoder()().model
    with pytest.raises(
        UnsupportedAttention, match=r'TransformerEncoder.* Set its num_prefix_tokens'
    ):
        Anatomy(model).num_prefix_tokens  # noqa: B018
    model.num_prefix_tokens = 0
    assert Anatomy(model).prefix_tokens == ()
    model.num_prefix_tokens = 2
    assert Anatomy(model).num_prefix_tokens == 2
    with pytest.raises(UnsupportedAttention, match=r'puts 2 tokens .* names are unknown'):
        Anatomy(model).prefix_tokens  # noqa: B018


def test_hierarchical_models_have_no_trunk():
    swin = timm.create_model('swin_tiny_patch4_window7_224', depths=(1, 1), num_heads=(2, 2))
    with pytest.raises(UnsupportedAttention, match='stand in 2 lists, expected 1'):
        Anatomy(swin).prefix_tokens  # noqa: B018
