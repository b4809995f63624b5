"""Run by torchrun: a distilled step on two processes; the first writes what it has learned."""

import sys

import torch
from hosts.transformers.lm import Texts, gpt2, llama, trainer

from shd_vit.losses import KDLoss

torch.set_num_threads(1)
folder, size, steps, padding = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
made = trainer(
    folder,
    student=llama().double(),
    teachers=gpt2().double(),
    texts=Texts(padding=padding),
    losses=dict(
        kd=True,
        summed=KDLoss(reduction='sequences'),
        cor=True,
        fd=True,
        shd=dict(backend='torch'),
    ),
    per_device_train_batch_size=size,
    gradient_accumulation_steps=steps,
    optim='sgd',
    learning_rate=0.5,
    max_grad_norm=0.0,
    max_steps=1,
    ddp_backend='gloo',
)
made.distillation.losses.double()
made.train()
if made.is_world_process_zero():
    learned = dict(student=made.model.state_dict(), losses=made.distillation.losses.state_dict())
    log = next(row for row in made.state.log_history if 'loss' in row)
    torch.save(dict(learned, log=log), f'{folder}/learned.pt')
