"""Fine-tuning: what is read, what is told, and what it is held against."""

import json
import math
import random

import numpy as np
import pytest
import torch
from lab.language.text import tokenizer, write_models
from tooling import run_tool

from shd_vit.data.text.tasks import Rows, Task
from shd_vit.errors import CheckpointError, ConfigError, DatasetError
from shd_vit.lab.language.scores import (
    class_scores,
    constant_answer,
    over_seeds,
    score_scores,
)
from shd_vit.lab.language.tuning import Encoded, Recipe, constant, cut, make_trainer, tune


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp('models'))


RECIPE = Recipe(learning_rate=1e-2, epochs=2, batch=16, rows=None, eval_rows=None, length=32)


def texts(count, seed=0):
    """Random words, of which the last says the label: w03 or w04."""
    draw = random.Random(seed)
    labels = [draw.randrange(2) for _ in range(count)]
    rows = [[*(draw.randrange(5, 50) for _ in range(draw.randrange(2, 9))), 3 + label]
            for label in labels]  # fmt: skip
    return Rows([' '.join(f'w{n:02d}' for n in row) for row in rows], labels)


def task(rows=200):
    return Task('toy', ['0', '1'], texts(rows), dict(dev=texts(60, 1), other=texts(40, 2)), [])


@pytest.mark.parametrize('name', ['gpt2', 'llama'])
@pytest.mark.parametrize('score', [False, True])
def test_the_last_token_of_each_text_is_read_whatever_it_is_padded_with(name, score, models):
    toy = task(20)
    if score:
        toy = toy._replace(classes=[], train=Rows(toy.train.texts, [0.5] * 20))
    known = tokenizer()
    rows = Encoded(known, toy.train, 32, 'train')
    trainer = make_trainer(str(models / name), name, known, toy, RECIPE, 3, rows)
    trainer.args.train_sampling_strategy = 'random'  # tells rows as they come
    told = trainer.predict(rows).predictions
    body, head = trainer.model.base_model, trainer.model.score.weight.detach()
    for ids, row in zip(rows.ids, told, strict=True):
        hidden = body(input_ids=torch.tensor([ids])).last_hidden_state[0, -1].detach()
        np.testing.assert_allclose(row, (head @ hidden).numpy(), rtol=1e-3, atol=1e-5)
    assert told.shape == (20, 1 if score else 2)


def test_a_word_that_says_the_label_is_learned(models):
    learned = tune(str(models / 'llama'), 'm', task(), RECIPE, [1, 2])
    again = tune(str(models / 'llama'), 'm', task(), RECIPE, [2, 1])
    one, other = (found['sets']['dev']['accuracy'] for found in (learned, again))
    assert min(one['values']) > 85, one
    assert one['values'] == other['values'][::-1], 'a seed says it all'
    assert learned['sets'] != again['sets']
    assert learned['cut_texts'] == dict(train=0, dev=0, other=0)


def test_scores_are_learned_too(models):
    toy = task()
    as_scores = [Rows(rows.texts, [4.0 * label - 1 for label in rows.targets])
                 for rows in (toy.train, *toy.sets.values())]  # fmt: skip
    toy = toy._replace(
        classes=[], train=as_scores[0], sets=dict(zip(toy.sets, as_scores[1:], strict=True))
    )
    found = tune(str(models / 'gpt2'), 'm', toy, RECIPE, [1])['sets']['dev']
    assert found['spearman']['mean'] > 80
    assert found['rmse']['mean'] < constant(toy)['sets']['dev']['rmse']['mean'] / 2


def test_class_scores_by_hand():
    # 3 right of class 1, 1 missed, 2 wrongly told, 4 right of class 0.
    targets, told = [1] * 4 + [0] * 6, [1, 1, 1, 0, 1, 1, 0, 0, 0, 0]
    scores = class_scores(targets, told, 2)
    assert scores['accuracy'] == pytest.approx(70)
    assert scores['f1'] == pytest.approx(100 * 2 * 3 / (2 * 3 + 1 + 2))
    assert scores['mcc'] == pytest.approx(100 * (3 * 4 - 2 * 1) / math.sqrt(5 * 4 * 6 * 5))
    always = class_scores([0, 0, 1], [0, 0, 0], 2)
    assert always == pytest.approx(dict(accuracy=200 / 3, f1=0, mcc=0))
    three = class_scores([0, 1, 2, 2], [0, 1, 1, 2], 3)
    assert three['f1'] == pytest.approx(100 * (1 + 2 / 3 + 2 / 3) / 3)
    assert class_scores([0, 1], [0, 1], 3)['f1'] == pytest.approx(200 / 3), 'a class never seen'


