"""A tiny model of every attention family, and the attention that it really computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple
from unittest import mock

import timm
import torch
import torch.nn.functional as F
import torchvision
from mmpretrain.models import MODELS
from timm.models import vision_transformer
from torch import Tensor, nn

ARCH = dict(embed_dims=24, num_layers=3, num_heads=3, feedforward_channels=48)
TIMM = dict(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=5)
SDPA = 'torch.nn.functional.scaled_dot_product_attention'


class Case(NamedTuple):
    """A model and how to run it."""

    model: nn.Module
    run: Callable[[nn.Module], object]


def images(size: int = 32) -> Tensor:
    return torch.randn(2, 3, size, size)


def on_images(
    build: Callable[[], nn.Module], size: int = 32, dtype: torch.dtype = torch.float32
) -> Callable[[], Case]:
    def case() -> Case:
        x = images(size).to(dtype)
        return Case(build().to(dtype), lambda model: model(x))

    return case


def mmpretrain_vit(type: str = 'VisionTransformer', **kwargs) -> nn.Module:
    return MODELS.build(dict(type=type, arch=ARCH, img_size=32, patch_size=8, **kwargs))


def timm_vit(name: str = 'vit_tiny_patch16_224', **kwargs) -> nn.Module:
    return timm.create_model(name, **{**TIMM, **kwargs})


def hugging_face(name: str, **kwargs) -> Case:
    import transformers

    sizes = dict(
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
    )
    config = getattr(transformers, f'{name}Config')(**{**sizes, **kwargs})
    x = images()
    return Case(getattr(transformers, f'{name}Model')(config), lambda model: model(pixel_values=x))


def language(name: str, padding: str | None = None, **kwargs) -> Case:
    """A decoder on two sentences of 7 and 4 tokens, the second padded left, right or not at all."""
    import transformers

    config = getattr(transformers, f'{name}Config')(vocab_size=50, **kwargs)
    ids = torch.randint(0, 50, (2, 7))
    mask = torch.ones(2, 7, dtype=torch.long)
    if padding:
        mask[1, slice(0, 3) if padding == 'left' else slice(4, 7)] = 0
    return Case(
        getattr(transformers, f'{name}Model')(config),
        lambda model: model(input_ids=ids, attention_mask=mask, use_cache=False),
    )


GROUPED = dict(
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    intermediate_size=48,
)


def llama(padding: str | None) -> Case:
    return language('Llama', padding, **GROUPED)


def packed(name: str, **kwargs) -> Case:
    """A decoder on rows that hold several sentences, whose positions start anew."""
    case = language(name, **{**GROUPED, **kwargs})
    ids, positions = torch.randint(0, 50, (2, 7)), torch.tensor([[0, 1, 2, 3, 0, 1, 2]] * 2)
    positions[1] = torch.tensor([0, 1, 0, 1, 2, 3, 4])
    return Case(
        case.model, lambda model: model(input_ids=ids, position_ids=positions, use_cache=False)
    )


def modern_bert(padding: str | None) -> Case:
    """A global layer, then two local ones that see a token to each side."""
    sizes = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=48)
    ids = dict.fromkeys(('bos_token_id', 'eos_token_id', 'cls_token_id', 'sep_token_id'), 1)
    case = language('ModernBert', padding, local_attention=2, pad_token_id=0, **sizes, **ids)
    return Case(case.model, case.run)


def randomised(model: nn.Module) -> nn.Module:
    """Biases and relative positions away from their zeros."""
    for name, parameter in model.named_parameters():
        if 'bias' in name or 'rel_pos' in name:
            nn.init.normal_(parameter)
    return model


def swin(**kwargs) -> nn.Module:
    """Windows of 2, shifted in every second block."""
    arch = dict(embed_dims=12, depths=[2, 2, 2, 2], num_heads=[2, 2, 4, 4])
    return randomised(
        MODELS.build(dict(type='SwinTransformer', arch=arch, img_size=64, window_size=2, **kwargs))
    )


def timm_swin(**kwargs) -> nn.Module:
    return randomised(
        timm.create_model(
            'swin_tiny_patch4_window7_224',
            img_size=64,
            window_size=4,
            embed_dim=12,
            depths=(2, 2),
            num_heads=(2, 4),
            **kwargs,
        )
    )


def small(name: str, **kwargs) -> Callable[[], nn.Module]:
    """A ViT of timm with other blocks."""
    sizes = dict(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3)
    return lambda: randomised(timm.create_model(name, **{**sizes, **kwargs}))


def rel_pos() -> nn.Module:
    model = small('vit_relpos_small_patch16_224')()
    for block in model.blocks:
        block.attn.rel_pos.mlp.drop1.p = 0.0
    return model


def timm_swin_v2(is_bias_apart: bool = False) -> nn.Module:
    sizes = dict(img_size=64, window_size=4, embed_dim=12, depths=(2, 2), num_heads=(2, 4))
    model = timm.create_model('swinv2_tiny_window8_256', **sizes)
    for module in model.modules():
        if hasattr(module, 'qkv_bias_separate'):
            module.qkv_bias_separate = is_bias_apart
    return randomised(sharpened(model))


def sharpened(model: nn.Module) -> nn.Module:
    """Cosine attention with another sharpness in each head, beyond its limit in the last."""
    for name, parameter in model.named_parameters():
        if name.endswith('logit_scale'):
            parameter.data = torch.linspace(1, 6, len(parameter))[:, None, None]
    return model


def swin_v2(**kwargs) -> nn.Module:
    arch = dict(
        embed_dims=12, depths=[2, 2, 2, 2], num_heads=[2, 2, 4, 4], extra_norm_every_n_blocks=0
    )
    config = dict(type='SwinTransformerV2', arch=arch, img_size=64, window_size=[2, 2, 2, 2])
    return randomised(sharpened(MODELS.build(dict(config, **kwargs))))


def tiny_vit() -> nn.Module:
    """Windows of 3 at 8, 4 and 2 patches a side, with padding."""
    sizes = dict(embed_dims=(8, 12, 24, 24), depths=(1, 1, 2, 1), num_heads=(1, 2, 3, 4))
    model = timm.create_model('tiny_vit_5m_224', window_sizes=(3, 3, 3, 2), **sizes)
    return randomised(model)


def hiera() -> nn.Module:
    """A stage of mask units and one that sees all tokens, without pooling."""
    sizes = dict(
        img_size=32, embed_dim=24, num_heads=2, stages=(2, 1), q_pool=0, mask_unit_size=(2, 2)
    )
    return timm.create_model('hiera_tiny_224', mask_unit_attn=(True, False), **sizes)


def whisper_encoder() -> Case:
    import transformers

    config = transformers.WhisperConfig(
        d_model=24,
        encoder_layers=2,
        encoder_attention_heads=3,
        encoder_ffn_dim=48,
        num_mel_bins=8,
        max_source_positions=6,
        vocab_size=50,
        pad_token_id=0,
        decoder_layers=1,
        decoder_attention_heads=3,
    )
    x = torch.randn(2, 8, 12)
    return Case(transformers.WhisperModel(config).encoder, lambda model: model(input_features=x))


def beside(**kwargs) -> Callable[..., nn.Module]:
    """Blocks of attention and MLP side by side."""
    return partial(vision_transformer.ParallelScalingBlock, **kwargs)


def torchvision_vit() -> nn.Module:
    return torchvision.models.VisionTransformer(32, 8, 3, 4, 24, 48)


def encoder(nhead: int = 4, batch_first: bool = True, **masks) -> Callable[[], Case]:
    """torch's own encoder, whose fast path in eval mode runs no submodule."""

    def case() -> Case:
        layer = nn.TransformerEncoderLayer(24, nhead, 48, batch_first=batch_first)
        x = torch.randn(2, 6, 24) if batch_first else torch.randn(6, 2, 24)
        stack = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        return Case(stack, lambda model: model(x, **masks))

    return case


