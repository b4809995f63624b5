"""Run by torchrun: steps of MiniLLM on two processes; the first writes what it has learned."""

import os
import sys

import torch
from hosts.transformers.lm import gpt2, llama
from hosts.transformers.minillm.made import datasets, trainer

from shd_vit.hosts.transformers import DistillMiniLLMTrainer

torch.set_num_threads(1)
folder, size, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
TEXT = [dict(input_ids=[n, n + 3, n + 5, n + 7]) for n in range(8)]
RESPONSES = [[7, 8, 1], [9, 1], [3, 4, 5, 6], [1], [11, 12], [13, 14, 15, 1], [16, 17], [18, 1, 19]]


class Given(DistillMiniLLMTrainer):
    """Responses are given: those of the numbers in the prompts."""

    def _generate_single_turn(self, prompt_ids, *args, **kwargs):
        return [RESPONSES[ids[-1] - 4] for ids in prompt_ids]


made = trainer(
    folder,
    llama(),
    gpt2(),
    cls=Given,
    losses=dict(shd=dict(backend='torch'), cor=True),
    train_dataset=datasets.Dataset.from_list([dict(prompt=f'w{n} w{n}') for n in range(8)]),
    lm_dataset=TEXT,
    shuffle_dataset=False,
    teacher_mix=0.3,
    per_device_train_batch_size=size,
    gradient_accumulation_steps=steps,
    steps_per_generation=steps,
    num_iterations=2,
    max_steps=2,
    optim='sgd',
    learning_rate=0.5,
    max_grad_norm=0.0,
    ddp_backend='gloo' if 'RANK' in os.environ else None,  # by torchrun
)
made.train()
if made.is_world_process_zero():
    rows = [row for row in made.state.log_history if 'loss' in row]
    torch.save(dict(student=made.model.state_dict(), log=rows), f'{folder}/learned.pt')
