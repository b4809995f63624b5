"""Plain text by the number of the batch: every row once an epoch, shared out over processes."""

import pytest
import torch

pytest.importorskip('trl')

from shd_vit.hosts.transformers.minillm.corpus import Corpus

ROWS = [dict(input_ids=[n, n + 100]) for n in range(12)]


def first_tokens(corpus, *numbers):
    return torch.cat([corpus.batch(n)[:, 0] for n in numbers]).tolist()


def test_an_epoch_has_each_row_once_and_each_epoch_an_order_of_its_own():
    corpus = Corpus(ROWS, 4)
    epochs = [first_tokens(corpus, *range(3 * n, 3 * n + 3)) for n in range(3)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    # Known by number: whatever was read before.
    assert first_tokens(Corpus(ROWS, 4), 4) == epochs[1][4:8]
    assert first_tokens(corpus, 0, 4, 0) == epochs[0][:4] + epochs[1][4:8] + epochs[0][:4]
    assert first_tokens(Corpus(ROWS, 4, seed=1), 0, 1, 2) != epochs[0]


def test_processes_share_the_batches_of_one():
    one = Corpus(ROWS, 4)
    two = [Corpus(ROWS, 2, process=n, processes=2) for n in range(2)]
    for number in range(5):
        assert torch.equal(torch.cat([part.batch(number) for part in two]), one.batch(number))
