"""Attention maps of one text: a teacher's, squeezed, and students' beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shd_vit.errors import ConfigError, DatasetError, check_number
from shd_vit.hosts.transformers.checks import common_vocabulary
from shd_vit.lab.language.models import has_tokenizer, load_causal, load_tokenizer
from shd_vit.lab.language.taps import language_taps
from shd_vit.lab.maps import LayerMaps, layer_maps
from shd_vit.pairing.layers import Pairs, layer_pairs
from shd_vit.taps import Anatomy, AttentionTap


def text_of(text: str, tokenizer: Any, tokens: int) -> Tensor:
    """The first tokens (1, n) of a text, or of the file that it names.

    Raises:
        DatasetError: If a file is no text.
        ConfigError: If there are fewer than two tokens.
    """
    check_number('--tokens', tokens, positive=True, whole=True)
    try:
        if len(text) < 256 and Path(text).is_file():
            text = Path(text).read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f'{text!r} cannot be read as text: {error}') from None
    ids = tokenizer(text, add_special_tokens=False, verbose=False)['input_ids'][:tokens]
    if len(ids) < 2:
        raise ConfigError(f'--text has {len(ids)} tokens: a map of fewer than 2 shows nothing')
    return torch.tensor([ids])


def language_maps(
    teacher: str,
    students: Mapping[str, str],
    ids: Tensor,
    layers: Sequence[int] | None,
    num_heads: int | None,
    temperature: float,
) -> list[LayerMaps]:
    """The maps of a text, layer by layer.

    Args:
        teacher: A path, as of :func:`load_causal`.
        students: Paths by name, of models with as many layers and heads as one another.
        ids: (1, N).
        layers: The students' that are shown, or without students the teacher's; None shows all.
        num_heads: Heads to leave; None takes the students'.
        temperature: T_a.

    Raises:
        ConfigError: If models do not fit one another, or there is no such layer.
    """
    check_number('--temperature', temperature, positive=True)
    model = load_causal(teacher)
    anatomy = Anatomy(model, 'teacher')
    loaded = {name: load_causal(path) for name, path in students.items()}
    for name, path in students.items():
        _check_tokens(loaded[name], path, model, teacher)
    anatomies = {name: Anatomy(student, name) for name, student in loaded.items()}
    pairs = _pairs(anatomies, anatomy, layers)
    heads = _heads(anatomies, anatomy, num_heads)
    taps = _taps(model, 'teacher', [t for _, t in pairs], ids)
    theirs = {
        name: _taps(student, name, [s for s, _ in pairs], ids) for name, student in loaded.items()
    }
    with torch.no_grad():
        return [
            layer_maps(
                (s, t), taps[t], {name: own[s] for name, own in theirs.items()}, heads, temperature
            )
            for s, t in pairs
        ]


def _taps(model: Any, role: str, layers: list[int], ids: Tensor) -> dict[int, AttentionTap]:
    with language_taps(model, role, sorted(set(layers))) as (_, taps_of):
        return taps_of(ids)


def _check_tokens(student: Any, path: str, teacher: Any, teacher_path: str) -> None:
    tokenizers = [load_tokenizer(p) if has_tokenizer(p) else None for p in (path, teacher_path)]
    common_vocabulary(student, teacher, *tokenizers)


def _pairs(
    students: Mapping[str, Anatomy], teacher: Anatomy, layers: Sequence[int] | None
) -> Pairs:
    depths = {name: student.depth for name, student in students.items()}
    if len(set(depths.values())) > 1:
        raise ConfigError(f'students have {depths} layers: show those of one depth together')
    pairs = [(layer, layer) for layer in range(1, teacher.depth + 1)]
    for student in students.values():
        pairs = layer_pairs('uniform', student, teacher, 'language_maps')
    known = [s for s, _ in pairs]
    for layer in layers or ():
        if layer not in known:
            raise ConfigError(f'--layers {layer}: layers are 1 to {known[-1]}')
    return [pair for pair in pairs if layers is None or pair[0] in layers]


def _heads(students: Mapping[str, Anatomy], teacher: Anatomy, num_heads: int | None) -> int:
    found = {heads for student in students.values() for heads in student.heads}
    if num_heads is not None:
        found.add(num_heads)
    if len(found) != 1:
        what = f'heads of {sorted(found)}' if found else 'no students and no number'
        raise ConfigError(f'--heads: one number of heads to squeeze to is needed, not {what}')
    (heads,) = found
    if not 1 <= heads <= min(teacher.heads):
        raise ConfigError(f'--heads {heads}: the teacher has {min(teacher.heads)}')
    return heads