def rotary_grouped() -> Case:
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = timm.layers.AttentionRope(
                24, num_heads=6, num_kv_heads=2, qkv_fused=False, rotate_half=True
            )

        def forward(self, x):
            return self.attn(x, rope=rope, is_causal=True)

    x = torch.randn(2, 7, 24)
    rope = torch.randn(6, 8)  # sine and cosine of 6 patches, after 1 prefix token
    return Case(Layer(), lambda model: model(x))


def mdt() -> Case:
    """A pass with masks, as the side block runs in no other."""
    from shd_vit.hosts.diffusers.mdt import MDTv2Model, draw_kept

    sizes = dict(num_layers=6, decoder_layers=2, sample_size=8, patch_size=2, num_embeds_ada_norm=3)
    model = randomised(MDTv2Model(num_attention_heads=3, attention_head_dim=8, **sizes))
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.tensor([0, 3])
    kept = draw_kept(2, 16)
    return Case(model, lambda model: model(*inputs, kept).sample)


def dit() -> Case:
    import diffusers

    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=3,
        attention_head_dim=8,
        in_channels=2,
        num_layers=3,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=5,
    )
    x, t, y = torch.randn(2, 2, 8, 8), torch.tensor([3, 700]), torch.tensor([0, 5])
    return Case(diffused(model), lambda m: m(x, timestep=t, class_labels=y, return_dict=False))


