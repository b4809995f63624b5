"""The same vision transformers in timm and mmpretrain, with random weights that all matter."""

import timm
import torch
from mmpretrain.registry import MODELS

MMPRETRAIN = {
    'vit': ('VisionTransformer', 'VisionTransformerClsHead', {}),
    'distilled': ('DistilledVisionTransformer', 'DeiTClsHead', {}),
    'deit3': ('DeiT3', 'VisionTransformerClsHead', {}),
    'deit3 without scale': ('DeiT3', 'VisionTransformerClsHead', dict(use_layer_scale=False)),
}
TIMM = {
    'vit': ('vit_tiny_patch16_224', {}),
    'distilled': ('deit_tiny_distilled_patch16_224', {}),
    'deit3': ('deit3_small_patch16_224', {}),
    'deit3 without scale': ('vit_tiny_patch16_224', dict(no_embed_class=True)),
}
HUGGING_FACE = {
    'vit': 'ViTForImageClassification',
    'distilled': 'DeiTForImageClassificationWithTeacher',
    'deit3': 'Dinov2ForImageClassification',
    'deit3 without scale': 'ViTForImageClassification',
}


@torch.no_grad()
def randomise(model, std=0.3):
    """Every weight random; embeddings so small that the epsilon of LayerNorm counts."""
    for name, weight in model.named_parameters():
        is_embedding = 'embed' in name or 'token' in name
        is_factor = weight.dim() == 1 and not name.endswith('bias')  # of LayerNorm, LayerScale
        weight.normal_(1.0 if is_factor else 0.0, std / 100 if is_embedding else std)
    return model.eval()


def timm_model(kind, heads=3, **kwargs):
    name, own = TIMM[kind]
    sizes = dict(img_size=32, patch_size=8, embed_dim=8 * heads, depth=2, num_heads=heads)
    return randomise(timm.create_model(name, **{**sizes, 'num_classes': 5, **own, **kwargs}))


def mmpretrain_model(kind, heads=3, **kwargs):
    backbone, head, own = MMPRETRAIN[kind]
    width = 8 * heads
    arch = dict(embed_dims=width, num_layers=2, num_heads=heads, feedforward_channels=4 * width)
    return MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type=backbone, arch=arch, img_size=32, patch_size=8, **own, **kwargs),
            head=dict(type=head, num_classes=5, in_channels=width),
        )
    ).eval()
