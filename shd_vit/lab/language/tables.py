"""Tables about texts and trainings of language models."""

from __future__ import annotations

from typing import Any

from shd_vit.errors import ConfigError
from shd_vit.lab.language.settings import Settings
from shd_vit.lab.report import Table


def text_table(about: dict[str, Any]) -> Table:
    """What a text is made of: words and licence of each part, tokens of each split.

    Args:
        about: What text.json holds.
    """
    rows = [['part', 'source', 'licence', 'words', 'train tokens', 'validation tokens']]
    splits = about['splits'].values()
    for name, part in about['parts'].items():
        spans = [split['parts'][name] for split in splits]
        tokens = [f'{end - start:,}' for start, end in spans]
        rows.append([name, part['source'], part['licence'], f'{part["words"]:,}', *tokens])
    words = sum(part['words'] for part in about['parts'].values())
    rows.append(['all', '', '', f'{words:,}', *(f'{split["tokens"]:,}' for split in splits)])
    return f'Text, {about["vocabulary"]:,} tokens in the vocabulary', rows


def training_table(settings: Settings, metrics: dict[str, Any]) -> Table:
    """A training's numbers, a line each.

    Args:
        settings: Of the run.
        metrics: As :func:`shd_vit.lab.language.train.metrics_of` gives them.
    """
    rows = [['', settings.arguments['output_dir']], ['teachers', ', '.join(settings.teachers)]]
    rows.append(['losses', ', '.join(settings.losses)])
    rows += [[name, _number(value)] for name, value in metrics.items()]
    return 'Training', [row for row in rows if row[1]]


def _number(value: float) -> str:
    return f'{value:,}' if isinstance(value, int) else f'{value:.4g}'


def comparison_table(results: dict[str, Any], text: str, task: str, told: str) -> Table:
    """Validation loss and accuracy of models side by side.

    Args:
        results: What ``tools/lm_eval.py --json`` has entered.
        text: Name of the text's folder.
        task: A task of classes.
        told: A set of it.

    Raises:
        ConfigError: If there is nothing of that name.
    """
    rows = [['model', 'validation loss', 'perplexity', f'accuracy, {task} ({told}) %']]
    try:
        losses, tuned = results['perplexity'][text], results['tune'][task]
        for name, found in losses.items():
            loss = found['parts']['all']
            accuracy = tuned[name]['sets'][told]['accuracy']['mean']
            rows.append(
                [name, f'{loss["loss"]:.3f}', f'{loss["perplexity"]:.1f}', f'{accuracy:.1f}']
            )
        accuracy = tuned['constant answer']['sets'][told]['accuracy']['mean']
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f'the results have no {error} of text {text!r} or task {task!r}: enter both by '
            'tools/lm_eval.py perplexity and tune, with --json'
        ) from None
    return '', [*rows, ['(constant answer)', '', '', f'{accuracy:.1f}']]
