"""What an output projection multiplies by: its weight, or what stands around or in place of it."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from shd_vit.errors import UnsupportedAttention

# What libraries call it; transformers' GPT-2 has a c_proj, its ModernBERT a Wo.
PROJECTIONS = ('proj', 'o_proj', 'out_proj', 'c_proj', 'Wo')
ROWS = 8  # random rows that tell whether a projection is linear


def output_projection(attn: nn.Module) -> Any:
    """The output projection of an attention module, by its name; None if it has none."""
    return next((getattr(attn, name) for name in PROJECTIONS if hasattr(attn, name)), None)


def widths(projection: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a projection or of what it wraps; None if none of them says."""
    for module in projection.modules():
        for names in (('in_features', 'out_features'), ('nx', 'nf')):  # Linear; Conv1D
            found = tuple(getattr(module, name, None) for name in names)
            if all(isinstance(width, int) for width in found):
                return found  # type: ignore[return-value]
    return None


def read_weight(projection: nn.Module) -> Tensor:
    """(out, in), what a projection multiplies by in eval mode.

    A plain layer's own weight; where it is sharded over processes (FSDP2), put together, for which
    all of them have to come here. Of any other layer (an adapter around it, a parametrization, a
    hook, a quantised weight), what it makes of the unit vectors, anew at each call: adapters may be
    switched, and the dequantised weights of all layers at once may not fit.

    Raises:
        UnsupportedAttention: If it cannot be had, naming the class.
    """
    if is_plain(projection):
        weight: Any = projection.weight
        if _is_sharded(weight):
            _check_rows_are_sharded(projection, weight)
            weight = weight.detach().full_tensor()
        _check_present(projection, weight)
        return weight.T if _is_transposed(projection) else weight
    rows = torch.eye(_width(projection)) * _size(projection)
    return _multiplied(projection, rows).T / _size(projection)


def check_projection(projection: nn.Module, weight: Tensor) -> None:
    """Hold a weight (out, in) against the projection's own output on random rows.

    Raises:
        UnsupportedAttention: If it multiplies by something else, as what is not linear does.
    """
    if is_plain(projection):
        return
    rows = torch.randn(ROWS, _width(projection), generator=torch.Generator().manual_seed(0))
    rows = rows * _size(projection)
    actual = _multiplied(projection, rows)
    expected = rows.to(actual) @ weight.detach().to(actual).T
    error = torch.dist(actual, expected) / actual.norm().clamp(min=1e-12)
    if not error < _tolerance(projection):
        _refuse(
            projection,
            f'its output differs from what its weight gives by {error:.2g} of its norm: it is not '
            'linear, or its weight is not what it multiplies by',
        )


def is_plain(projection: Any) -> bool:
    """Whether a layer multiplies by its parameter ``weight``, and by nothing else."""
    weight: Any = getattr(projection, '_parameters', {}).get('weight')
    is_linear = type(projection).forward is nn.Linear.forward or _is_transposed(projection)
    is_wrapped = 'forward' in vars(projection) or (
        projection._forward_hooks or projection._forward_pre_hooks
    )
    # A packed weight is a subclass of Parameter, in a layer that is a Linear like any other.
    is_own = type(weight) is nn.Parameter or _is_sharded(weight)
    return bool(is_linear and not is_wrapped and is_own and weight.is_floating_point())


def _is_sharded(weight: Any) -> bool:
    """Whether it is a DTensor, of which this process has a part."""
    return type(weight).__name__ == 'DTensor'


def _check_rows_are_sharded(projection: nn.Module, weight: Any) -> None:
    """Refuse a weight that is sharded otherwise: then each process has heads of its own."""
    for placement in weight.placements:
        if getattr(placement, 'dim', 0) != 0 or placement.is_partial():
            _refuse(
                projection,
                f'its weight is sharded as {placement} (tensor parallel): no process has all heads',
            )


def _is_transposed(projection: nn.Module) -> bool:
    """Whether it is transformers' Conv1D, whose weight is (in, out)."""
    return f'{type(projection).__module__}.{type(projection).__qualname__}' == (
        'transformers.pytorch_utils.Conv1D'
    )


@torch.no_grad()
def _multiplied(projection: nn.Module, rows: Tensor) -> Tensor:
    """Rows (n, in) times the weight: (n, out), without bias and dropout, in float32 at least."""
    for parameter in projection.parameters():
        _check_present(projection, parameter)
    like = next((p for p in projection.parameters() if p.is_floating_point()), torch.empty(0))
    rows = rows.to(like)
    # The flags alone: train(False) is where some adapters merge themselves into the weight.
    training = {module: module.training for module in projection.modules()}
    try:
        for module in training:
            module.training = False
        with torch.autocast(rows.device.type, enabled=False):
            products = projection(rows) - projection(torch.zeros_like(rows[:1]))
            return products.to(torch.promote_types(products.dtype, torch.float32))
    except Exception as error:
        line = str(error).split('\n', 1)[0]
        _refuse(projection, f'it does not take rows {tuple(rows.shape)} of {rows.dtype}: {line}')
    finally:
        for module, flag in training.items():
            module.training = flag


def _check_present(projection: nn.Module, weight: Tensor) -> None:
    if weight.is_meta:
        _refuse(projection, 'its weight is on the meta device')
    if _is_sharded(weight):
        _refuse(projection, 'its weight is sharded (FSDP), and it multiplies by more than that')
    if not weight.numel():
        _refuse(
            projection,
            'its weight is sharded: it is empty here, as DeepSpeed ZeRO-3 leaves it outside of its '
            'own forward; load the model without ZeRO-3',
        )
    if type(weight) is nn.Parameter and not weight.untyped_storage().size():
        _refuse(projection, 'its weight is sharded (FSDP): it is here in its own forward alone')


def _is_packed(projection: nn.Module) -> bool:
    parameters = list(projection.parameters())
    return not parameters or any(
        not p.is_floating_point() or type(p) is not nn.Parameter for p in parameters
    )


def _size(projection: nn.Module) -> float:
    """Of the unit vectors: large, so that subtracting the bias costs half precision no digits.

    Layers that quantise their input treat values above 6 in other ways (LLM.int8).
    """
    return 4.0 if _is_packed(projection) else 256.0


def _tolerance(projection: nn.Module) -> float:
    if _is_packed(projection):
        return 0.05  # its input may be quantised as well
    precise = all(p.dtype in (torch.float32, torch.float64) for p in projection.parameters())
    return 1e-3 if precise else 0.02


def _width(projection: nn.Module) -> int:
    found = widths(projection)
    if found is None:
        _refuse(projection, 'how wide its input is is unknown: it has no in_features')
    return found[0]


def _refuse(projection: nn.Module, reason: str) -> NoReturn:
    cls = type(projection)
    raise UnsupportedAttention(
        f'output projection {cls.__module__}.{cls.__qualname__} cannot be read: {reason}'
    )
