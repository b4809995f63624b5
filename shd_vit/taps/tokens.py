"""The tokens that a model puts before its patches, by name."""

from __future__ import annotations

from torch import Tensor, nn

# Learned tokens by what libraries call them, in the order in which all of them line up.
_LEARNED = dict(
    cls=('cls_token', 'class_token', 'class_embedding'),  # most; torchvision; CLIP
    dist=('dist_token', 'distillation_token'),  # timm, mmpretrain; transformers
    reg=('reg_token', 'register_tokens'),  # timm; transformers
)
_COUNTS = ('num_prefix_tokens', 'num_extra_tokens')  # timm; mmpretrain


def learned_prefix(module: nn.Module) -> tuple[str, ...]:
    """Names of the tokens that a module, or an embedding right inside it, has learned.

    'cls', 'dist' and, numbered, 'reg1', 'reg2' and so on.
    """
    names = []
    for kind, attributes in _LEARNED.items():
        for owner in (module, *module.children()):
            given = (getattr(owner, name, None) for name in attributes)
            tokens = [token for token in given if isinstance(token, Tensor)]
            count = sum(token.shape[-2] if token.dim() > 1 else 1 for token in tokens)
            is_numbered = kind == 'reg' or count > 1
            names += [f'{kind}{n}' if is_numbered else kind for n in range(1, count + 1)]
    return tuple(names)


def declared_prefix(module: nn.Module) -> int | None:
    """How many tokens a module says that it puts before the patches; None if it does not say."""
    counts = (getattr(module, name, None) for name in _COUNTS)
    return next((count for count in counts if count is not None), None)
