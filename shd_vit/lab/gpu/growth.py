"""SHD of one layer against tokens, beside flash attention of the student and literal maps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from shd_vit.functional import Mask, shd_loss
from shd_vit.lab.gpu import Goal, Outcome
from shd_vit.lab.gpu.timing import error_of, kernel_milliseconds, milliseconds, peak_mib
from shd_vit.lab.report import Table
from shd_vit.lab.yardstick import literal_shd
from shd_vit.taps import AttentionTap

TOKENS = (197, 512, 1024, 2048, 4096, 8192, 16384)
HEADS, WIDTH = (25, 16), 64
SHORT, FEW = (49, 128, 197, 256), (6, 3)  # tokens, heads
ALL_TOKENS, MANY = 16384, 50_000  # of a batch: short sequences are many
SLOW = 4096  # tokens up to which plain torch is run
FLASH = 2.5  # times attention's own forward and backward
Run = Callable[[], object]


def measure(rounds: int, dtype: torch.dtype = torch.bfloat16) -> Outcome:
    """Milliseconds and MiB of each, causal and not.

    Args:
        rounds: Of which the median is taken.
        dtype: Of queries, keys and values.
    """
    heading = ['tokens x samples', 'flash attention', 'SHD, triton', '/ flash', 'of kernels']
    heading += ['SHD, torch', 'literal maps', 'MiB of triton', 'MiB of literal']
    tables, goals, wrong = [], [], []
    for causal in (False, True):
        rows, ratios = [heading], []
        for tokens in TOKENS:
            batch = max(1, ALL_TOKENS // tokens)
            runs = _runs(batch, tokens, causal, dtype)
            found = {
                name: _measured(run, rounds if name in ('flash', 'triton') else 1)
                for name, run in runs.items()
            }
            for name in ('flash', 'triton'):
                if isinstance(found[name], str):
                    wrong.append(f'{name} of {tokens} tokens: {found[name]}')
            cells = {n: '' if isinstance(f, str) else f'{f[0]:.2f} ms' for n, f in found.items()}
            mib = {n: '' if isinstance(f, str) else f'{f[1]:,.0f}' for n, f in found.items()}
            flash, streamed = found['flash'], found['triton']
            both = [float('nan')] * 2
            if not isinstance(flash, str) and not isinstance(streamed, str):
                kernels = [kernel_milliseconds(runs[name]) for name in ('triton', 'flash')]
                both = [streamed[0] / flash[0], kernels[0] / kernels[1]]
                ratios.append(both)
            rows.append(
                [f'{tokens:,} x {batch}', cells['flash'], cells['triton']]
                + [f'{ratio:.2f}' for ratio in both]
                + [cells.get(n, '') for n in ('torch', 'literal')]
                + [mib['triton'], mib.get('literal', '')]
            )
        name = 'causal' if causal else 'all keys'
        tables.append((f'One layer, {HEADS[0]} -> {HEADS[1]} heads of {WIDTH}, {name}', rows))
        worst = [max(of_all) for of_all in zip(*ratios, strict=True)] or both
        for what, value in zip(('', ', kernels alone'), worst, strict=True):
            goals.append(Goal(f'SHD / flash attention, {name}, at worst{what}', value, FLASH))
    tables.append(_launches(rounds, dtype, wrong))
    return Outcome(tuple(tables), tuple(goals), tuple(wrong))


def _launches(rounds: int, dtype: torch.dtype, wrong: list[str]) -> Table:
    """Short maps by whole rows, where the card's registers hold them, and by tiles."""
    from shd_vit.functional.triton import loss

    rows = [['tokens x samples', 'whole rows', 'their kernels', 'tiles', 'their kernels']]
    for tokens in SHORT:
        batch = max(1, MANY // tokens)
        student, teacher = (_tap(heads, batch, tokens, dtype) for heads in reversed(FEW))
        run = partial(_shd, student, teacher, Mask(), 'triton')
        row = [f'{tokens} x {batch}']
        are_short = loss.are_short(tokens, tokens, student.q, teacher.q)
        for by_rows in (True, False):
            if by_rows and not are_short:
                row += ['', '']
                continue
            with patch.object(loss, 'are_short', lambda *maps, by_rows=by_rows: by_rows):
                error = error_of(run)  # compiles, too
                times = () if error else (milliseconds(run, rounds), kernel_milliseconds(run))
            row += [f'{ms:.2f} ms' for ms in times] or ['', '']
            if error:
                wrong.append(f'triton of {tokens} tokens: {error}')
        rows.append(row)
    return f'Short maps, {FEW[0]} -> {FEW[1]} heads of {WIDTH}, loss and gradients', rows


def _shd(student: AttentionTap, teacher: AttentionTap, mask: Mask, backend: str) -> None:
    q, k = (x.requires_grad_() for x in (student.q, student.k))
    of_teacher = teacher.q, teacher.k, teacher.v, teacher.out_proj, student.scale, teacher.scale
    loss = shd_loss(q, k, *of_teacher, mask=mask, teacher_mask=mask, backend=backend)
    torch.autograd.grad(loss, (q, k))


def _measured(run: Run, rounds: int) -> tuple[float, float] | str:
    """Milliseconds and MiB; or why there are none."""
    error = error_of(run)  # compiles, too
    return error or (milliseconds(run, rounds, warm_up=0), peak_mib(run))


def _runs(batch: int, tokens: int, causal: bool, dtype: torch.dtype) -> dict[str, Run]:
    student, teacher = (_tap(heads, batch, tokens, dtype) for heads in reversed(HEADS))
    q, k, v = (x.requires_grad_() for x in student[:3])
    mask = Mask(is_causal=causal)

    def flash() -> None:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            out = scaled_dot_product_attention(q, k, v, is_causal=causal)
        torch.autograd.grad(out, (q, k, v), torch.ones_like(out))

    def literal() -> None:
        torch.autograd.grad(literal_shd(student, teacher), (q, k))

    shd = partial(_shd, student, teacher, mask)
    runs: dict[str, Run] = dict(flash=flash, triton=partial(shd, 'triton'))
    if tokens <= SLOW:
        runs['torch'] = partial(shd, 'torch')
        if not causal:
            runs['literal'] = literal
    return runs


def _tap(heads: int, batch: int, tokens: int, dtype: torch.dtype) -> AttentionTap:
    q, k, v = (
        torch.randn(batch, heads, tokens, WIDTH, device='cuda', dtype=dtype) for _ in range(3)
    )
    out_proj = torch.randn(heads * WIDTH, heads * WIDTH, device='cuda', dtype=dtype)
    return AttentionTap(q, k, v, out_proj, WIDTH**-0.5)
