"""Joining the processes of a run on machines without an accelerator."""

from __future__ import annotations

import os
import subprocess
from datetime import timedelta

import torch.distributed as dist

from shd_vit.errors import ConfigError

_SLURM = dict(RANK='SLURM_PROCID', WORLD_SIZE='SLURM_NTASKS', LOCAL_RANK='SLURM_LOCALID')
_MPI = {
    name: f'OMPI_COMM_WORLD_{part}'
    for name, part in dict(RANK='RANK', WORLD_SIZE='SIZE', LOCAL_RANK='LOCAL_RANK').items()
}


def init_gloo(launcher: str, timeout: float | None = None) -> None:
    """Join the gloo group that torchrun, Slurm or MPI has started this process for.

    mmengine selects a CUDA device for every launcher, whatever the backend.

    Args:
        launcher: 'pytorch', 'slurm' or 'mpi'.
        timeout: Seconds until a collective gives up; None takes torch's default.

    Raises:
        ConfigError: If the launcher's environment variables are missing.
    """
    names = {'pytorch': {}, 'slurm': _SLURM, 'mpi': _MPI}[launcher]
    try:
        os.environ.update({name: os.environ[source] for name, source in names.items()})
        if launcher == 'slurm' and 'MASTER_ADDR' not in os.environ:
            hosts = ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']]
            os.environ['MASTER_ADDR'] = subprocess.check_output(hosts, text=True).split()[0]
        os.environ.setdefault('MASTER_PORT', '29500')
        limit = None if timeout is None else timedelta(seconds=timeout)
        dist.init_process_group('gloo', timeout=limit)
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"launcher={launcher!r}, but the environment is not that launcher's: {error}. Start "
            'through tools/dist_train.sh or tools/slurm_train.sh, or use --launcher none'
        ) from None
