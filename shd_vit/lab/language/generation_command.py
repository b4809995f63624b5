"""tools/lm_eval.py generate: from arguments to a table."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from shd_vit.errors import ConfigError
from shd_vit.files import write_whole
from shd_vit.lab.language.models import load_causal, load_tokenizer, named_models
from shd_vit.lab.language.responses import CONSTANT, COPY, Evaluation, Responses
from shd_vit.lab.language.results import enter
from shd_vit.lab.report import show


def generate(args: Namespace) -> None:
    """Sample responses of models and hold them against references."""
    models = named_models(args.models)
    for name in (CONSTANT, COPY):
        if name in models:
            raise ConfigError(f'{name!r} is the name of a baseline: give NAME=MODEL')
    if args.responses and Path(args.responses).exists():
        raise ConfigError(f'--responses {args.responses!r} is there already')
    how = Responses(**{f.name: getattr(args, f.name) for f in fields(Responses)})
    tokenizers = [load_tokenizer(path) for path in models.values()]
    evaluation = Evaluation(how, tokenizers, lambda name: f'--{name.replace("_", "-")}')
    results: dict[str, Any] = evaluation.baselines()
    written: list[dict[str, Any]] = []
    for (name, path), tokenizer in zip(models.items(), tokenizers, strict=True):
        model = load_causal(path)
        evaluation.check(model, f'model {name!r}')
        results[name], responses = evaluation.score(model, tokenizer)
        written += [dict(model=name, **row) for row in responses]
    show([evaluation.table(results)])
    if args.responses:
        with write_whole(args.responses) as part:
            part.write_text(''.join(json.dumps(line) + '\n' for line in written))
    settings = dict(asdict(how), rows=len(evaluation.rows), left_out=evaluation.left_out)
    entries = {name: dict(scores=found, settings=settings) for name, found in results.items()}
    enter(args.json, 'generate', '/'.join(Path(args.data).parts[-2:]), entries)
