"""The tokens of a sequence by name: what a model says of them, and where they stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

PATCHES = 'patches'

# Learned tokens by what libraries call them, in the order in which all of them line up.
_LEARNED = dict(
    cls=('cls_token', 'class_token', 'class_embedding'),  # most; torchvision; CLIP
    dist=('dist_token', 'distillation_token'),  # timm, mmpretrain; transformers
    reg=('reg_token', 'register_tokens'),  # timm; transformers
)
# Of diffusers, whose tokens are patches alone, and which do not say so.
_PATCHES_ALONE = ('DiTTransformer2DModel', 'PixArtTransformer2DModel')
_COUNTS = ('num_prefix_tokens', 'num_extra_tokens')  # timm; mmpretrain


class Segment(NamedTuple):
    """A run of tokens of one kind.

    Attributes:
        name: Such as 'cls', 'patches' or 'text'; None if not known.
        length: How many tokens; None for all that the other segments leave, in one segment at most.
    """

    name: str | None
    length: int | None = 1


def segment_places(segments: Sequence[Segment], count: int) -> list[range]:
    """Where each of the segments of a sequence of ``count`` tokens stands."""
    rest = count - sum(length for _, length in segments if length is not None)
    places, start = [], 0
    for _, length in segments:
        stop = start + (rest if length is None else length)
        places.append(range(start, stop))
        start = stop
    return places


def find_segments(module: nn.Module) -> tuple[Segment, ...] | None:
    """What a module says about its tokens; None if it says nothing.

    ``()`` are tokens that are all of one kind, as a language model's. A module states others as
    ``token_segments``, (name, length) pairs; of a vision transformer they are read.
    """
    stated = getattr(module, 'token_segments', None)
    if stated is not None:
        return tuple(Segment(*segment) for segment in stated)
    if any(cls.__name__ in _PATCHES_ALONE for cls in type(module).__mro__):
        return (Segment(PATCHES, None),)
    names, count = learned_prefix(module), declared_prefix(module)
    if count is not None and count != len(names):
        return Segment(None, count), Segment(PATCHES, None)
    if count is not None or names:
        return (*map(Segment, names), Segment(PATCHES, None))
    return () if _embeds_words(module) else None


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
    for name in _COUNTS:
        count = getattr(module, name, None)
        if count is not None:
            return count
    # transformers' CLIP and SigLIP count places instead, in their embedding.
    for owner in (module, *module.children()):
        places, patches = (getattr(owner, f'num_{what}', None) for what in ('positions', 'patches'))
        if isinstance(places, int) and isinstance(patches, int):
            return places - patches
    return None


def _embeds_words(module: nn.Module) -> bool:
    """Whether a model of transformers makes its tokens from words."""
    embeddings = getattr(module, 'get_input_embeddings', None)
    try:
        return embeddings is not None and isinstance(embeddings(), nn.Embedding)
    except NotImplementedError:
        return False
