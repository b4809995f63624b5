"""Responses of models to the instructions of a file, scored beside answers without a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.progress import Progress

from shd_vit.data.text.instructions import load_rows
from shd_vit.errors import ConfigError, check_number
from shd_vit.lab.language import rouge
from shd_vit.lab.language.commands import check_seeds
from shd_vit.lab.language.generation import Sampling, long_prompts, respond
from shd_vit.lab.language.scores import Scores, over_seeds
from shd_vit.lab.language.tuning_table import text_of
from shd_vit.lab.report import Table

HEADINGS = dict(
    rouge_l='ROUGE-L', exact='exact match', words='words', empty='empty %',
    unfinished='unfinished %',
)  # fmt: skip
CONSTANT, COPY = 'constant answer', 'copy of the input'
Summary = dict[str, dict[str, Any]]  # by measure, as of over_seeds


@dataclass(frozen=True)
class Responses:
    """Which instructions are answered, and how.

    Attributes:
        data: File of JSON lines.
        prompt_length: Tokens of a prompt, at most.
        new_tokens: Of a response, at most.
        temperature: 0 takes the likeliest token.
        no_repeat_ngram_size: So many tokens come once at most; 0 allows repeats. 6 is what
            MiniLLM's evaluation has.
        batch: Prompts at a time.
        seeds: A run each.
        min_words: Rows whose first reference is shorter are left out.
        rows: The first so many; None is all.
        skip_long: Leave longer prompts out, instead of refusing them.
    """

    data: str
    prompt_length: int = 256
    new_tokens: int = 256
    temperature: float = 1.0
    no_repeat_ngram_size: int = 6
    batch: int = 16
    seeds: list[int] = field(default_factory=lambda: [10, 20, 30, 40, 50])
    min_words: int = 0
    rows: int | None = None
    skip_long: bool = False


class Evaluation:
    """Prompts and references of a file.

    Args:
        how: Its settings.
        tokenizers: Of all models that are to answer.
        called: What a setting is called where it was given, for errors.

    Raises:
        ConfigError: If a number cannot be, a prompt is too long, or none is left.
        DatasetError: If a reference has nothing that ROUGE reads.
    """

    def __init__(self, how: Responses, tokenizers: list[Any], called: Callable[[str], str]) -> None:
        _check(how, called)
        rows = load_rows(how.data, how.min_words)[: how.rows]
        rouge.check_references(rows, how.data)
        prompts, limit = [row['prompt'] for row in rows], f'{called("prompt_length")}='
        limit += str(how.prompt_length)
        long = set().union(*(long_prompts(x, prompts, how.prompt_length) for x in tokenizers))
        if long and not how.skip_long:
            raise ConfigError(
                f'{len(long)} of {len(rows)} prompts are longer than {limit}: raise it, or leave '
                f'them out with {called("skip_long")}'
            )
        self.how = how
        self.called = called
        self.left_out = len(long)
        self.rows = [row for number, row in enumerate(rows) if number not in long]
        if not self.rows:
            raise ConfigError(f'{limit} leaves no prompt')

    def check(self, model: Any, name: str) -> None:
        """Refuse a model that cannot see a prompt and its response at once.

        Raises:
            ConfigError: Naming both lengths.
        """
        most, how = getattr(model.config, 'max_position_embeddings', None), self.how
        length = how.prompt_length + how.new_tokens
        if most is not None and length > most:
            raise ConfigError(
                f'{self.called("prompt_length")}={how.prompt_length} and '
                f'{self.called("new_tokens")}={how.new_tokens} make {length} tokens: '
                f'{name} has {most} positions'
            )

    def baselines(self) -> dict[str, Summary]:
        """Scores of the best answer that is always the same, and of the input as an answer."""
        copies = [row['question'] for row in self.rows]
        texts = {CONSTANT: rouge.constant_responses(self.rows), COPY: copies}
        return {name: over_seeds([rouge.scores(own, self.rows)]) for name, own in texts.items()}

    def score(self, model: Any, tokenizer: Any) -> tuple[Summary, list[dict[str, Any]]]:
        """Scores of a model over the seeds, and all of its responses with their rows."""
        how, prompts = self.how, [row['prompt'] for row in self.rows]
        sampling = Sampling(how.temperature, how.new_tokens, how.no_repeat_ngram_size, how.batch)
        runs: list[Scores] = []
        written = []
        with Progress(transient=True) as progress:
            for seed in how.seeds:
                texts, unfinished = respond(model, tokenizer, prompts, sampling, seed, progress)
                scores = rouge.scores(texts, self.rows)
                runs.append(dict(scores, unfinished=100 * unfinished / len(self.rows)))
                pairs = zip(texts, self.rows, strict=True)
                written += [dict(seed=seed, response=text, **row) for text, row in pairs]
        return over_seeds(runs), written

    def table(self, results: Mapping[str, Summary]) -> Table:
        """Scores by name, a row each, and in the title how responses were made."""
        nothing, how = dict(mean=None, std=None), self.how
        rows = [['model', *HEADINGS.values()]]
        for name, found in results.items():
            rows.append([name, *(text_of(found.get(measure, nothing)) for measure in HEADINGS)])
        without = f', {self.left_out} longer prompts left out' if self.left_out else ''
        ngrams = how.no_repeat_ngram_size
        title = (
            f'{how.data}: {len(self.rows):,} prompts{without}; temperature {how.temperature:g}, '
            f'{how.new_tokens} tokens at most, '
            f'{f"no {ngrams} tokens twice" if ngrams else "repeats allowed"}, '
            f'seeds {", ".join(map(str, how.seeds))}'
        )
        return title, rows


def _check(how: Responses, called: Callable[[str], str]) -> None:
    for name in ('batch', 'new_tokens', 'prompt_length', 'rows'):
        optional = name == 'rows'
        value = getattr(how, name)
        check_number(called(name), value, positive=True, whole=True, optional=optional)
    for name in ('no_repeat_ngram_size', 'min_words'):
        check_number(called(name), getattr(how, name), whole=True)
    check_number(called('temperature'), how.temperature)
    check_seeds(how.seeds, called('seeds'))
