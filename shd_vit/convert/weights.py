"""State dicts from one library's names and shapes to another's, without touching a value."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor

from shd_vit.convert.architecture import LIBRARIES, Architecture
from shd_vit.convert.names import IN_MEMORY, LAYOUTS, OPTIONAL
from shd_vit.errors import CheckpointError, ConfigError

_QKV = re.compile(r'(?<=\.attention\.attention\.)(query|key|value)(?=\.)')


def convert(
    state: dict[str, Tensor],
    to: str,
    *,
    class_head: bool = False,
    image_size: tuple[int, int] | None = None,
) -> dict[str, Tensor]:
    """The weights of a vision transformer as another library has them.

    ViT, DeiT (with its distillation token or without) and DeiT3. There and back gives the same
    bits.

    Args:
        state: Named as timm, mmpretrain or Hugging Face name them, which is recognised.
        to: One of ``LIBRARIES``.
        class_head: Leave out the classifier of the distillation token, for Hugging Face's
            ``DeiTForImageClassification``.
        image_size: (h, w) in pixels, needed where it is not square.

    Raises:
        CheckpointError: If weights are missing or left over, or the library has no class for them.
        ConfigError: If ``to`` is not a library, or there is no such classifier.
    """
    if to not in LIBRARIES:
        raise ConfigError(f'to={to!r} must be one of {LIBRARIES}')
    state = to_timm(state)
    if class_head:
        if 'head_dist.weight' not in state:
            raise ConfigError('class_head: the weights have no classifier of a distillation token')
        state = {name: x for name, x in state.items() if not name.startswith('head_dist.')}
    arch = Architecture.of(state, image_size)
    model = arch.class_of(to)
    if to == 'huggingface':
        return _to_hugging_face(state, model, arch.kind)
    return _rename(state, LAYOUTS[to])


def to_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A complete state dict of any layout in timm's.

    Raises:
        CheckpointError: If it is of no layout, or weights are missing or left over.
    """
    layout = recognise(state)
    if layout in LIBRARIES:
        return _rename_all(state, layout)
    for pattern, name_in_file in IN_MEMORY.items():
        state = {re.sub(pattern, name_in_file, name): x for name, x in state.items()}
    state = _rename_all(_merge_qkv(state), layout)
    # The reverse of _to_hugging_face.
    if 'dist_token' not in state and not state['pos_embed'][:, 0].any():
        state['pos_embed'] = state['pos_embed'][:, 1:].clone()
    if layout == 'Dinov2ForImageClassification':
        of_class, of_patches = state['head.weight'].chunk(2, dim=1)
        if of_patches.any():
            raise CheckpointError(
                'classifier.weight of DINOv2 also reads the mean of the patches: timm and '
                'mmpretrain have no such classifier'
            )
        state['head.weight'] = of_class.clone()
    return state


def library_of(state: Iterable[str]) -> str:
    """Which of ``LIBRARIES`` the weights are named by.

    Raises:
        CheckpointError: If it is none of them.
    """
    layout = recognise(state)
    return layout if layout in LIBRARIES else 'huggingface'


def recognise(state: Iterable[str]) -> str:
    """The layout that weights have by their names: timm, mmpretrain or a Hugging Face class.

    Raises:
        CheckpointError: If it is none of them.
    """
    starts = {name.split('.')[0] for name in state}
    for start, layout in (
        ('blocks', 'timm'),
        ('backbone', 'mmpretrain'),
        ('vit', 'ViTForImageClassification'),
        ('dinov2', 'Dinov2ForImageClassification'),
    ):
        if start in starts:
            return layout
    if 'deit' in starts:
        one_head = 'classifier' in starts
        return 'DeiTForImageClassification' + ('' if one_head else 'WithTeacher')
    raise CheckpointError(
        f'the weights have no known layout (their names begin with {sorted(starts)[:5]}): expected '
        f'a vision transformer of {", ".join(LIBRARIES)}'
    )


def _to_hugging_face(state: dict[str, Tensor], model: str, kind: str) -> dict[str, Tensor]:
    state = dict(state)
    if kind.endswith('without class position'):
        # Its classes add a position to the class token, so that adding 0 is adding none.
        state['pos_embed'] = torch.cat(
            [torch.zeros_like(state['pos_embed'][:, :1]), state['pos_embed']], dim=1
        )
    if model == 'Dinov2ForImageClassification':
        # Its classifier reads the class token and the mean of the patches.
        weight = state['head.weight']
        state['head.weight'] = torch.cat([weight, torch.zeros_like(weight)], dim=1)
    return _split_qkv(_rename(state, LAYOUTS[model]))


def _split_qkv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    split = {}
    for name, weight in state.items():
        if '.attention.attention.qkv.' in name:
            for part, rows in zip(('query', 'key', 'value'), weight.chunk(3), strict=True):
                split[name.replace('.qkv.', f'.{part}.')] = rows.clone()
        else:
            split[name] = weight
    return split


def _merge_qkv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    merged = {}
    for name in dict.fromkeys(_QKV.sub('qkv', name) for name in state):
        if name in state:
            merged[name] = state[name]
            continue
        parts = [name.replace('.qkv.', f'.{part}.') for part in ('query', 'key', 'value')]
        _refuse(missing=[part for part in parts if part not in state])
        merged[name] = torch.cat([state[part] for part in parts])
    return merged


def _rename_all(state: dict[str, Tensor], layout: str) -> dict[str, Tensor]:
    """From a layout to timm's names, where every weight is to have its place."""
    names = LAYOUTS[layout]
    given = {_pattern(name)[0] for name in state}
    wanted = set(names)
    for group in OPTIONAL:
        if not any(names.get(timm) in given for timm in group):
            wanted -= group
    depth = 1 + max((int(_pattern(name)[1] or 0) for name in state), default=0)
    every = {names[timm].replace('#', str(i)) for timm in wanted for i in range(depth)}
    _refuse(missing=every - state.keys(), left_over=state.keys() - every)
    return _rename(state, {name: timm for timm, name in names.items()})


def _rename(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    renamed = {}
    for name, weight in state.items():
        pattern, block = _pattern(name)
        renamed[names[pattern].replace('#', block)] = weight
    return renamed


def _pattern(name: str) -> tuple[str, str]:
    """('blocks.#.norm1.weight', '3') of 'blocks.3.norm1.weight'. Only the block's number counts."""
    number = re.match(r'(?:blocks|backbone\.layers|\w+\.encoder\.layer)\.(\d+)(?=\.)', name)
    if not number:
        return name, ''
    return f'{name[: number.start(1)]}#{name[number.end(1) :]}', number[1]


def _refuse(**problems: Iterable[str]) -> None:
    found = {what: sorted(names) for what, names in problems.items() if names}
    if found:
        raise CheckpointError(
            'the weights are not those of a plain vision transformer: '
            + '; '.join(
                f'{len(names)} {what.replace("_", " ")} ({", ".join(names[:4])}'
                f'{", ..." if len(names) > 4 else ""})'
                for what, names in found.items()
            )
        )
