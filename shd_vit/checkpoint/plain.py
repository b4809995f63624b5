"""What plain data is: a tree of tensors, numbers and text, no larger than what it is read from."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any

import torch
from torch import Tensor

KEYS = (type(None), bool, int, float, str, bytes)
_LEAVES = (*KEYS, complex, bytearray, Tensor, torch.dtype, torch.device, torch.Size)
_CONTAINERS = (dict, OrderedDict, Counter, list, tuple, set)
_DEPTH = 100  # of containers in containers; real checkpoints have about 6


class Refused(Exception):
    """A file holds more than plain data. The message goes on from 'it'."""


def check_plain(value: Any, limit: int) -> None:
    """Refuse what is no tree of plain data, or would grow far beyond its file when copied.

    Args:
        value: Of an unpickler.
        limit: How many values the tree may have, shared ones counted where they stand.
    """
    sizes: dict[int, tuple[int, int]] = {}  # values and depth below, by id
    under_way: set[int] = set()
    todo = [(value, False)]
    while todo:
        node, is_done = todo.pop()
        if type(node) in _LEAVES:
            continue
        if type(node) not in _CONTAINERS:
            name = getattr(node, 'path', type(node).__name__)
            raise Refused(f'holds {name} itself, which is not plain data')
        children = list(node.values() if isinstance(node, dict) else node)
        if is_done:
            below = [sizes.get(id(child), (1, 0)) for child in children]
            count, depth = 1 + sum(c for c, _ in below), 1 + max((d for _, d in below), default=0)
            if count > limit or depth > _DEPTH:
                raise Refused('repeats or nests its values beyond measure')
            sizes[id(node)] = count, depth
            under_way.discard(id(node))
        elif id(node) in under_way:
            raise Refused('holds a container that contains itself')
        elif id(node) not in sizes:
            under_way.add(id(node))
            todo.append((node, True))
            todo.extend((child, False) for child in children)
