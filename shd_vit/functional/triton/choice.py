"""Whether SHD runs by the Triton kernels: after a comparison with plain torch, if they are faster.

Kernels are compiled by a toolchain that no test of ours has seen, for a card of its own. So before
maps of some shape are first given to them, both ways are run on a part of the very batch.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shd_vit.errors import ConfigError
from shd_vit.functional.compiler import compiler_error

_logger = logging.getLogger(__name__)

Call = dict[str, Any]  # the arguments of shd_loss
Loss = Callable[..., Tensor]
MODELS = ('query', 'key', 'teacher_query', 'teacher_key', 'value')
WIDEST = 128  # heads that a program can hold
# How far loss and gradients (as a whole) may be from plain torch's, which rounds what it multiplies
# to the same types.
TOLERANCES = {
    torch.float32: 1e-4,
    torch.float16: 5e-3,
    torch.bfloat16: 2e-2,
    'tf32': 5e-3,
}
SAMPLES, TOKENS = 2, 256  # of a batch that both are compared on
FAINT = 1e-5  # a loss of nothing but rounding, as of a student that has its teacher's maps
ROUNDS = 3  # of which the fastest counts


class Finding(NamedTuple):
    """What is wrong with the kernels, if anything is."""

    error: str | None


_errors: dict[tuple, str | None] = {}  # by class of shapes, what is wrong with the kernels
_fastest: dict[tuple, str] = {}  # likewise: 'triton', or 'auto' for what it would be without
_warned: set[str] = set()
_is_examining = False


def choose(backend: str, call: Call, shd_loss: Loss) -> str:
    """``backend``, or 'triton' in the place of 'auto'.

    Args:
        backend: 'auto' or 'triton'.
        call: The other arguments of ``shd_loss``.
        shd_loss: The one entry.

    Raises:
        ConfigError: If 'triton' is insisted on, but does not serve these arguments.
        RuntimeError: Likewise, but it does not work here.
    """
    reason = refusal(call) or _unavailable(call['query'].device, backend)
    if reason:
        if backend == 'triton':
            raise ConfigError(f"backend='triton': {reason}; 'auto' takes anything")
        return backend
    if _is_examining:
        return backend
    key = shape_class(call)
    if key not in _errors:
        found = _examine(call, shd_loss)
        if found is None:  # nothing to be seen of this batch
            return backend
        _errors[key] = found.error
    error = _errors[key]
    if backend == 'triton':
        if error:
            raise RuntimeError(f"backend='triton': {error}")
        return backend
    if error:
        return backend
    if key not in _fastest:
        _fastest[key] = _time(call, shd_loss)
    return _fastest[key]


def refusal(call: Call) -> str | None:
    """Why the kernels do not take these arguments; None if they do."""
    tensors = {name: call[name] for name in MODELS if call[name] is not None}
    for name, tensor in tensors.items():
        if type(tensor) not in (Tensor, torch.nn.Parameter):
            return f'{name} is a {type(tensor).__name__}, which kernels cannot read'
        if tensor.dtype not in TOLERANCES:
            return f'{name} is {tensor.dtype}: expected float32, float16 or bfloat16'
        if tensor.device != call['query'].device:
            return f'{name} is on {tensor.device}, not on {call["query"].device}'
        if name != 'value' and tensor.shape[-1] > WIDEST:
            return f'heads of {name} are {tensor.shape[-1]} wide: at most {WIDEST}'
    if call['bias'] is not None and call['bias'].requires_grad:
        return 'a bias that asks for a gradient has none from the kernels'
    return None


def _unavailable(device: torch.device, backend: str) -> str | None:
    """Why no kernel can run there."""
    if device.type != 'cuda' and (backend == 'auto' or os.environ.get('TRITON_INTERPRET') != '1'):
        return f'the kernels need a GPU, tensors are on {device.type}'
    try:
        import triton  # noqa: F401
    except ImportError as error:
        reason = f'Triton cannot be imported: {error}'
        _warn(reason)
        return reason
    return None


def shape_class(call: Call) -> tuple:
    """What kernels are compiled and chosen for; batch and tokens up to the next power of two."""
    B, _, N, _ = call['query'].shape
    sizes = (B - 1).bit_length(), (N - 1).bit_length()
    of_models = [
        (t.dtype, t.shape[1], t.shape[-1]) for t in (call[name] for name in MODELS) if t is not None
    ]
    biases = [b if b is None else b.dtype for b in (call['bias'], call['teacher_bias'])]
    masks = [
        (m.is_causal, m.window is None, m.padding is None, m.documents is None)
        for m in (call['mask'], call['teacher_mask'])
    ]
    weigh, device = call['weigh'], call['query'].device
    return (
        *(device, sizes, *of_models, *biases, *masks, call['sizes'], call['distance'], weigh),
        torch.get_float32_matmul_precision(),
    )


@contextmanager
def _examination() -> Iterator[None]:
    """Inside, what is asked for is run."""
    global _is_examining
    _is_examining = True
    try:
        yield
    finally:
        _is_examining = False


def _examine(call: Call, shd_loss: Loss) -> Finding | None:
    """Compare with plain torch on a part of the batch; None if it shows nothing."""
    if call['query'].is_cuda and torch.cuda.is_current_stream_capturing():
        return None
    with _examination():
        part = part_of(call)
        wanted = _results(shd_loss, part, 'torch')
        if not all(t.isfinite().all() for t in wanted) or wanted[0].abs() < FAINT:
            return None
        try:
            error = _difference(_results(shd_loss, part, 'triton'), wanted, tolerance(part))
        except Exception as raised:  # whatever a toolchain may raise
            said = str(raised).strip() or 'for no reason given'
            error = f'{type(raised).__name__}: {said.splitlines()[0]}'
    if error:
        _warn(error)
    return Finding(error)


def part_of(call: Call) -> Call:
    """The same of the samples, and of the run of their tokens, with the least padding."""
    query, mask = call['query'], call['mask']
    B, N = len(query), query.shape[2]
    tokens = min(N, TOKENS)
    start = 0
    pick = torch.arange(min(B, SAMPLES), device=query.device)
    if mask.padding is not None:
        counts = mask.padding.sum(1)
        pick = counts.topk(min(B, SAMPLES)).indices
        seen = mask.padding[pick]
        if not mask.offset and seen[:, :tokens].sum() < seen[:, N - tokens :].sum():
            start = N - tokens
    rows, keys = slice(start, start + tokens), slice(start, start + tokens + mask.offset)

    def mask_of(mask):
        codes = [c if c is None else c[pick][:, keys] for c in (mask.padding, mask.documents)]
        queries = None if mask.queries is None else mask.queries[pick][:, rows]
        return mask._replace(padding=codes[0], documents=codes[1], queries=queries)

    def bias_of(bias):
        if bias is None:
            return None
        bias = torch.atleast_2d(bias.detach())
        bias = bias[pick % len(bias)] if bias.dim() == 4 else bias
        bias = bias[..., rows, :] if bias.shape[-2] > 1 else bias
        return bias[..., keys] if bias.shape[-1] > 1 else bias

    part = dict(call)
    for name in MODELS:
        if call[name] is not None:
            run = rows if name.endswith('query') else keys
            part[name] = call[name].detach()[pick][:, :, run]
    for name in ('mask', 'teacher_mask'):
        part[name] = mask_of(call[name])
    for name in ('bias', 'teacher_bias'):
        part[name] = bias_of(call[name])
    return part


def _results(shd_loss: Loss, call: Call, backend: str) -> tuple[Tensor, ...]:
    """Loss and gradients of query and key."""
    leaves = [call[name].detach().requires_grad_() for name in ('query', 'key')]
    with torch.enable_grad():
        loss = shd_loss(**{**call, 'query': leaves[0], 'key': leaves[1], 'backend': backend})
        return (loss.detach(), *torch.autograd.grad(loss, leaves))


def tolerance(call: Call) -> float:
    """For the roughest type in play."""
    found = [TOLERANCES[call[name].dtype] for name in MODELS if call[name] is not None]
    if torch.get_float32_matmul_precision() != 'highest':
        found.append(TOLERANCES['tf32'])
    return max(found)


def _difference(
    found: tuple[Tensor, ...], wanted: tuple[Tensor, ...], allowed: float
) -> str | None:
    """In words, if there is more than allowed; relative, by the norm."""
    names = 'the loss', 'the gradient of the queries', 'the gradient of the keys'
    for name, one, other in zip(names, found, wanted, strict=True):
        one, other = one.double(), other.double()
        differs = ((one - other).norm() / other.norm().clamp(min=1e-12)).item()
        if not differs <= allowed:  # nor if it is no number
            return f"{name} differs by {differs:.1e} from plain torch's, allowed are {allowed:.0e}"
    return None


def _time(call: Call, shd_loss: Loss) -> str:
    """'triton', or 'auto' where what that would be without is faster on this batch."""
    other = 'torch' if compiler_error(call['query'].device.type) else 'compile'
    with _examination():
        times = {name: _milliseconds(shd_loss, call, name) for name in ('triton', other)}
    fastest = min(times, key=lambda name: times[name])
    B, H, N, _ = call['query'].shape
    spent = ', '.join(f'{backend} {ms:.2f} ms' for backend, ms in times.items())
    _logger.info('SHD of maps (%d, %d, %d) runs by %s: %s', B, H, N, fastest, spent)
    return 'triton' if fastest == 'triton' else 'auto'


def _milliseconds(shd_loss: Loss, call: Call, backend: str) -> float:
    """Of the loss and its gradients, which are one; infinite if it fails."""
    fastest = float('inf')
    try:
        for _ in range(ROUNDS + 1):  # the first compiles
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            shd_loss(**call, backend=backend)
            end.record()
            end.synchronize()
            fastest = min(fastest, start.elapsed_time(end))
    except Exception as error:  # whatever a toolchain may raise, memory included
        _logger.warning('SHD by %s fails: %s', backend, str(error).strip().splitlines()[:1])
        return float('inf')
    return fastest


def _warn(reason: str) -> None:
    if reason not in _warned:
        _warned.add(reason)
        _logger.warning('SHD runs without its Triton kernels: %s', reason)
