"""A text of a few words, its tokenizer, and tiny models of it in folders."""

import json

import numpy as np
from hosts.transformers.lm import gpt2, llama
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = 50


def tokenizer(words=WORDS):
    """Words w00, w01, ...; w00 is padding and w01 ends a text. None begins with another."""
    inside = Tokenizer(models.WordLevel({f'w{n:02d}': n for n in range(words)}, unk_token='w02'))
    inside.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inside, pad_token='w00', eos_token='w01', unk_token='w02'
    )


def write_text(folder, words=WORDS, seed=0, **parts):
    """What tools/data/prepare_text.py writes: random words, so many of each part."""
    folder.mkdir()
    tokenizer(words).save_pretrained(folder / 'tokenizer')
    ids = np.random.default_rng(seed).integers(3, words, sum(parts.values()))
    ends = np.cumsum([0, *parts.values()])
    spans = {name: [int(a), int(b)] for name, a, b in zip(parts, ends, ends[1:], strict=False)}
    split = dict(tokens=len(ids), parts=spans)
    for name in ('train', 'validation'):
        ids.astype('<u2').tofile(folder / f'{name}.bin')
    about = dict(vocabulary=words, parts={}, splits=dict(train=split, validation=split))
    (folder / 'text.json').write_text(json.dumps(about))
    return folder


def write_models(folder):
    """A tiny GPT-2 with 4 heads and a tiny LLaMA with 2, with their tokenizer."""
    for name, model in (('gpt2', gpt2()), ('llama', llama())):
        model.config.pad_token_id = 0
        model.save_pretrained(folder / name)
        tokenizer().save_pretrained(folder / name)
    return folder
