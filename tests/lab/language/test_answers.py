"""Answers in batches are those of each prompt alone."""

import pytest
import torch
from hosts.transformers.lm import gpt2, llama

pytest.importorskip('trl')

from hosts.transformers.test_trl import tokenizer

from shd_vit.data.text.instructions import template
from shd_vit.errors import ConfigError
from shd_vit.lab.language.answers import answers

PROMPTS = ['w1 w2 w3', 'w4', 'w5 w6', 'w7 w8 w9 w10', 'w11 w12']


def plain():
    made = tokenizer()
    made.chat_template = None
    return made


@pytest.mark.parametrize('model', [llama, gpt2])
def test_the_most_probable_answer_of_each_prompt_alone(model):
    made, words = model().eval(), plain()
    made.generation_config.eos_token_id = 1
    found = list(answers(made, words, PROMPTS, 4, batch_size=2))
    for prompt, answer in zip(PROMPTS, found, strict=True):
        ids = words(prompt, return_tensors='pt')['input_ids']
        for _ in range(4):
            with torch.no_grad():
                best = made(input_ids=ids).logits[0, -1].argmax()
            if best == 1:
                break
            ids = torch.cat([ids, best[None, None]], 1)
        count = len(prompt.split())
        assert answer == words.decode(ids[0, count:], skip_special_tokens=True).strip()


def test_a_seed_samples():
    made, words = llama().eval(), plain()
    first, again, other = (list(answers(made, words, PROMPTS, 4, 2, seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_a_chat_model_is_asked_as_a_user_asks():
    made, words, texts = llama().eval(), tokenizer(), []
    plain_call = type(words).__call__

    class Spy(type(words)):
        def __call__(self, text, **kwargs):
            texts.extend(text)
            return plain_call(self, text, **kwargs)

    words.__class__ = Spy
    list(answers(made, words, ['w1 w2 w3', template('w4', 'w5')], 2, 1))
    assert texts == ['user w1 w2 w3 </s> assistant ', 'user w4\n\nw5 </s> assistant ']


def test_what_does_not_fit_into_the_model():
    with pytest.raises(ConfigError, match='a prompt of 3 tokens and an answer of 30 are more than'):
        list(answers(llama().eval(), plain(), PROMPTS[:1], 30, 1))
