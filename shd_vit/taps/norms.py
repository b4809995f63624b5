"""The norm after the last block, by the names that libraries give it."""

from __future__ import annotations

import re

from torch import nn

# Paths from a module around the blocks; add another one here. In order of preference.
FINAL_NORMS = [
    'norm',  # timm, LLaMA, torch
    'ln1',  # mmpretrain
    'layernorm',  # transformers' ViTs
    'ln',  # torchvision
    'post_layernorm',  # CLIP, SigLIP of transformers
    'ln_post',  # open_clip
    'ln_f',  # GPT-2
    'ln_final',  # the text of open_clip
    'final_layer_norm',  # OPT, GPT-NeoX
    'final_layernorm',  # Phi
    'norm_f',  # MPT
    'norm_out',  # DiT of diffusers
    'final_layer.norm_final',  # DiT of its authors
]
# Of what is pooled already: mmpretrain and timm.
_AFTER_POOLING = ('ln2', 'fc_norm')
_NORM_LIKE = re.compile(r'norm|^ln', re.IGNORECASE)


def final_norm_of(module: nn.Module) -> tuple[bool, nn.Module | None]:
    """Whether a module around the blocks states a norm after them, and which; None for none."""
    for path in FINAL_NORMS:
        owner, _, name = path.rpartition('.')
        inner = getattr(module, owner, None) if owner else module
        if hasattr(inner, name):
            norm = getattr(inner, name)
            if norm is None or isinstance(norm, nn.Module):
                return True, norm
    return False, None


def unknown_norm(module: nn.Module, block: nn.Module) -> str | None:
    """The path of a norm that may be the one after the blocks, and has no known name.

    Args:
        module: A module around the blocks.
        block: One of them. Norms deep inside what stands before it belong to embeddings.
    """
    is_after = False
    for name, child in module.named_children():
        if any(m is block for m in child.modules()):
            is_after = True
            continue
        for path, norm in child.named_modules(prefix=name):
            is_near = path == name or is_after
            if is_near and _is_norm(norm) and path.rpartition('.')[2] not in _AFTER_POOLING:
                return path
    return None


def _is_norm(module: nn.Module) -> bool:
    is_leaf = not list(module.children())
    return is_leaf and _NORM_LIKE.search(type(module).__name__) is not None
