"""SHD's default method as one C++ kernel, for float32 on CPUs.

The kernel is compiled where it is first used, by the compiler that torch.compile needs as well.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from shd_vit.files import write_whole
from shd_vit.functional.attention import softmax_factor
from shd_vit.functional.attention_loss import StoredGradients
from shd_vit.functional.order import group_sizes

SOURCE = Path(__file__).with_name('squeezed_kl.cpp')
# By what torch finds in the processor.
VECTORS = {
    'AVX512': ['-mavx512f', '-mavx512bw', '-mavx512vl', '-mavx512dq', '-mfma'],
    'AVX2': ['-mavx2', '-mfma', '-mf16c'],
}
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_MEND = 'can be written by others: chmod go-w, or set TORCH_EXTENSIONS_DIR to a folder of yours'


def squeezed_kl(
    query: Tensor,
    key: Tensor,
    teacher_query: Tensor,
    teacher_key: Tensor,
    value: Tensor,
    gram: Tensor,
    scale: float,
    teacher_scale: float,
    temperature: float = 1.0,
) -> Tensor:
    """``attention_kl`` of a student to ``squeeze_heads`` of a teacher's ``attention_maps``.

    Sample by sample and head by head, all in the processor's cache. Masks and biases are left to
    those functions, other types and devices as well; see :func:`takes`.

    Args:
        query: (B, Hs, N, D), the student's; the gradient is kept for backward, as of ``key``.
        key: (B, Hs, N, D), the student's.
        teacher_query: (B, Ht, N, D_t), a constant.
        teacher_key: (B, Ht, N, D_t), a constant.
        value: (B, Ht, N, D_v), the teacher's.
        gram: :func:`shd_vit.functional.gram_matrix` of its output projection, (Ht D_v, Ht D_v).
        scale: Factor on the student's dot products, usually D^-0.5.
        teacher_scale: Factor on the teacher's dot products.
        temperature: T_a of both maps.

    Returns:
        Scalar in float32, as Eq. 11 of arXiv 2502.07436 for one layer: summed over heads, the mean
        over batch and query rows.

    Raises:
        ValueError: If shapes do not fit, or the tensors are not for this kernel.
        RuntimeError: If it cannot be built.
    """
    tensors = query, key, teacher_query, teacher_key, value, gram
    if not takes(*tensors):
        raise ValueError('squeezed_kl takes float32 tensors on a CPU')
    B, Hs, N, _ = query.shape
    Ht, width = value.shape[1], value.shape[3]
    teacher = (B, Ht, N, teacher_query.shape[-1])
    expected = query.shape, teacher, teacher, (B, Ht, N, width), (Ht * width, Ht * width)
    if not 1 <= Hs <= Ht or tuple(t.shape for t in tensors[1:]) != expected:
        shapes = ', '.join(str(tuple(t.shape)) for t in tensors)
        raise ValueError(f'shapes of squeezed_kl do not fit each other: {shapes}')
    factors = softmax_factor(scale, temperature), softmax_factor(teacher_scale, temperature)
    return _SqueezedKL.apply(*tensors, *factors)


def takes(*tensors: Tensor) -> bool:
    """Whether these are tensors for the kernel: real ones of float32 on a CPU."""
    return all(
        type(t) in (Tensor, torch.nn.Parameter) and t.dtype == torch.float32 and t.is_cpu
        for t in tensors
    )


class _SqueezedKL(StoredGradients):
    @staticmethod
    def forward(
        ctx, query, key, teacher_query, teacher_key, value, gram, factor, teacher_factor
    ) -> Tensor:
        B, Hs, N, _ = query.shape
        maps_of = [
            t if t.stride(-1) == 1 else t.contiguous()
            for t in (query, key, teacher_query, teacher_key)
        ]
        # The values of neighbouring heads have to be neighbouring columns of one matrix.
        value = value.transpose(1, 2)
        if value.stride()[2:] != (value.shape[3], 1):
            value = value.contiguous()
        groups = group_sizes(value.shape[2], Hs)
        total, *gradients = _kernel()(
            *maps_of, value.transpose(1, 2), gram.contiguous(), groups, factor, teacher_factor
        )
        ctx.save_for_backward(*gradients)
        ctx.rows = B * N / factor  # the kernel leaves the factor to the backward pass
        return total / (B * N)


@cache
def kernel_error() -> str | None:
    """Why the kernel cannot be built here, in a line; None if it is at hand."""
    try:
        _kernel()
    except (OSError, RuntimeError) as error:
        said = str(error).strip() or 'for no reason given'
        reason = f'{type(error).__name__}: {said.splitlines()[0]}'
        logging.getLogger(__name__).warning('SHD runs without its C++ kernel: %s', reason)
        return reason
    return None


@cache
def _kernel() -> Callable:
    torch.ops.load_library(_build())
    return torch.ops.shd_vit.squeezed_kl


def _build() -> Path:
    """The compiled kernel, from torch's folder of extensions if it is there.

    Loading a library runs it. It is taken from a folder that this user alone can write, and only if
    the digest beside it says that it is whole.
    """
    from torch.utils.cpp_extension import include_paths, library_paths

    capability = torch.backends.cpu.get_cpu_capability()
    if capability not in VECTORS:
        capability = 'DEFAULT'
    flags = ['-O3', '-std=c++20', '-shared', '-fPIC', '-fopenmp', *VECTORS.get(capability, [])]
    # What torch's vector classes are chosen by.
    flags += [f'-DCPU_CAPABILITY={capability}', f'-DCPU_CAPABILITY_{capability}']
    compiler = os.environ.get('CXX', 'c++')
    made_of = [torch.__version__, compiler, *flags, SOURCE.read_text()]
    name = hashlib.sha256('\n'.join(made_of).encode()).hexdigest()[:16]
    cached = os.environ.get('TORCH_EXTENSIONS_DIR', '~/.cache/torch_extensions')
    folder = _own_folder(Path(cached).expanduser().absolute() / 'shd_vit')
    library = folder / f'squeezed_kl_{name}.so'
    digest = library.with_suffix('.sha256')
    if library.exists() and digest.exists():
        for path in (library, digest):
            _check_own(path)
        if digest.read_text() == _digest(library):
            return library
    logging.getLogger(__name__).info('Building the C++ kernel of SHD: %s', library)
    # Several processes may build it at once.
    with write_whole(library, alone=False) as built:
        command = [compiler, *flags, str(SOURCE), '-o', str(built)]
        command += [f'-I{path}' for path in include_paths()]
        command += [f'-L{path}' for path in library_paths()]
        command += ['-lc10', '-ltorch_cpu', '-ltorch']
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if 'error: ' in line]
            raise RuntimeError((errors or [f'{compiler} ended with code {done.returncode}'])[0])
        built.chmod(0o700)
        found = _digest(built)
    with write_whole(digest, alone=False) as part:
        part.touch(mode=0o600)
        part.write_text(found)
    return library


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _own_folder(folder: Path) -> Path:
    """Make a folder that nobody else can put a library in.

    Raises:
        PermissionError: If somebody else can, or can put another folder in its place.
    """
    for path in (*reversed(folder.parents), folder):
        path.mkdir(mode=0o700, exist_ok=True)
    folder = folder.resolve()
    _check_own(folder)
    for parent in folder.parents:
        # In a sticky folder such as /tmp, others can put nothing in the place of what is there.
        if (mode := parent.stat().st_mode) & _OTHERS_WRITE and not mode & stat.S_ISVTX:
            raise PermissionError(f'{parent} {_MEND}')
    return folder


def _check_own(path: Path) -> None:
    about = path.lstat()
    if stat.S_ISLNK(about.st_mode) or about.st_mode & _OTHERS_WRITE or about.st_uid != os.getuid():
        raise PermissionError(f'{path} {_MEND}')
