"""Fine-tuning of language models on tasks, by transformers' own Trainer."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch.utils.data import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from shd_vit.data.text.tasks import Rows, Task
from shd_vit.errors import CheckpointError, ConfigError, NonFiniteLoss
from shd_vit.lab.language.models import load, load_tokenizer
from shd_vit.lab.language.perplexity import check_length
from shd_vit.lab.language.scores import (
    Scores,
    class_scores,
    constant_answer,
    over_seeds,
    score_scores,
)

HEADS = ('score', 'classifier')  # what a language model has not learned before


@dataclass(frozen=True)
class Recipe:
    """How a model is fine-tuned; names are TrainingArguments' where they are the same.

    Attributes:
        rows: Of training, drawn once, the same for all models and seeds; None takes all.
        eval_rows: Of each set, likewise.
        length: Tokens of a text at most; longer ones are cut.
        warmup: Share of steps while the rate rises; then it falls in a line.
    """

    learning_rate: float
    epochs: float
    batch: int
    rows: int | None
    eval_rows: int | None
    length: int
    warmup: float = 0.1


def cut(task: Task, recipe: Recipe, sets: Sequence[str] | None = None) -> Task:
    """A task of as many rows as a recipe takes, and of the sets that are named.

    Raises:
        ConfigError: If there is no such set.
    """
    for name in sets or ():
        if name not in task.sets:
            raise ConfigError(f'--sets {name}: {task.name} has {", ".join(task.sets)}')
    told = {name: _drawn(task.sets[name], recipe.eval_rows) for name in sets or task.sets}
    return task._replace(train=_drawn(task.train, recipe.rows), sets=told)


def tune(
    path: str,
    name: str,
    task: Task,
    recipe: Recipe,
    seeds: Sequence[int],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fine-tune a model once a seed, and tell every set of a task.

    A new head reads the last token that is no padding (transformers'
    AutoModelForSequenceClassification); all weights learn. The seed draws the head and the order of
    batches. The last step's model is taken, whatever it tells.

    Returns:
        By set: :func:`over_seeds` of its scores; and under 'cut_texts' how many were too long.

    Raises:
        CheckpointError: If the model cannot be loaded, or lacks weights beside its head.
        ConfigError: If its tokenizer makes no token of a text, or padding.
        NonFiniteLoss: If what it tells is no number.
    """
    tokenizer = load_tokenizer(path)
    tokenizer.padding_side = 'right'
    encoded = {
        key: Encoded(tokenizer, rows, recipe.length, f'{task.name}, {key}')
        for key, rows in dict(train=task.train, **task.sets).items()
    }
    runs: dict[str, list[Scores]] = {key: [] for key in task.sets}
    for seed in seeds:
        trainer = make_trainer(path, name, tokenizer, task, recipe, seed, encoded['train'])
        if progress:
            trainer.add_callback(_Bar(progress, f'{name}, seed {seed}'))
        trainer.train()
        for key in task.sets:
            # In an order of the trainer's own: grouped by length.
            logits, targets, _ = trainer.predict(encoded[key])
            if not np.isfinite(logits).all():
                raise NonFiniteLoss(f'{name!r} tells {key} by what is no number, at seed {seed}')
            told = logits[:, 0] if task.is_regression else logits.argmax(-1)
            runs[key].append(_scores(task, targets.tolist(), told.tolist()))
    scores = {key: over_seeds(values) for key, values in runs.items()}
    return dict(sets=scores, cut_texts={key: rows.cut for key, rows in encoded.items()})


def constant(task: Task) -> dict[str, Any]:
    """What the best answer that reads nothing comes to, in the form of :func:`tune`."""
    answer = constant_answer(task.train.targets, len(task.classes))
    return dict(
        sets={
            key: over_seeds([_scores(task, rows.targets, [answer] * len(rows.targets))])
            for key, rows in task.sets.items()
        }
    )


class Encoded(Dataset):
    """Texts as tokens, with what is to be told of them.

    Attributes:
        cut: How many texts were longer.
    """

    def __init__(self, tokenizer: Any, rows: Rows, length: int, where: str) -> None:
        ids = tokenizer(rows.texts, verbose=False)['input_ids']
        self.cut = sum(len(one) > length for one in ids)
        self.ids = [one[:length] for one in ids]
        self.targets = rows.targets
        for number, one in enumerate(self.ids, 1):
            if not one or tokenizer.pad_token_id in one:
                what = 'holds the token of padding' if one else 'has no token'
                raise ConfigError(f'text {number} of {where} {what}: where it ends is not known')

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(input_ids=self.ids[index], labels=self.targets[index])


def make_trainer(
    path: str, name: str, tokenizer: Any, task: Task, recipe: Recipe, seed: int, train: Encoded
) -> Trainer:
    """The trainer of a model with a new head."""
    torch.manual_seed(seed)  # of the new head
    model, missing = load(
        AutoModelForSequenceClassification,
        path,
        num_labels=len(task.classes) or 1,
        problem_type='regression' if task.is_regression else 'single_label_classification',
        pad_token_id=tokenizer.pad_token_id,
    )
    lacking = [key for key in missing if key.split('.')[0] not in HEADS]
    if lacking:
        raise CheckpointError(f'{path!r} has no weights for {lacking[0]!r}')
    check_length(model, recipe.length, name)
    args = TrainingArguments(
        tempfile.gettempdir(),  # nothing is written there
        learning_rate=recipe.learning_rate,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch,
        per_device_eval_batch_size=4 * recipe.batch,
        warmup_steps=recipe.warmup,
        weight_decay=0.01,
        lr_scheduler_type='linear',
        train_sampling_strategy='group_by_length',
        seed=seed,
        save_strategy='no',
        logging_strategy='no',
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    collate = DataCollatorWithPadding(tokenizer)
    trainer = Trainer(model, args, data_collator=collate, train_dataset=train)
    trainer.remove_callback(PrinterCallback)
    return trainer


class _Bar(TrainerCallback):
    """Steps of a training in a bar of ours."""

    def __init__(self, progress: Progress, label: str) -> None:
        self.progress = progress
        self.task = progress.add_task(label, total=None)

    def on_step_end(self, args, state, control, **kwargs):
        self.progress.update(self.task, total=state.max_steps, completed=state.global_step)


def _scores(task: Task, targets: Sequence[Any], told: Sequence[Any]) -> Scores:
    if task.is_regression:
        return score_scores(targets, told)
    return class_scores(targets, told, len(task.classes))


def _drawn(rows: Rows, count: int | None) -> Rows:
    if count is None or count >= len(rows.texts):
        return rows
    chosen = sorted(random.Random(0).sample(range(len(rows.texts)), count))
    return Rows([rows.texts[i] for i in chosen], [rows.targets[i] for i in chosen])
