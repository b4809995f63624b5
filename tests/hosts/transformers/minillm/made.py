"""MiniLLM on tiny models: trainers, and batches of responses as TRL makes them."""

import torch
from hosts.transformers.lm import llama
from hosts.transformers.test_trl import SETTINGS, chats, datasets, tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from shd_vit.hosts.transformers import MiniLLMConfig, MiniLLMTrainer

# The gradient of the reverse KL itself, with nothing that trades bias for variance.
PLAIN = dict(
    gamma=1.0,
    length_normalisation=False,
    whiten=False,
    reward_scale=1.0,
    reward_clip=None,
    epsilon=None,
    teacher_mix=0.0,
    num_iterations=1,
)


def five():
    """A tokenizer of five words, of which '4' ends a text, and prompts of it."""
    words = Tokenizer(models.WordLevel({str(n): n for n in range(5)}, unk_token='0'))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token='4', eos_token='4', padding_side='left'
    )
    rows = datasets.Dataset.from_list([dict(prompt='2 3')] * 8)
    return dict(processing_class=made, train_dataset=rows)


def prompts(count=8):
    rows = [dict(prompt=row['messages'][0]['content']) for row in chats(count)]
    return datasets.Dataset.from_list(rows)


def trainer(folder, student=None, teacher=None, cls=MiniLLMTrainer, config=MiniLLMConfig, **kw):
    """A trainer; keyword arguments of the trainer go to it, all others to its arguments."""
    own = (
        'lm_dataset',
        'losses',
        'schedules',
        'train_dataset',
        'eval_dataset',
        'teacher_tokenizer',
    )
    own += ('processing_class', 'tools', 'rows')
    options = {name: kw.pop(name) for name in own if name in kw}
    options = {'train_dataset': prompts(), 'processing_class': tokenizer(), **options}
    settings = dict(output_dir=str(folder), max_completion_length=4, gradient_checkpointing=False)
    return cls(
        model=llama() if student is None else student,
        teacher_model=llama(heads=4, seed=7) if teacher is None else teacher,
        args=config(**{**SETTINGS, **settings, **kw}),
        **options,
    )


def batch(responses, prompt=(5, 6), width=None, left=0, pad=0):
    """Responses, lists of numbers of tokens, to one prompt with so much padding at its left."""
    width = width or max(map(len, responses))
    ids = torch.full((len(responses), width), pad)
    mask = torch.zeros_like(ids)
    for row, response in enumerate(responses):
        ids[row, : len(response)] = torch.tensor(response, dtype=torch.long)
        mask[row, : len(response)] = 1
    ones = torch.ones(len(responses), len(prompt), dtype=torch.long)
    at_left = (left, 0)
    fill = torch.nn.functional.pad
    return dict(
        prompt_ids=fill(ones * torch.tensor(prompt), at_left, value=pad),
        prompt_mask=fill(ones, at_left),
        completion_ids=ids,
        completion_mask=mask,
        num_items_in_batch=mask.sum(),
    )


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def learn(made, inputs):
    """Loss and gradients of a batch."""
    made.model.train()
    made.model.zero_grad()
    loss = made.compute_loss(made.model, inputs)
    loss.backward()
    return loss.detach(), gradients(made.model)
