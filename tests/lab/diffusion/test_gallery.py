"""Pictures of a run: of fixed noise, beside the teacher's, scored as by the tool."""

import json

import numpy as np
import pytest
import torch
from lab.diffusion.small import write_idx, write_recipe
from PIL import Image
from tooling import run_tool

from shd_vit.errors import ConfigError
from shd_vit.lab.diffusion.gallery import draw_curves
from shd_vit.lab.diffusion.recipe import read_recipe
from shd_vit.lab.diffusion.samples import load_samples
from shd_vit.lab.diffusion.training import Trainer

PICTURES = dict(per_class=6, steps=3, every=2, show=2, seed=4)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_idx(tmp_path_factory.mktemp('data'))


def test_pictures_of_a_run_change_nothing_of_it_and_are_scored(data, tmp_path, monkeypatch):
    plain = write_recipe(tmp_path / 'r.yaml', data)
    teacher = tmp_path / 'teacher'
    alone = Trainer(read_recipe(plain), teacher, cpu=True).run()
    scores = dict(fashion_mnist=str(data), classifier=str(tmp_path / 'c.safetensors'), epochs=1)
    more = dict(pictures=PICTURES, scores=scores)
    shown = write_recipe(tmp_path / 's.yaml', data, **more)
    run = tmp_path / 'run'
    metrics = Trainer(read_recipe(shown), run, cpu=True).run()
    assert metrics['mse'] == alone['mse']
    assert sorted(path.name for path in (run / 'pictures').iterdir()) == [
        '000002.png', '000004.png', '000006.png',
    ]  # fmt: skip
    assert json.loads((run / 'classes.json').read_text())[0] == 'T-shirt'
    assert (run / 'log.svg').read_text().count('mse') >= 1

    images, labels = load_samples(run / 'samples.npz')
    assert images.shape == (60, 28, 28, 1) and labels.bincount().tolist() == [6] * 10
    options = ('--per-class', 6, '--steps', 3, '--seed', 4, '--cpu')
    run_tool('dit_sample', monkeypatch, tmp_path / 'd', f'run={run}', *options)
    assert torch.equal(load_samples(tmp_path / 'd/run.npz')[0], images)
    out = tmp_path / 'scores.json'
    given = ('--fashion-mnist', data, '--classifier', scores['classifier'], '--out', out)
    run_tool('dit_evaluate', monkeypatch, run / 'samples.npz', *given)
    rows = json.loads(out.read_text())['rows']
    written = json.loads((run / 'metrics.json').read_text())
    for name, title in (('frechet', 'Frechet'), ('kid_x_1000', 'KID x 1000'), ('recall', 'recall')):
        assert written[name] == pytest.approx(rows['samples'][title], rel=1e-6)
        assert written[f'real_{name}'] == pytest.approx(rows['real'][title], rel=1e-6)

    more |= dict(teacher=str(teacher), losses=dict(output={}), pictures=dict(PICTURES, every=None))
    both = tmp_path / 'both'
    Trainer(read_recipe(write_recipe(tmp_path / 'b.yaml', data, **more)), both, cpu=True).run()
    (one,) = (both / 'pictures').iterdir()
    with Image.open(one) as beside, Image.open(run / 'pictures/000006.png') as single:
        assert beside.width > 1.3 * single.width, 'the teacher beside the student'

    compare = tmp_path / 'compare'
    run_tool('dit_compare', monkeypatch, compare, f'one={run}', f'both={both}', '--show', 2)
    with Image.open(compare / 'pictures.png') as two, Image.open(one) as beside:
        assert two.size == beside.size
    curves = (compare / 'curves.svg').read_text()
    assert curves.count('>output<') == 1 and curves.count('>both<') == 1
    with pytest.raises(ConfigError, match=f'{str(teacher)!r} has no samples.npz: it is no run'):
        run_tool('dit_compare', monkeypatch, compare, f'one={teacher}')
    with pytest.raises(ConfigError, match="'run' must be NAME=FOLDER"):
        run_tool('dit_compare', monkeypatch, compare, 'run')


@pytest.mark.parametrize(
    'sections, message',
    [
        (dict(pictures=dict(step=3)), 'pictures.step is unknown; .*did you mean steps'),
        (dict(pictures=dict(steps=0)), r'pictures\.steps=0 must be'),
        (dict(pictures=dict(every=0)), r'pictures\.every=0 must be'),
        (
            dict(pictures=dict(sampler='euler')),
            "sampler='euler' must be one of ddpm, ddim",
        ),
        (dict(pictures=3), 'pictures=3 must be fields'),
        (dict(scores=dict(fashion_mnist='x')), 'scores are of pictures: give that section too'),
        (dict(pictures=dict(steps=3), scores=dict(root='x')), 'scores.root is unknown'),
        (
            dict(pictures=dict(steps=3), scores=dict(epochs=3)),
            'give one of fashion_mnist',
        ),
        (
            dict(pictures=dict(steps=3), scores=dict(inception='no', reference='x')),
            "'no' must be a file",
        ),
    ],
)
def test_sections_that_cannot_be_are_refused_before_training(sections, message, data, tmp_path):
    path = write_recipe(tmp_path / 'r.yaml', data, **sections)
    with pytest.raises(ConfigError, match=message):
        Trainer(read_recipe(path), tmp_path / 'o', cpu=True)
    assert not (tmp_path / 'o').exists()


def test_curves_of_a_log(tmp_path):
    log, out = tmp_path / 'log.jsonl', tmp_path / 'log.png'
    log.write_text('')
    draw_curves(dict(run=log), out)
    assert not out.exists(), 'nothing to draw'
    lines = [dict(step=n, lr=1, images_per_second=2, mse=1 / n, shd=n - 2) for n in (1, 2, 3)]
    log.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    draw_curves(dict(run=log), out)
    with Image.open(out) as picture:
        assert picture.width > 1.5 * picture.height
        assert np.asarray(picture.convert('L')).std() > 5
    (tmp_path / 'other.jsonl').write_text(json.dumps(dict(step=1, lr=1, kd=2)) + '\n')
    draw_curves(dict(one=log, other=tmp_path / 'other.jsonl'), tmp_path / 'both.svg')
    text = (tmp_path / 'both.svg').read_text()
    for shown in ('mse', 'shd', 'kd', 'one', 'other'):
        assert text.count(f'>{shown}<') == 1
