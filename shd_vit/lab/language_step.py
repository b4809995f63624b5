"""A training step of a language model: what SHD adds to the distillation of logits."""

from __future__ import annotations

import os
import subprocess
import sys
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from shd_vit.errors import ConfigError
from shd_vit.lab.long_maps import peak, start_of_peak
from shd_vit.lab.report import Table, in_turns
from shd_vit.shipped import shipped

VOCABULARY = 4000
TOKENS = {128: 16, 512: 4}  # of a sequence, and sequences in a batch
LOSSES: dict[str, dict[str, Any]] = {
    'KD': dict(kd=dict(temperature=2.0)),
    'KD + SHD': dict(kd=dict(temperature=2.0), shd=True),
}
BASE = 'KD'


def language_step(batch: int, rounds: int) -> dict[str, dict]:
    """GPT-2 of 8 heads -> LLaMA of 4: steps of ``DistillTrainer`` in turns, and their memory.

    Args:
        batch: Not used: it is 2,048 tokens.
        rounds: Turns of each.
    """
    results: dict[str, dict] = {}
    with TemporaryDirectory() as folder:
        for tokens in TOKENS:
            steps = {name: Step(name, tokens, folder) for name in LOSSES}
            times = in_turns(dict(steps), rounds, f'{tokens} tokens', warm_up=3)
            for name in LOSSES:
                ratios = [t / b for t, b in zip(times[name], times[BASE], strict=True)]
                results[f'{name}, {tokens} tokens'] = dict(
                    seconds=median(times[name]), fastest=min(times[name]), ratio=median(ratios)
                )
    tool = shipped('tools') / 'benchmark.py'
    cases = [(name, tokens) for tokens in TOKENS for name in LOSSES]
    for name, tokens in track(cases, 'memory', transient=True):
        command = [sys.executable, str(tool), '--lm-peak-of', name, str(tokens)]
        quiet = {**os.environ, 'PYTHONWARNINGS': 'ignore'}
        done = subprocess.run(command, env=quiet, stdout=subprocess.PIPE, text=True, check=True)
        results[f'{name}, {tokens} tokens']['peak_mib'] = float(done.stdout.split()[-1])
    return results


def peak_of(name: str, tokens: int) -> float:
    """MiB that three steps need at most over what the models do, in a process of its own.

    Raises:
        ConfigError: If there are no such losses, or no such batch.
    """
    if name not in LOSSES or tokens not in TOKENS:
        raise ConfigError(
            f'--lm-peak-of {name!r} {tokens}: allowed are {", ".join(LOSSES)} and '
            f'{", ".join(map(str, TOKENS))}'
        )
    with TemporaryDirectory() as folder:
        step = Step(name, tokens, folder)
        before = start_of_peak()
        for _ in range(3):
            step()
    return peak() - before


class Step:
    """One step of a trainer: forward, backward and AdamW, always on the same batch.

    Args:
        name: Of the losses.
        tokens: Of a sequence.
        folder: For what trainers write.
    """

    def __init__(self, name: str, tokens: int, folder: str) -> None:
        from transformers import TrainingArguments

        from shd_vit.hosts.transformers import DistillTrainer

        torch.manual_seed(0)
        self.trainer: Any = DistillTrainer(
            model=student(),
            teachers=teacher(),
            losses=LOSSES[name],
            args=TrainingArguments(folder, report_to=[], learning_rate=1e-4),
        )
        self.trainer.create_optimizer()
        self.trainer.model.train()
        self.batch = batch_of(tokens)

    def __call__(self) -> None:
        samples, count = self.trainer.get_batch_samples(
            iter([dict(self.batch)]), 1, self.trainer.args.device
        )
        self.trainer.training_step(self.trainer.model, samples[0], count)
        self.trainer.optimizer.step()
        self.trainer.optimizer.zero_grad()


def teacher() -> Any:
    """GPT-2, 4.9 million parameters."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_embd=192, n_layer=9, n_head=8, n_positions=512,
            bos_token_id=1, eos_token_id=1,
        )
    )  # fmt: skip


def student() -> Any:
    """LLaMA, 1.7 million parameters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=128, intermediate_size=256, num_hidden_layers=4,
            num_attention_heads=4, max_position_embeddings=512,
        )
    )  # fmt: skip


def batch_of(tokens: int) -> dict[str, Tensor]:
    """Random words without padding."""
    ids = torch.randint(2, VOCABULARY, (TOKENS[tokens], tokens))
    return dict(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids)


def table(results: dict[str, dict]) -> list[Table]:
    """Seconds, their ratio and MiB, a row each."""
    rows = [['2,048 tokens a step', 'seconds', 'ratio', 'peak over the models']]
    for name, r in results.items():
        rows.append([name, f'{r["seconds"]:.3f}', f'{r["ratio"]:.3f}', f'{r["peak_mib"]:.0f} MiB'])
    return [('Training step of a language model, GPT-2 8 heads -> LLaMA 4', rows)]
