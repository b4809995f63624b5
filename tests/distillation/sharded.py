"""Run by torchrun: SHD between models whose weights are sharded (FSDP2), and between plain ones."""

import sys

import torch
import torch.distributed as dist
from hosts.transformers.lm import Texts, gpt2, llama
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

from shd_vit.distillation import Distillation
from shd_vit.errors import UnsupportedAttention
from shd_vit.losses import SHDLoss
from shd_vit.taps import TapBank

torch.set_num_threads(1)
dist.init_process_group('gloo')
mesh = init_device_mesh('cpu', (dist.get_world_size(),))
batch = {name: x for name, x in Texts(padding='left').batch().items() if name != 'labels'}


def shard(model, blocks):
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def gradients(when):
    student, teacher = llama(), gpt2()
    if when == 'before':
        shard(student, student.model.layers)
        shard(teacher, teacher.transformer.h)
    d = Distillation(dict(shd=SHDLoss(backend='torch')), student, teacher)
    if when == 'after':
        shard(student, student.model.layers)
        shard(teacher, teacher.transformer.h)
    taught = d.record_teacher(lambda: teacher(**batch).logits)
    learned = d.record_student(lambda: student(**batch).logits)
    shd = d.terms(learned, taught, None)['shd']
    (shd + learned.logits.square().mean()).backward()
    grads = {name: p.grad for name, p in student.named_parameters()}
    is_sharded = type(teacher.transformer.h[0].attn.c_proj.weight).__name__ == 'DTensor'
    assert is_sharded == (when != 'never')
    whole = {n: g.full_tensor() if when != 'never' else g for n, g in grads.items()}
    return dict(shd=shd.detach(), **whole)


def refusal():
    """Of a teacher whose processes have heads of their own (tensor parallel)."""
    model = llama()
    attn = model.model.layers[0].self_attn
    attn.o_proj.weight = torch.nn.Parameter(distribute_tensor(attn.o_proj.weight, mesh, [Shard(1)]))
    try:
        TapBank(model)
    except UnsupportedAttention as error:
        return str(error)


found = {when: gradients(when) for when in ('never', 'before', 'after')}
found['refusal'] = refusal()
if dist.get_rank() == 0:
    torch.save(found, sys.argv[1])
dist.destroy_process_group()
