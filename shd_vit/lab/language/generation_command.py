"""tools/lm_eval.py generate: from arguments to a table."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.progress import Progress

from shd_vit.data.text.instructions import Row, load_rows
from shd_vit.errors import ConfigError, check_number
from shd_vit.files import write_whole
from shd_vit.lab.language import rouge
from shd_vit.lab.language.commands import check_seeds
from shd_vit.lab.language.generation import Sampling, long_prompts, respond
from shd_vit.lab.language.models import load_causal, load_tokenizer, named_models
from shd_vit.lab.language.results import enter
from shd_vit.lab.language.scores import over_seeds
from shd_vit.lab.language.tuning_table import text_of
from shd_vit.lab.report import Table, show


def generate(args: Namespace) -> None:
    """Sample responses of models and hold them against references."""
    models, sampling = named_models(args.models), _sampling(args)
    rows, left_out = _rows(args, models)
    results: dict[str, Any] = {
        'constant answer': _summary([rouge.scores(rouge.constant_responses(rows), rows)]),
        'copy of the input': _summary([rouge.scores([row['question'] for row in rows], rows)]),
    }
    prompts, written = [row['prompt'] for row in rows], []
    for name, path in models.items():
        if name in results:
            raise ConfigError(f'{name!r} is the name of a baseline: give NAME=MODEL')
        model, tokenizer = load_causal(path), load_tokenizer(path)
        _check_length(model, args, name)
        runs = []
        with Progress(transient=True) as progress:
            for seed in args.seeds:
                texts, unfinished = respond(model, tokenizer, prompts, sampling, seed, progress)
                scores = rouge.scores(texts, rows)
                runs.append(dict(scores, unfinished=100 * unfinished / len(rows)))
                written += [
                    dict(model=name, seed=seed, response=text, **row)
                    for text, row in zip(texts, rows, strict=True)
                ]
        results[name] = _summary(runs)
    show([_generation_table(results, args, len(rows), left_out)])
    settings = dict(
        asdict(sampling), seeds=args.seeds, min_words=args.min_words, rows=len(rows),
        prompt_length=args.prompt_length, left_out=left_out,
    )  # fmt: skip
    if args.responses:
        with write_whole(args.responses) as part:
            part.write_text(''.join(json.dumps(line) + '\n' for line in written))
    entries = {name: dict(found, settings=settings) for name, found in results.items()}
    enter(args.json, 'generate', '/'.join(Path(args.data).parts[-2:]), entries)


def _check_length(model: Any, args: Namespace, name: str) -> None:
    most = getattr(model.config, 'max_position_embeddings', None)
    length = args.prompt_length + args.new_tokens
    if most is not None and length > most:
        raise ConfigError(
            f'--prompt-length {args.prompt_length} and --new-tokens {args.new_tokens} make '
            f'{length} tokens: model {name!r} has {most} positions'
        )


def _summary(runs: list[dict[str, float | None]]) -> dict[str, Any]:
    return dict(scores=over_seeds(runs))


def _rows(args: Namespace, models: dict[str, str]) -> tuple[list[Row], int]:
    """Rows whose prompts are short enough for every model's tokenizer; how many are not."""
    rows = load_rows(args.data, args.min_words)
    rouge.check_references(rows, args.data)
    if args.rows is not None:
        rows = rows[: args.rows]
    prompts = [row['prompt'] for row in rows]
    long: set[int] = set()
    for path in models.values():
        long |= long_prompts(load_tokenizer(path), prompts, args.prompt_length)
    if long and not args.skip_long:
        raise ConfigError(
            f'{len(long)} of {len(rows)} prompts are longer than --prompt-length '
            f'{args.prompt_length}: raise it, or leave them out with --skip-long'
        )
    kept = [row for number, row in enumerate(rows) if number not in long]
    if not kept:
        raise ConfigError(f'--prompt-length {args.prompt_length} leaves no prompt')
    return kept, len(long)


def _generation_table(results: dict[str, Any], args: Namespace, rows: int, left_out: int) -> Table:
    headings = dict(
        rouge_l='ROUGE-L', exact='exact match', words='words', empty='empty %',
        unfinished='unfinished %',
    )  # fmt: skip
    table = [['model', *headings.values()]]
    for name, found in results.items():
        nothing = dict(mean=None, std=None)
        cells = [text_of(found['scores'].get(measure, nothing)) for measure in headings]
        table.append([name, *cells])
    ngrams = args.no_repeat_ngram_size
    without = f', {left_out} longer prompts left out' if left_out else ''
    title = (
        f'{args.data}: {rows:,} prompts{without}; temperature {args.temperature:g}, '
        f'{args.new_tokens} tokens at most, '
        f'{f"no {ngrams} tokens twice" if ngrams else "repeats allowed"}, '
        f'seeds {", ".join(map(str, args.seeds))}'
    )
    return title, table


def _sampling(args: Namespace) -> Sampling:
    for name in ('batch', 'new_tokens', 'prompt_length', 'rows'):
        flag = f'--{name.replace("_", "-")}'
        optional = name == 'rows'
        check_number(flag, getattr(args, name), positive=True, whole=True, optional=optional)
    for name in ('no_repeat_ngram_size', 'min_words'):
        check_number(f'--{name.replace("_", "-")}', getattr(args, name), whole=True)
    check_number('--temperature', args.temperature)
    check_seeds(args.seeds)
    if args.responses and Path(args.responses).exists():
        raise ConfigError(f'--responses {args.responses!r} is there already')
    return Sampling(args.temperature, args.new_tokens, args.no_repeat_ngram_size, args.batch)
