"""How near responses are to references: ROUGE-L as MiniLLM's evaluation has it, and exact match."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Sequence
from statistics import mean

from rouge_score.rouge_scorer import RougeScorer

from shd_vit.data.text.instructions import Row
from shd_vit.errors import DatasetError
from shd_vit.lab.language.scores import Scores

CANDIDATES = 32  # for the best answer that is always the same

# Stems, as the authors; without, scores are lower.
_SCORER = RougeScorer(['rougeL'], use_stemmer=True)


def rouge_l(response: str, references: Sequence[str]) -> float:
    """The largest F-measure over the references, in percent; 0 of a response without words."""
    return 100 * max(_SCORER.score(one, response)['rougeL'].fmeasure for one in references)


def is_exact(response: str, references: Sequence[str]) -> bool:
    """Whether it is a reference but for case, punctuation and spaces."""
    return _plain(response) in map(_plain, references)


def scores(responses: Sequence[str], rows: Sequence[Row]) -> Scores:
    """Means over rows: ROUGE-L and exact matches in percent, words, and empty ones in percent."""
    pairs = list(zip(responses, rows, strict=True))
    return dict(
        rouge_l=mean(rouge_l(text, row['references']) for text, row in pairs),
        exact=100 * mean(is_exact(text, row['references']) for text, row in pairs),
        words=mean(len(text.split()) for text in responses),
        empty=100 * mean(not text.strip() for text in responses),
    )


def check_references(rows: Sequence[Row], file: str) -> None:
    """Refuse rows that no response could come near.

    Raises:
        DatasetError: If none of a row's references has a letter a-z or a digit, all that
            rouge-score reads.
    """
    for row in rows:
        if not any(re.search('[a-z0-9]', text.lower()) for text in row['references']):
            raise DatasetError(
                f'{file!r}: the response {row["references"][0][:40]!r} has no letter a-z and no '
                'digit, which is all that ROUGE reads'
            )


def constant_responses(rows: Sequence[Row]) -> list[str]:
    """For every row the same: of some first references, the one that is nearest to all rows."""
    texts = [row['references'][0] for row in rows]
    candidates = random.Random(0).sample(texts, min(CANDIDATES, len(texts)))
    near = {one: mean(rouge_l(one, row['references']) for row in rows) for one in candidates}
    return [max(near, key=near.__getitem__)] * len(rows)


def _plain(text: str) -> str:
    kept = text.lower().translate(str.maketrans('', '', string.punctuation))
    return ' '.join(kept.split())
