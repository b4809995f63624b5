"""The subcommands of tools/lm_eval.py: from arguments to a table."""

from __future__ import annotations

from argparse import Namespace

from rich.progress import Progress

from shd_vit.data.text.tokens import TokenFile
from shd_vit.errors import ConfigError, check_number
from shd_vit.lab.language import perplexity as ppl
from shd_vit.lab.language.models import has_tokenizer, load_causal, load_tokenizer, named_models
from shd_vit.lab.language.results import enter
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