def pixart(mask: bool = False) -> Case:
    """Self-attention on 16 tokens, of which 5 may be padding, cross-attention to 5 of a text."""
    import diffusers

    model = diffusers.PixArtTransformer2DModel(
        num_attention_heads=3,
        attention_head_dim=8,
        in_channels=2,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        cross_attention_dim=24,
        caption_channels=6,
        use_additional_conditions=False,
    )
    given = dict(timestep=torch.tensor([3, 700]), encoder_hidden_states=torch.randn(2, 5, 6))
    given['added_cond_kwargs'] = dict(resolution=None, aspect_ratio=None)
    if mask:
        given['attention_mask'] = torch.ones(2, 16)
        given['attention_mask'][1, 11:] = 0
    x = torch.randn(2, 2, 8, 8)
    return Case(diffused(model), lambda m: m(x, return_dict=False, **given))


def latte() -> Case:
    """Blocks over 4 tokens of 3 frames, and over 3 frames of 4 tokens."""
    import diffusers

    model = diffusers.LatteTransformer3DModel(
        num_attention_heads=3,
        attention_head_dim=8,
        in_channels=2,
        num_layers=2,
        sample_size=4,
        patch_size=2,
        cross_attention_dim=24,
        caption_channels=6,
        video_length=3,
    )
    given = dict(timestep=torch.tensor([3, 700]), encoder_hidden_states=torch.randn(2, 5, 6))
    x = torch.randn(2, 2, 3, 4, 4)
    return Case(diffused(model), lambda m: m(x, return_dict=False, **given))


def wan() -> Case:
    """Rotary positions on 2 frames of 4 tokens; cross-attention to 5 of a text."""
    import diffusers

    model = diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=2,
        out_channels=2,
        text_dim=6,
        freq_dim=8,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=16,
    )
    given = dict(timestep=torch.tensor([3, 700]), encoder_hidden_states=torch.randn(2, 5, 6))
    x = torch.randn(2, 2, 2, 4, 4)
    return Case(diffused(model), lambda m: m(x, return_dict=False, **given))


def z_image() -> Case:
    """Blocks over an image, over a text and over both in one sequence, padded."""
    import diffusers

    model = diffusers.ZImageTransformer2DModel(
        in_channels=2,
        dim=24,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=6,
        axes_dims=[4, 4, 4],
        axes_lens=[128, 64, 64],
    )
    images = [torch.randn(2, 1, 4, 4), torch.randn(2, 1, 8, 16)]
    texts, t = [torch.randn(5, 6), torch.randn(40, 6)], torch.tensor([0.1, 0.7])
    return Case(diffused(model), lambda m: m(images, t, texts, return_dict=False))


