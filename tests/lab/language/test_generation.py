"""Sampling against the distribution that a model has, and ROUGE-L against its definition."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from hosts.transformers.lm import gpt2, llama
from lab.language.text import tokenizer, write_models
from tooling import run_tool
from transformers import GenerationConfig

from shd_vit.errors import ConfigError, DatasetError
from shd_vit.lab.language import rouge
from shd_vit.lab.language.generation import Sampling, long_prompts, respond

PROMPTS = ['w05 w06 w07 w08 w09', 'w10', 'w11 w12', 'w05 w13 w14']


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp('models'))


def greedy(model, prompt, tokens, ngram=0):
    """One token after the other from a whole forward, without a cache or padding."""
    ids = tokenizer()(prompt)['input_ids']
    start = len(ids)
    for _ in range(tokens):
        scores = model(input_ids=torch.tensor([ids])).logits[0, -1].detach().clone()
        seen = {tuple(ids[i : i + ngram]) for i in range(len(ids) - ngram + 1)} if ngram else ()
        for token in range(len(scores)):
            if ngram and (*ids[len(ids) - ngram + 1 :], token) in seen:
                scores[token] = -torch.inf
        ids.append(int(scores.argmax()))
        if ids[-1] == 1:
            return tokenizer().decode(ids[start:-1]), False
    return tokenizer().decode(ids[start:]), True


@pytest.mark.parametrize('make', [gpt2, llama])
@pytest.mark.parametrize('ngram', [0, 2])
def test_batched_responses_are_those_of_each_prompt_alone(make, ngram):
    model = make().eval()
    model.generation_config = GenerationConfig(repetition_penalty=9.0, num_beams=3)
    expected = [greedy(model, prompt, 12, ngram) for prompt in PROMPTS]
    texts, unfinished = respond(model, tokenizer(), PROMPTS, Sampling(0, 12, ngram, 3), 0)
    assert texts == [text for text, _ in expected]
    assert unfinished == sum(cut for _, cut in expected)
    if ngram:
        assert texts != respond(model, tokenizer(), PROMPTS, Sampling(0, 12, 0, 3), 0)[0]


def test_tokens_are_drawn_from_the_whole_softmax_whatever_was_saved_with_the_model():
    model = llama().eval()
    model.generation_config = GenerationConfig(do_sample=True, top_k=3, temperature=0.1)
    count = 4000
    texts, _ = respond(model, tokenizer(), ['w05 w06'] * count, Sampling(1.5, 1, 6, 500), 3)
    drawn = Counter(texts)
    logits = model(input_ids=torch.tensor([[5, 6]])).logits[0, -1].detach().double()
    expected = torch.softmax(logits / 1.5, 0).numpy()
    share = np.array([drawn[f'w{n:02d}'] / count for n in range(3, 50)])
    deviations = np.abs(share - expected[3:]) / np.sqrt(expected[3:] * (1 - expected[3:]) / count)
    assert deviations.max() < 4.5, deviations.max()
    assert drawn[''] / count == pytest.approx(expected[:3].sum(), abs=0.02), 'special tokens'


def test_a_seed_says_all_and_an_end_ends(monkeypatch):
    model = llama().eval()
    sampling = Sampling(1.0, 12, 0, 2)
    one, other = (respond(model, tokenizer(), PROMPTS, sampling, seed) for seed in (1, 2))
    assert one == respond(model, tokenizer(), PROMPTS, sampling, 1) != other

    def generate(input_ids, attention_mask):
        assert input_ids.tolist() == [[0, 10], [11, 12]]
        assert attention_mask.tolist() == [[0, 1], [1, 1]]
        return torch.cat([input_ids, torch.tensor([[5, 1, 7], [6, 0, 8]])], dim=1)

    monkeypatch.setattr(model, 'generate', generate)
    texts = respond(model, tokenizer(), PROMPTS[1:3], sampling, 0)
    assert texts == (['w05', 'w06 w08'], 1), 'cut at its end, and one without'
    assert long_prompts(tokenizer(), PROMPTS, 2) == {0, 3}


def longest(a, b):
    """Length of the longest common subsequence, by its recursion."""
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            same = table[i, j] + 1
            table[i + 1, j + 1] = same if x == y else max(table[i, j + 1], table[i + 1, j])
    return table[-1, -1]


def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence():
    draw = np.random.default_rng(0)
    words = ['red', 'blue', 'dog', 'cat', 'sun', 'sea']
    for _ in range(20):
        response, *references = (list(draw.choice(words, draw.integers(1, 9))) for _ in range(3))
        values = [2 * longest(response, one) / (len(response) + len(one)) for one in references]
        found = rouge.rouge_l(' '.join(response), [' '.join(one) for one in references])
        assert found == pytest.approx(100 * max(values))
    assert rouge.rouge_l('', ['dog']) == rouge.rouge_l('...', ['dog']) == 0
    assert rouge.rouge_l('Jumping dogs!', ['jumps dog']) == pytest.approx(100), 'stems, not marks'


def test_scores_of_rows():
    rows = [dict(prompt='', question='', references=x) for x in (['A dog.', 'cat'], ['sun'])]
    found = rouge.scores(['a  DOG', ''], rows)
    assert found == pytest.approx(dict(rouge_l=50, exact=50, words=1, empty=50))
    rows = [dict(prompt='', question='', references=[x]) for x in ('a b', 'c d', 'c e', 'c d f')]
    assert rouge.constant_responses(rows) == ['c d'] * 4
    rouge.check_references(rows, 'f')
    with pytest.raises(DatasetError, match=r"'f': the response '→ 好' has no letter a-z"):
        rouge.check_references([dict(references=['→ 好'])], 'f')


def test_the_tool(models, tmp_path, monkeypatch, capsys):
    data = tmp_path / 'toy' / 'valid.jsonl'
    data.parent.mkdir()
    rows = [dict(instruction='w05 w06', response=f'w{n:02d} w08', context='w07') for n in (7, 9, 9)]
    rows += [dict(prompt='w05 w07', output=['w07'])]
    data.write_text('\n'.join(map(json.dumps, rows)))
    out, responses = tmp_path / 'a.json', tmp_path / 'r.jsonl'
    short = ['--data', data, '--prompt-length', 2, '--new-tokens', 5]
    both = [f'{models}/gpt2', f's={models}/llama']
    run_tool('lm_eval', monkeypatch, 'generate', *both, *short, '--skip-long', '--seeds', 1, 2,
             '--json', out, '--responses', responses)  # fmt: skip
    found = json.loads(out.read_text())['generate']['toy/valid.jsonl']
    assert list(found) == ['constant answer', 'copy of the input', 'gpt2', 's']
    assert found['s']['settings']['left_out'] == 3
    assert found['s']['settings']['no_repeat_ngram_size'] == 6
    written = [json.loads(line) for line in responses.read_text().splitlines()]
    assert [(x['model'], x['seed']) for x in written] == [
        (m, s) for m in ('gpt2', 's') for s in (1, 2)
    ]
    for name in ('gpt2', 's'):
        told = [
            rouge.rouge_l(x['response'], x['references']) for x in written if x['model'] == name
        ]
        assert found[name]['scores']['rouge_l']['values'] == pytest.approx(told)
    assert found['constant answer']['scores']['rouge_l']['mean'] == 100
    assert found['copy of the input']['scores']['rouge_l']['mean'] == pytest.approx(200 / 3)
    shown = ' '.join(capsys.readouterr().out.split())
    assert 'no 6 tokens twice' in shown and '3 longer prompts left out' in shown

    def refused(error, message, *more):
        with pytest.raises(error, match=message) as caught:
            run_tool('lm_eval', monkeypatch, 'generate', both[1], *more)
        assert '\n' not in str(caught.value)

    refused(ConfigError, '3 of 4 prompts are longer than --prompt-length=2', *short)
    refused(
        ConfigError,
        '--prompt-length=24 and --new-tokens=9 make 33 tokens: model .s. has 32',
        *short[:2], '--skip-long', '--prompt-length', 24, '--new-tokens', 9,
    )  # fmt: skip
    refused(ConfigError, '--temperature=-1', *short, '--temperature', -1)
    refused(ConfigError, r'--seeds=\[1, 1\] has one twice', *short, '--seeds', 1, 1)
    refused(ConfigError, 'is there already', *short, '--skip-long', '--responses', responses)
    refused(ConfigError, '--prompt-length=1 leaves no prompt', '--data', data, '--skip-long',
            '--prompt-length', 1)  # fmt: skip
