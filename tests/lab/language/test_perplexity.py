"""Loss a token, against a loop over tokens in float64."""

import json
import math

import numpy as np
import pytest
import torch
from hosts.transformers.lm import gpt2, llama
from lab.language.text import tokenizer, write_models, write_text
from tooling import run_tool

from shd_vit.data.text.tokens import TokenFile
from shd_vit.errors import CheckpointError, ConfigError, NonFiniteLoss
from shd_vit.lab.language.perplexity import losses_by_part, records


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp('models'))


def loop(model, ids, length):
    """Nats and tokens: each token of a window from the tokens before it, one call a token."""
    nats, count = 0.0, 0
    for start in range(0, len(ids), length):
        window = ids[start : start + length]
        for n in range(1, len(window)):
            logits = model(input_ids=torch.tensor([window[:n].tolist()])).logits[0, -1]
            scores = [math.exp(x) for x in logits.double().tolist()]
            nats -= math.log(scores[window[n]] / sum(scores))
            count += 1
    return nats, count


@pytest.mark.parametrize('make', [gpt2, llama])
@pytest.mark.parametrize('length, batch', [(8, 2), (5, 3), (30, 4)])
def test_every_token_but_the_first_of_a_window_is_predicted_once(make, length, batch):
    model = make().eval().double()
    draw = np.random.default_rng(0)
    parts = {name: draw.integers(0, 50, n).astype('<u2') for name, n in dict(a=27, b=16).items()}
    losses = losses_by_part(model, parts, length, batch)
    for name, ids in parts.items():
        nats, count = loop(model, ids, length)
        assert losses[name].tokens == count
        assert losses[name].nats == pytest.approx(nats, rel=1e-6)
    found = records(losses)
    assert list(found) == ['a', 'b', 'all']
    both = [sum(x) for x in zip(*(loop(model, ids, length) for ids in parts.values()), strict=True)]
    assert found['all']['loss'] == pytest.approx(both[0] / both[1], rel=1e-6)
    assert found['all']['perplexity'] == pytest.approx(math.exp(both[0] / both[1]), rel=1e-6)


def test_a_uniform_model_has_the_vocabulary_as_its_perplexity():
    model = llama().eval()
    torch.nn.init.zeros_(model.lm_head.weight)
    losses = losses_by_part(model, dict(a=np.arange(40, dtype='<u2')), 8, 2)
    assert records(losses)['a'] == pytest.approx(
        dict(loss=math.log(50), perplexity=50, tokens=35), rel=1e-6
    )


def test_the_tool_enters_all_models_in_one_file(models, tmp_path, monkeypatch, capsys):
    text = write_text(tmp_path / 'text', speeches=60, novels=31)
    out = tmp_path / 'results.json'
    out.write_text('{"tune": {"sentiment": {"old": {"accuracy": 1}}}}')
    run_tool('lm_eval', monkeypatch, 'perplexity', f'{models}/gpt2', '--text', text,
             '--length', 8, '--json', out)  # fmt: skip
    run_tool('lm_eval', monkeypatch, 'perplexity', f'student={models}/llama', '--text', text,
             '--length', 8, '--json', out)  # fmt: skip
    results = json.loads(out.read_text())
    assert results['tune']['sentiment'] == {'old': {'accuracy': 1}}
    assert list(results['perplexity']['text']) == ['gpt2', 'student']
    parts = results['perplexity']['text']['student']['parts']
    assert parts['speeches']['tokens'] == 60 - 8 and parts['novels']['tokens'] == 31 - 4
    tokens = TokenFile(text, 'validation')
    nats, count = loop(llama().eval(), np.asarray(tokens.parts['novels']), 8)
    assert parts['novels']['loss'] == pytest.approx(nats / count, rel=1e-5)
    assert f'{parts["all"]["loss"]:.4f}' in capsys.readouterr().out


def test_mistakes_are_named(models, tmp_path, monkeypatch):
    text = write_text(tmp_path / 'text', novels=31)

    def run(*arguments):
        run_tool('lm_eval', monkeypatch, 'perplexity', '--text', text, *arguments)

    both = [f'{models}/gpt2', f'gpt2={models}/llama']
    for arguments, error, message in (
        ([f'{tmp_path}/gone'], CheckpointError, 'is no such model'),
        ([f'{tmp_path}/gone.gguf'], CheckpointError, r"gone\.gguf' does not exist"),
        (both, ConfigError, "a model named 'gpt2' already"),
        (['=x'], ConfigError, 'expected MODEL or NAME=MODEL'),
        ([both[0], '--length', 1], ConfigError, '--length 1 predicts nothing'),
        ([both[0], '--length', 33], ConfigError, "--length 33: model 'gpt2' has 32 positions"),
        ([both[0], '--batch', 0], ConfigError, '--batch=0'),
    ):
        with pytest.raises(error, match=message) as caught:
            run(*arguments)
        assert '\n' not in str(caught.value)


def test_models_of_other_tokens_are_refused(models, tmp_path, monkeypatch):
    larger = write_text(tmp_path / 'larger', words=60, novels=31)
    arguments = ('perplexity', f'{models}/gpt2', '--length', 8, '--text')
    with pytest.raises(ConfigError, match="'gpt2' knows 50 tokens, the text has 60"):
        run_tool('lm_eval', monkeypatch, *arguments, larger)
    smaller = write_text(tmp_path / 'smaller', words=40, novels=31)
    with pytest.raises(ConfigError, match="'gpt2' was saved with another tokenizer than the text"):
        run_tool('lm_eval', monkeypatch, *arguments, smaller)
    alone = tmp_path / 'alone'
    gpt2().save_pretrained(alone)
    run_tool('lm_eval', monkeypatch, 'perplexity', alone, '--length', 8, '--text', smaller)


def test_models_without_all_weights_are_refused(tmp_path, monkeypatch):
    text = write_text(tmp_path / 'text', novels=31)
    model = llama()
    model.model.save_pretrained(tmp_path / 'body')
    tokenizer().save_pretrained(tmp_path / 'body')
    with pytest.raises(CheckpointError, match=r"body' has no weights for 'lm_head\.weight'"):
        run_tool('lm_eval', monkeypatch, 'perplexity', f'{tmp_path}/body', '--text', text)


def test_losses_that_are_no_numbers_and_parts_without_predictions_are_named():
    model = llama().eval()
    torch.nn.init.constant_(model.lm_head.weight, float('nan'))
    with pytest.raises(NonFiniteLoss, match="part 'a' is nan"):
        losses_by_part(model, dict(a=np.arange(9, dtype='<u2')), 8, 2)
    with pytest.raises(ConfigError, match="part 'a' has 1 tokens"):
        losses_by_part(llama(), dict(a=np.arange(1, dtype='<u2')), 8, 2)


@pytest.mark.parametrize('text', ['[]', '{"perplexity": 3}', '{"perplexity": {"text": []}}'])
def test_files_of_something_else_are_left_as_they_are(text, models, tmp_path, monkeypatch):
    out = tmp_path / 'a.json'
    out.write_text(text)
    folder = write_text(tmp_path / 'text', novels=31)
    with pytest.raises(ConfigError, match='has something else than results in it'):
        run_tool('lm_eval', monkeypatch, 'perplexity', f'{models}/gpt2', '--length', 8,
                 '--text', folder, '--json', out)  # fmt: skip
    assert out.read_text() == text
