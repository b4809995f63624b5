"""How command-line tools begin and end: one-line errors, and processes that leave together."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable

import torch.distributed as dist

from shd_vit.errors import ShdVitError


def run_tool(main: Callable[[], None]) -> None:
    """Run a tool's main function; errors that the user can mend are printed as one line."""
    try:
        main()
    except ShdVitError as error:
        sys.exit(f'{type(error).__name__}: {error}')
    else:
        leave_group()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def leave_group() -> None:
    """Wait for the other processes, if any, and leave them. Does not return where gloo is used.

    DDP keeps a gloo group alive until the interpreter is gone; its threads, still running then,
    abort a process now and then ('terminate called without an active exception') that has done its
    work. Such a process ends here, after Python's exit handlers, without tearing down C++ objects.
    """
    if not dist.is_initialized():
        return
    dist.barrier()  # a process that leaves early can bring down one that still talks to it
    is_gloo = dist.get_backend() == 'gloo'
    dist.destroy_process_group()
    if is_gloo:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