def diffused(model: nn.Module) -> nn.Module:
    """Weights that start at 0, as gates do, away from it; adaLN gates would hide what is wrong."""
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return model


CAUSAL = torch.ones(6, 6).triu(1).bool()
PADDED = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])

ZOO: dict[str, Callable[[], Case]] = {
    'mmpretrain ViT': on_images(mmpretrain_vit),
    'mmpretrain DeiT3': on_images(lambda: mmpretrain_vit('DeiT3')),
    'mmpretrain distilled DeiT': on_images(lambda: mmpretrain_vit('DistilledVisionTransformer')),
    'mmpretrain BEiT': on_images(lambda: randomised(mmpretrain_vit('BEiTViT'))),
    'mmpretrain BEiT, shared positions, no qv bias': on_images(
        lambda: randomised(
            mmpretrain_vit(
                'BEiTViT',
                use_rel_pos_bias=False,
                use_shared_rel_pos_bias=True,
                layer_cfgs=dict(bias=True),
            )
        )
    ),
    'mmpretrain Swin': on_images(swin, 64),
    'timm ViT': on_images(timm_vit),
    'timm ViT with q_norm, k_norm': on_images(lambda: timm_vit(qk_norm=True)),
    'timm DeiT3': on_images(lambda: timm_vit('deit3_small_patch16_224')),
    'timm EVA, rotary': on_images(lambda: timm_vit('vit_base_patch16_rope_reg1_gap_256')),
    'timm EVA-02, separate projections': on_images(
        lambda: timm_vit('eva02_base_patch14_224', qkv_fused=False)
    ),
    'timm EVA-02, q and v bias': on_images(
        lambda: randomised(timm_vit('eva02_base_patch14_224', qkv_fused=True))
    ),
    'timm DINOv3, rotary': on_images(lambda: timm_vit('vit_small_patch16_dinov3')),
    'timm rotary, grouped heads': rotary_grouped,
    'timm BEiT': on_images(lambda: randomised(timm_vit('beit_base_patch16_224'))),
    'timm BEiT, shared positions': on_images(
        lambda: randomised(
            timm_vit('beit_base_patch16_224', use_rel_pos_bias=False, use_shared_rel_pos_bias=True)
        )
    ),
    'timm Swin': on_images(timm_swin, 64),
    'mmpretrain Swin V2, cosine': on_images(swin_v2, 64, torch.float64),
    'timm Swin V2, cosine': on_images(timm_swin_v2, 64, torch.float64),
    'timm Swin V2, cosine, qv bias apart': on_images(
        lambda: timm_swin_v2(is_bias_apart=True), 64, torch.float64
    ),
    'timm RelPos ViT': on_images(rel_pos),
    'timm RelPos ViT, shared positions': on_images(small('vit_srelpos_small_patch16_224')),
    'timm SAM, windows with padding': on_images(
        small('samvit_base_patch16', window_size=3, global_attn_indexes=(1,), neck_chans=8)
    ),
    'timm TinyViT, windows with padding': on_images(tiny_vit),
    'timm Hiera, mask units': on_images(hiera),
    'timm ViT, attention beside MLP': on_images(
        small('vit_base_patch16_xp_224', block_fn=beside(fuse_out_proj=False))
    ),
    'timm ViT, parallel attention': on_images(
        small('vit_tiny_patch16_224', block_fn=vision_transformer.ParallelThingsBlock)
    ),
    'torchvision ViT': on_images(torchvision_vit),
    'torch encoder': encoder(),
    'torch encoder, odd heads': encoder(nhead=3),
    'torch encoder, batch second': encoder(batch_first=False),
    'torch encoder, causal': encoder(mask=CAUSAL),
    'torch encoder, padding': encoder(src_key_padding_mask=PADDED),
    'Hugging Face ViT': lambda: hugging_face('ViT'),
    'Hugging Face DeiT': lambda: hugging_face('DeiT'),
    'Hugging Face DINOv2': lambda: hugging_face('Dinov2'),
    'Hugging Face DINOv3, rotary': lambda: hugging_face('DINOv3ViT'),
    'Hugging Face BEiT, relative': lambda: hugging_face('Beit', use_relative_position_bias=True),
    'Hugging Face CLIP': lambda: hugging_face('CLIPVision'),
    'Hugging Face SigLIP': lambda: hugging_face('SiglipVision'),
    'CLIP text, right padding': lambda: language(
        'CLIPText',
        'right',
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=48,
    ),
    'Whisper encoder': whisper_encoder,
    'GPT-2': lambda: language('GPT2', n_embd=24, n_layer=2, n_head=3),
    'GPT-2, right padding': lambda: language('GPT2', 'right', n_embd=24, n_layer=2, n_head=3),
    'LLaMA, grouped heads': lambda: llama(None),
    'LLaMA, left padding': lambda: llama('left'),
    'LLaMA, right padding': lambda: llama('right'),
    'LLaMA, packed rows': lambda: packed('Llama'),
    'Mistral, window': lambda: language('Mistral', sliding_window=3, **GROUPED),
    'Mistral, window, left padding': lambda: language(
        'Mistral', 'left', sliding_window=3, **GROUPED
    ),
    'Mistral, window, packed rows': lambda: packed('Mistral', sliding_window=3),
    'Qwen2, full and sliding layers': lambda: language(
        'Qwen2', sliding_window=3, use_sliding_window=True, max_window_layers=1, **GROUPED
    ),
    'Gemma': lambda: language('Gemma', head_dim=4, **GROUPED),
    'Gemma 3, full and sliding layers': lambda: language(
        'Gemma3Text',
        'left',
        head_dim=4,
        sliding_window=3,
        layer_types=['sliding_attention', 'full_attention'],
        **GROUPED,
    ),
    'ModernBERT, local and global layers': lambda: modern_bert(None),
    'ModernBERT, right padding': lambda: modern_bert('right'),
    'MDTv2, masked': mdt,
    'DiT': dit,
    'PixArt': pixart,
    'PixArt, padding': lambda: pixart(mask=True),
    'Latte': latte,
    'Wan': wan,
    'Z-Image': z_image,
}


