"""Tiny language models, texts of random tokens, and trainers of them."""

import torch
from torch.utils.data import Dataset
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    TrainingArguments,
)

from shd_vit.hosts.transformers import DistillTrainer

VOCABULARY, TOKENS = 50, 12


def llama(heads=2, layers=2, seed=0, vocabulary=VOCABULARY, **kwargs):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=32,
        initializer_range=0.3,
        **kwargs,
    )
    return LlamaForCausalLM(config)


def gpt2(heads=4, layers=2, seed=1, vocabulary=VOCABULARY, **kwargs):
    torch.manual_seed(seed)
    dropouts = dict.fromkeys(('resid_pdrop', 'embd_pdrop', 'attn_pdrop'), 0.1)
    config = GPT2Config(
        vocab_size=vocabulary,
        n_embd=32,
        n_layer=layers,
        n_head=heads,
        n_positions=32,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=1,
        **{**dropouts, **kwargs},
    )
    return GPT2LMHeadModel(config)


class Texts(Dataset):
    """Sequences of random tokens, padded to one length where padding is 'left' or 'right'."""

    def __init__(self, count=8, padding=None, columns=(), shortest=5):
        draw = torch.Generator().manual_seed(3)
        self.rows = []
        for _ in range(count):
            ids = torch.randint(0, VOCABULARY, (TOKENS,), generator=draw)
            mask, labels = torch.ones_like(ids), ids.clone()
            if padding:
                gap = TOKENS - int(torch.randint(shortest, TOKENS, (), generator=draw))
                place = slice(0, gap) if padding == 'left' else slice(TOKENS - gap, TOKENS)
                mask[place], labels[place], ids[place] = 0, -100, 0
            row = dict(input_ids=ids, attention_mask=mask, labels=labels)
            self.rows.append({**row, **{name: ids % 2 for name in columns}})

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, number):
        return self.rows[number]

    def batch(self, *numbers):
        rows = [self.rows[n] for n in numbers or range(len(self))]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def arguments(folder, **kwargs):
    settings = dict(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        max_steps=2,
        learning_rate=1e-2,
        logging_steps=1,
        save_strategy='no',
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    return TrainingArguments(**{**settings, **kwargs})


def trainer(folder, student=None, teachers=None, losses=None, texts=None, cls=DistillTrainer, **kw):
    """A trainer; keyword arguments of ``DistillMixin`` go to it, all others to its arguments."""
    own = ('schedules', 'task_loss_weight', 'attention_teacher', 'teacher_tokenizers', 'rows')
    own += ('teacher_devices',)
    own += ('processing_class', 'model_init', 'eval_dataset', 'callbacks', 'compute_loss_func')
    options = {name: kw.pop(name) for name in own if name in kw}
    return cls(
        model=llama() if student is None else student,
        args=arguments(folder, **kw),
        train_dataset=Texts() if texts is None else texts,
        teachers=gpt2() if teachers is None else teachers,
        losses=dict(shd=dict(backend='torch')) if losses is None else losses,
        **options,
    )
