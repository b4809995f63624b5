"""tools/lm_eval.py perplexity and tune: from arguments to a table."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

from rich.progress import Progress

from shd_vit.data.text.task_sources import SOURCES
from shd_vit.data.text.tasks import Task, load_task
from shd_vit.data.text.tokens import TokenFile
from shd_vit.errors import ConfigError, DatasetError, check_number
from shd_vit.lab.language import perplexity as ppl
from shd_vit.lab.language.models import has_tokenizer, load_causal, load_tokenizer, named_models
from shd_vit.lab.language.results import enter
from shd_vit.lab.language.tuning import Recipe, constant, cut, tune
from shd_vit.lab.language.tuning_table import table_of as tuning_table
from shd_vit.lab.report import show


def perplexity(args: Namespace) -> None:
    """Validation loss and perplexity of models on a text."""
    models, text = named_models(args.models), TokenFile(args.text, 'validation')
    check_number('--batch', args.batch, positive=True, whole=True)
    if check_number('--length', args.length, positive=True, whole=True) < 2:
        raise ConfigError(f'--length {args.length} predicts nothing: at least 2')
    results = {}
    for name, path in models.items():
        model = load_causal(path)
        tokenizer = load_tokenizer(path) if has_tokenizer(path) else None
        ppl.check_fits(model, tokenizer, text, args.length, name)
        with Progress(transient=True) as progress:
            losses = ppl.losses_by_part(model, text.parts, args.length, args.batch, progress)
        results[name] = ppl.records(losses)
    show([ppl.table_of(results, args.length)])
    entries = {name: dict(parts=parts, length=args.length) for name, parts in results.items()}
    enter(args.json, 'perplexity', text.folder.name, entries)


def tuning(args: Namespace) -> None:
    """Fine-tune models on a task and tell its sets."""
    models, recipe = named_models(args.models), _recipe(args)
    task = cut(_task(args.task, args.data), recipe, args.sets)
    results = {'constant answer': constant(task)}
    for name, path in models.items():
        if name in results:
            raise ConfigError(f'{name!r} is the name of the baseline: give NAME=MODEL')
        with Progress(transient=True) as progress:
            results[name] = tune(path, name, task, recipe, args.seeds, progress)
    show([tuning_table(task, results, recipe, args.seeds)])
    settings = dict(asdict(recipe), seeds=args.seeds)
    entries = {name: dict(found, settings=settings) for name, found in results.items()}
    enter(args.json, 'tune', task.name, entries)


def check_seeds(seeds: list[int], called: str = '--seeds') -> None:
    """Refuse the same run twice, and what is no list of seeds."""
    if not isinstance(seeds, list) or not seeds or any(type(seed) is not int for seed in seeds):
        raise ConfigError(f'{called}={seeds!r} must be whole numbers')
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f'{called}={seeds} has one twice')


def _task(name: str, data: str) -> Task:
    """A task of tools/data/prepare_tasks.py by its name, or one in a folder."""
    if name not in SOURCES:
        return load_task(name)
    folder = Path(data) / name
    if not folder.is_dir():
        raise DatasetError(
            f'there is no {str(folder)!r}: make it with tools/data/prepare_tasks.py {name}'
        )
    return load_task(folder)


def _recipe(args: Namespace) -> Recipe:
    for name in ('rows', 'eval_rows', 'batch', 'length'):
        flag = f'--{name.replace("_", "-")}'
        optional = name.endswith('rows')
        check_number(flag, getattr(args, name), positive=True, whole=True, optional=optional)
    for name in ('learning_rate', 'epochs'):
        check_number(f'--{name.replace("_", "-")}', getattr(args, name), positive=True)
    check_seeds(args.seeds)
    return Recipe(
        args.learning_rate, args.epochs, args.batch, args.rows, args.eval_rows, args.length
    )