def softmax_of_sdpa(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **kwargs
):
    """What scaled dot-product attention weighs values with, by its documentation, in float64."""
    q, k = query.double(), key.double()
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    logits = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(logits.shape[-2:]).tril().bool()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        logits = logits.masked_fill(~attn_mask, float('-inf'))
    elif attn_mask is not None:
        logits = logits + attn_mask
    return logits.softmax(-1)


@contextmanager
def actual_maps(model: nn.Module) -> Iterator[list[Tensor]]:
    """The maps that a model computes, one a layer.

    Those of intercepted SDPA, or what an attention module of its own softmax gives to its dropout.
    """
    maps, original = [], F.scaled_dot_product_attention
    has_fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it calls no SDPA

    def intercept(*args, **kwargs):
        maps.append(softmax_of_sdpa(*args, **kwargs))
        return original(*args, **kwargs)

    def before_dropout(module, args):
        maps.append(args[0].double())

    drops = [m for name, m in model.named_modules() if name.endswith('attn_drop')]
    handles = [drop.register_forward_pre_hook(before_dropout) for drop in drops]
    patches = [mock.patch(SDPA, intercept)]
    # mmpretrain's attention looks SDPA up when it is built.
    name = 'scaled_dot_product_attention'
    patches += [mock.patch.object(m, name, intercept) for m in model.modules() if hasattr(m, name)]
    try:
        for patch in patches:
            patch.start()
        yield maps
    finally:
        torch.backends.mha.set_fastpath_enabled(has_fast_path)
        for patch in patches:
            patch.stop()
        for handle in handles:
            handle.remove()