def test_score_scores_by_hand():
    targets, told = [1.0, 2.0, 3.0, 4.0], [0.0, 5.0, 3.0, 8.0]
    scores = score_scores(targets, told)
    assert scores['spearman'] == pytest.approx(100 * (1 - 6 * 2 / (4 * 15)))  # ranks 1 3 2 4
    x, y = np.array(targets) - 2.5, np.array(told) - 4
    assert scores['pearson'] == pytest.approx(100 * (x @ y) / math.sqrt((x @ x) * (y @ y)))
    assert scores['rmse'] == pytest.approx(math.sqrt((1 + 9 + 0 + 16) / 4))
    assert score_scores(targets, [2.5] * 4)['spearman'] is None


def test_seeds_are_summed_up_and_constants_answered():
    summary = over_seeds([dict(a=1.0, b=None), dict(a=4.0, b=2.0)])
    assert summary['a'] == dict(mean=2.5, std=pytest.approx(3 / 2**0.5), values=[1.0, 4.0])
    assert summary['b'] == dict(mean=None, std=None, values=[None, 2.0])
    assert over_seeds([dict(a=1.0)])['a']['std'] is None
    assert constant_answer([1, 0, 1], 2) == 1 and constant_answer([1.0, 2.0], 0) == 1.5
    toy = task()
    answer = int(sum(toy.train.targets) > 100)
    found = constant(toy)['sets']['dev']['accuracy']['mean']
    assert found == pytest.approx(100 * toy.sets['dev'].targets.count(answer) / 60)


def test_rows_are_drawn_once_and_sets_are_named():
    recipe = Recipe(1e-3, 1, 8, rows=50, eval_rows=10, length=8)
    first, second = cut(task(), recipe), cut(task(), recipe)
    assert first == second and len(first.train.texts) == 50
    assert {name: len(rows.texts) for name, rows in first.sets.items()} == dict(dev=10, other=10)
    pairs = dict(zip(*task().train, strict=True))
    assert all(pairs[text] == label for text, label in zip(*first.train, strict=True))
    assert 15 < sum(first.train.targets) < 35, 'drawn, not the first'
    assert list(cut(task(), recipe, ['other']).sets) == ['other']
    with pytest.raises(ConfigError, match='--sets gone: toy has dev, other'):
        cut(task(), recipe, ['gone'])


def test_texts_whose_end_is_not_known_are_refused():
    known = tokenizer()
    for text, message in (('w05 w00 w06', 'holds the token of padding'), ('', 'has no token')):
        with pytest.raises(ConfigError, match=f'text 2 of toy, dev {message}'):
            Encoded(known, Rows(['w05', text], [0, 1]), 8, 'toy, dev')
    assert Encoded(known, Rows(['w05 w06 w07', 'w08'], [0, 1]), 2, 'toy').cut == 1


def test_the_tool(models, tmp_path, monkeypatch, capsys):
    folder = tmp_path / 'toy'
    folder.mkdir()
    for name, rows in (('train', texts(40)), ('dev', texts(20, 1))):
        lines = '\n'.join(f'{text}\t{label}' for text, label in zip(*rows, strict=True))
        (folder / f'{name}.tsv').write_text(f'sentence\tlabel\n{lines}\n')
    (folder / 'test.tsv').write_text('sentence\nw05\n')
    out = tmp_path / 'a.json'
    arguments = ['--task', folder, '--epochs', 1, '--length', 16, '--json', out]
    run_tool('lm_eval', monkeypatch, 'tune', f'{models}/gpt2', f's={models}/llama', *arguments)
    found = json.loads(out.read_text())['tune']['toy']
    assert list(found) == ['constant answer', 'gpt2', 's']
    assert found['s']['settings']['seeds'] == [12] and found['s']['settings']['epochs'] == 1
    shown = capsys.readouterr().out
    assert f'{found["s"]["sets"]["dev"]["accuracy"]["mean"]:.1f}' in shown
    assert 'without labels: test' in ' '.join(shown.split())

    def refused(error, message, *arguments):
        with pytest.raises(error, match=message) as caught:
            run_tool('lm_eval', monkeypatch, 'tune', *arguments)
        assert '\n' not in str(caught.value)

    model = f'{models}/llama'
    given = [model, '--task', folder]
    refused(DatasetError, 'make it with tools/data/prepare_tasks.py spam', model, '--task', 'spam',
            '--data', tmp_path)  # fmt: skip
    refused(DatasetError, r'has no train\.tsv', model, '--task', tmp_path)
    refused(ConfigError, "--length 128: model 'llama' has 32 positions", *given)
    refused(ConfigError, '--epochs=0', *given, '--epochs', 0)
    refused(ConfigError, '--eval-rows=0', *given, '--eval-rows', 0)
    refused(ConfigError, r'--seeds=\[1, 1\] has one twice', *given, '--seeds', 1, 1)
    refused(CheckpointError, 'has no tokenizer beside it', tmp_path, '--task', folder)
