"""Maps and alphas of language models, against eager attention and the equations."""

import json

import numpy as np
import pytest
import references
import torch
from hosts.transformers.lm import gpt2, llama
from lab.language.text import tokenizer, write_models, write_text
from PIL import Image
from tooling import run_tool
from torch.testing import assert_close

from shd_vit.errors import ConfigError, DatasetError
from shd_vit.lab.alphas import gather_alphas
from shd_vit.lab.language.maps import language_maps, text_of
from shd_vit.lab.language.sequences import sequences
from shd_vit.lab.language.taps import language_taps

IDS = torch.tensor([[5, 9, 7, 30, 12, 9, 9, 21, 40]])


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp('models'))


def eager_maps(model, ids):
    """Maps of each layer as transformers' own eager attention gives them."""
    model.set_attn_implementation('eager')
    return [x.detach() for x in model.eval()(input_ids=ids, output_attentions=True).attentions]


def test_maps_are_those_of_eager_attention_layer_by_layer(models):
    layers = language_maps(str(models / 'gpt2'), {'s': str(models / 'llama')}, IDS, None, None, 1.0)
    teacher, student = eager_maps(gpt2(), IDS), eager_maps(llama(), IDS)
    assert [maps.layers for maps in layers] == [(1, 1), (2, 2)]
    for maps in layers:
        s, t = maps.layers
        assert_close(maps.teacher, teacher[t - 1][0], rtol=1e-4, atol=1e-6)
        assert_close(maps.students['s'], student[s - 1][0], rtol=1e-4, atol=1e-6)
        assert maps.squeezed.shape == maps.students['s'].shape == (2, 9, 9)
        for head in range(2):
            (alpha, _) = maps.alphas[head][0]
            pair = teacher[t - 1][0, 2 * head : 2 * head + 2]
            merged = alpha * pair[0] + (1 - alpha) * pair[1]
            assert_close(maps.squeezed[head], merged, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('make, heads, left', [(gpt2, 4, 1), (gpt2, 4, 3), (llama, 2, 1)])
def test_alphas_are_those_of_the_equations(make, heads, left):
    model = make().eval()
    batches = torch.cat([IDS, IDS.flip(1), IDS + 3]).split(2)
    with language_taps(model, 'teacher') as (bank, taps_of):
        known = dict(zip(bank.layers, bank.anatomy.heads, strict=True))
        alphas = gather_alphas(known, map(taps_of, batches), left, 1.0)
        taps = taps_of(torch.cat(batches))
    assert known == {1: heads, 2: heads}
    for layer, tap in taps.items():
        hidden = tap.whole_bias()
        assert hidden is not None and not hidden.any(-1).logical_not().any()
        scores = (tap.q @ tap.k.mT * tap.scale).double().masked_fill(~hidden, -torch.inf)
        maps = scores.softmax(-1)
        _, passes = references.squeeze_heads(maps, tap.v, tap.out_proj.detach(), left)
        expected = torch.cat(passes, dim=1).T
        assert len(alphas[layer]) == len(expected) == heads - left
        for values, row in zip(alphas[layer].values(), expected, strict=True):
            assert_close(torch.tensor(values).double(), row, rtol=1e-3, atol=1e-4)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_sequences_are_cut_within_documents_and_spread_over_the_text(tmp_path):
    known = tokenizer()
    for name, words in (('a', range(5, 18)), ('b', range(20, 31))):
        (tmp_path / name).write_text(' '.join(f'w{n:02d}' for n in words))
    files = [str(tmp_path / name) for name in 'ab']
    every = sequences(known, files, 4, 5)
    assert every.tolist() == [[*range(n, n + 4)] for n in (5, 9, 13, 20, 24)]
    assert sequences(known, files, 4, 3).tolist() == every[::2].tolist()
    with pytest.raises(ConfigError, match='6 sequences of 4 tokens are wanted, the text has 5'):
        sequences(known, files, 4, 6)
    with pytest.raises(DatasetError, match=r"gone' cannot be read as text"):
        sequences(known, [str(tmp_path / 'gone')], 4, 1)


def test_the_validation_text_of_a_folder_is_taken_apart_anew(tmp_path):
    text = write_text(tmp_path / 'text', a=30)
    ids = np.fromfile(text / 'validation.bin', '<u2')
    ids[11] = 1  # an end
    ids.tofile(text / 'validation.bin')
    found = sequences(tokenizer(), [str(text)], 5, 5).tolist()
    assert found == [ids[i : i + 5].tolist() for i in (0, 5, 12, 17, 22)]


def test_the_tools_draw_and_count(models, tmp_path, monkeypatch, capsys):
    text = write_text(tmp_path / 'text', a=90)
    out = tmp_path / 'alpha.png'
    arguments = ('--heads', 1, '--tokens', 50, '--length', 16, '--json', tmp_path / 'a.json')
    run_tool('analysis/language_alphas', monkeypatch, f'{models}/gpt2', '--text', text,
             *arguments, '--out', out)  # fmt: skip
    found = json.loads((tmp_path / 'a.json').read_text())
    assert found['tokens'] == 64 and found['alphas'] == 4 * 2 * 3
    assert [(row['layer'], row['pair'], row['sequences']) for row in found['pairs']] == [
        (layer, pair, 4) for layer in (1, 2) for pair in ('1+2', '3+4', '(1+2)+(3+4)')
    ]
    assert found['outside'] == pytest.approx(np.mean([row['outside'] for row in found['pairs']]))
    assert '24 alphas' in capsys.readouterr().out
    maps = tmp_path / 'maps.png'
    run_tool('analysis/language_maps', monkeypatch, f'{models}/gpt2', f's={models}/llama', '--text',
             'w05 w06 w07 $w08', '--out', maps)  # fmt: skip
    assert 'KL to s' in capsys.readouterr().out
    for path in (out, maps):
        assert len(np.unique(np.asarray(Image.open(path).convert('L')))) > 20, 'not an empty page'


def test_what_cannot_be_shown_is_named(models, tmp_path, monkeypatch):
    gpt, other = f'{models}/gpt2', tmp_path / 'other'
    llama(heads=1, layers=1).save_pretrained(other)

    def refused(message, *arguments, tool='maps'):
        with pytest.raises(ConfigError, match=message) as caught:
            run_tool(f'analysis/language_{tool}', monkeypatch, *arguments)
        assert '\n' not in str(caught.value)

    text = ('--text', 'w05 w06 w07')
    refused('one number of heads to squeeze to is needed, not no students', gpt, *text)
    refused('--heads 5: the teacher has 4', gpt, *text, '--heads', 5)
    refused('--layers 3: layers are 1 to 2', gpt, *text, '--heads', 2, '--layers', 3)
    refused('of one depth together', gpt, f'a={models}/llama', f'b={other}', *text)
    refused('not heads of .1, 2.', gpt, f'a={models}/llama', *text, '--heads', 1)
    refused('--text has 1 tokens', gpt, '--text', 'w05', '--heads', 2)
    refused('--temperature=0', gpt, *text, '--heads', 2, '--temperature', 0)
    refused('must end in one of', gpt, *text, '--heads', 2, '--out', 'a.gif')
    arguments = (gpt, '--text', tmp_path, '--length', 8, '--tokens', 8)
    refused('--tokens=0', *arguments[:-1], 0, '--heads', 2, tool='alphas')
    write_text(tmp_path / 'text', a=90)
    refused('--heads 4 leaves nothing to merge', gpt, '--text', tmp_path / 'text', '--length', 8,
            '--tokens', 8, '--heads', 4, '--out', tmp_path / 'a.png', tool='alphas')  # fmt: skip


def test_texts_are_given_or_read(tmp_path):
    (tmp_path / 'a.txt').write_text('w05 w06 w07')
    known = tokenizer()
    assert text_of(str(tmp_path / 'a.txt'), known, 2).tolist() == [[5, 6]]
    assert text_of('w05 w06 ' * 100, known, 48).shape == (1, 48)
    (tmp_path / 'b.txt').write_bytes(b'\xff')
    with pytest.raises(DatasetError, match=r"b\.txt' cannot be read as text"):
        text_of(str(tmp_path / 'b.txt'), known, 2)
