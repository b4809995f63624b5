"""What each library calls the weights of a vision transformer.

A row is a weight; ``*`` stands for weight and bias, ``#`` for the number of the block, ``-`` for
what a class does not have. Hugging Face's names are those of its files, which every version of
transformers reads, with query, key and value (which it keeps apart) as one qkv.
"""

from __future__ import annotations

_TRUNK = """
timm                mmpretrain                         huggingface
cls_token           backbone.cls_token                 embeddings.cls_token
dist_token          backbone.dist_token                embeddings.distillation_token
pos_embed           backbone.pos_embed                 embeddings.position_embeddings
patch_embed.proj.*  backbone.patch_embed.projection.*  embeddings.patch_embeddings.projection.*
norm.*              backbone.ln1.*                     layernorm.*
"""
_BLOCK = """
timm         mmpretrain          vit                        dinov2
norm1.*      ln1.*               layernorm_before.*         norm1.*
attn.qkv.*   attn.qkv.*          attention.attention.qkv.*  attention.attention.qkv.*
attn.proj.*  attn.proj.*         attention.output.dense.*   attention.output.dense.*
ls1.gamma    attn.gamma1.weight  -                          layer_scale1.lambda1
norm2.*      ln2.*               layernorm_after.*          norm2.*
mlp.fc1.*    ffn.layers.0.0.*    intermediate.dense.*       mlp.fc1.*
mlp.fc2.*    ffn.layers.1.*      output.dense.*             mlp.fc2.*
ls2.gamma    ffn.gamma2.weight   -                          layer_scale2.lambda1
"""

# Weights that a model has all or none of, as timm calls them.
OPTIONAL = (
    {'blocks.#.ls1.gamma', 'blocks.#.ls2.gamma'},
    {'blocks.#.attn.qkv.bias'},
    {'dist_token', 'head_dist.weight', 'head_dist.bias'},
)

# From what transformers 5 calls modules in memory to its files, in this order.
IN_MEMORY = {
    r'\.attention\.q_proj\.': '.attention.attention.query.',
    r'\.attention\.k_proj\.': '.attention.attention.key.',
    r'\.attention\.v_proj\.': '.attention.attention.value.',
    r'\.attention\.o_proj\.': '.attention.output.dense.',
    r'^(vit|deit)\.layers\.(\d+)\.mlp\.fc1\.': r'\1.layers.\2.intermediate.dense.',
    r'^(vit|deit)\.layers\.(\d+)\.mlp\.fc2\.': r'\1.layers.\2.output.dense.',
    r'^(vit|deit)\.layers\.': r'\1.encoder.layer.',
}


def _names(trunk: dict, block: dict, blocks: str, *heads: str) -> dict[str, str]:
    """A layout: timm's name of every weight, and the layout's.

    Args:
        trunk: A column of the first table.
        block: A column of the second.
        blocks: What stands before it.
        heads: The classifier's name, and that of the distillation token's classifier.
    """
    modules = {
        **trunk,
        **{f'blocks.#.{timm}': f'{blocks}{name}' for timm, name in block.items() if name != '-'},
        **{f'{timm}.*': f'{name}.*' for timm, name in zip(('head', 'head_dist'), heads)},  # noqa: B905
    }
    return {
        timm.replace('*', part): name.replace('*', part)
        for timm, name in modules.items()
        for part in (('weight', 'bias') if '*' in timm else ('',))
    }


def _column(table: str, name: str, prefix: str = '') -> dict[str, str]:
    header, *rows = (line.split() for line in table.strip().splitlines())
    return {row[0]: f'{prefix}{row[header.index(name)]}' for row in rows}


def _hugging_face(model: str, block: str, *heads: str) -> dict[str, str]:
    trunk = _column(_TRUNK, 'huggingface', f'{model}.')
    return _names(trunk, _column(_BLOCK, block), f'{model}.encoder.layer.#.', *heads)


LAYOUTS = {
    'timm': _names(
        _column(_TRUNK, 'timm'), _column(_BLOCK, 'timm'), 'blocks.#.', 'head', 'head_dist'
    ),
    'mmpretrain': _names(
        _column(_TRUNK, 'mmpretrain'),
        _column(_BLOCK, 'mmpretrain'),
        'backbone.layers.#.',
        'head.layers.head',
        'head.layers.head_dist',
    ),
    'ViTForImageClassification': _hugging_face('vit', 'vit', 'classifier'),
    'DeiTForImageClassificationWithTeacher': _hugging_face(
        'deit', 'vit', 'cls_classifier', 'distillation_classifier'
    ),
    'DeiTForImageClassification': _hugging_face('deit', 'vit', 'classifier'),
    'Dinov2ForImageClassification': _hugging_face('dinov2', 'dinov2', 'classifier'),
}
