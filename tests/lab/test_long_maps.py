"""The benchmark of long sequences: what it compares agrees, and is shown."""

import pytest
import torch
from torch.testing import assert_close

from shd_vit.errors import ConfigError
from shd_vit.lab import long_maps


def test_the_runs_agree():
    torch.manual_seed(0)
    student, teacher = (long_maps._tap(heads, 20) for heads in (16, 25))
    streamed, literal = (long_maps._loss(run, student, teacher) for run in ('streamed', 'literal'))
    assert_close(streamed, literal, rtol=1e-4, atol=1e-5)
    causal = long_maps._loss('streamed, causal', student, teacher)
    assert causal > 0 and not torch.isclose(causal, streamed)


def test_a_run_is_measured():
    seconds, mib = long_maps.measure('streamed, causal', 32, 2)
    assert seconds > 0 and mib >= 0
    with pytest.raises(ConfigError, match='allowed are streamed, causal'):
        long_maps.measure('fast', 32, 1)


def test_memory_of_many_tokens_is_no_more_than_some_tiles_and_gradients(monkeypatch):
    """What is kept between temporary maps may part the heap: 278 MiB were needed here."""
    monkeypatch.setattr(long_maps, 'HEADS', (2, 1))
    _, mib = long_maps.measure('streamed', 8192, 1)
    assert mib < 100


def test_table_and_figure(tmp_path):
    results = {
        run: {str(n): dict(seconds=n / 100, mib=n / 10) for n in long_maps.TOKENS[: 4 + 2 * i]}
        for i, run in enumerate(reversed(long_maps.RUNS))
    }
    ((_, rows),) = long_maps.table(results)
    assert rows[1] == ['197 tokens', *['1.97 s, 20 MiB'] * 3]
    assert rows[-1][1] == ''
    long_maps.plot(results, tmp_path / 'long.svg')
    assert '</svg>' in (tmp_path / 'long.svg').read_text()
