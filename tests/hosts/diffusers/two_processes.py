"""Half a batch in each of two processes: writes the gradients that DDP leaves. Run by torchrun."""

import sys

import torch
import torch.distributed as dist
from hosts.diffusers.dits import SHD, ddpm, dit
from torch.nn.parallel import DistributedDataParallel

from shd_vit.hosts.diffusers import DiffusionDistiller, Pass


def distiller():
    return DiffusionDistiller(
        dit(2, 2),
        dit(4, 4, seed=1),
        ddpm(),
        dict(shd=SHD, output=True, fd=dict(type='FeatureProjectorLoss')),
        label_dropout=0.0,
        passes=(Pass(), Pass('again')),
    )


def batch():
    torch.manual_seed(5)
    noises = [torch.randn(4, 2, 8, 8) for _ in range(2)]
    times = torch.tensor([0, 10, 500, 900])
    return torch.randn(4, 2, 8, 8), torch.arange(4), times, noises


def gradients(model, inner, rows):
    latents, labels, times, noises = batch()
    noises = [noise[rows] for noise in noises]
    step = model(latents[rows], labels[rows], timesteps=times[rows], noises=noises)
    step.loss.backward()
    return {name: p.grad for name, p in inner.named_parameters()}


if __name__ == '__main__':
    dist.init_process_group('gloo')
    inner, rank = distiller(), dist.get_rank()
    found = gradients(DistributedDataParallel(inner), inner, slice(2 * rank, 2 * rank + 2))
    if rank == 0:
        torch.save(found, sys.argv[1])
    dist.barrier()
    dist.destroy_process_group()
