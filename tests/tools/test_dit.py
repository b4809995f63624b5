"""tools/dit_*.py on a few made pictures, from training to scores."""

import json

import numpy as np
import pytest
import torch
import yaml
from diffusers import AutoencoderKL, DiTTransformer2DModel
from lab.diffusion.small import recipe, write_idx, write_recipe
from PIL import Image
from tooling import ROOT, load_tool, run_tool
from torch.testing import assert_close

from shd_vit.errors import ConfigError, DatasetError
from shd_vit.lab.diffusion.data import CLASSES
from shd_vit.lab.diffusion.encoding import centre_crop
from shd_vit.lab.diffusion.recipe import build_model, read_recipe
from shd_vit.lab.diffusion.samples import load_samples


def test_from_training_to_scores(tmp_path, monkeypatch, capsys):
    data, runs = write_idx(tmp_path / 'data'), tmp_path / 'runs'
    teacher = write_recipe(tmp_path / 'teacher.yaml', data, heads=4)
    student = write_recipe(
        tmp_path / 'student.yaml', data, teacher=str(runs / 'teacher'),
        losses=dict(shd=dict(compile=False), output={}),
    )  # fmt: skip
    for name, path in (('teacher', teacher), ('student', student)):
        run_tool('dit_train', monkeypatch, path, runs / name, '--cpu')
    said = capsys.readouterr().out
    assert 'shd: SHDLoss' in said and '6 steps of 16 = 16 samples x 1 batches x 1 processes' in said
    run_tool('dit_train', monkeypatch, student, runs / 'student', '--cpu')
    assert 'is trained already' in capsys.readouterr().out

    out = tmp_path / 'samples'
    models = [f'{name}={runs / name}' for name in ('teacher', 'student')]
    options = ['--per-class', '6', '--steps', '3', '--guidance', '2', '--batch-size', '25', '--cpu']
    run_tool('dit_sample', monkeypatch, out, *models, *options, '--show', '2')
    images, labels = load_samples(out / 'student.npz')
    assert images.shape == (60, 28, 28, 1) and labels.bincount().tolist() == [6] * 10
    before = images.clone()
    run_tool('dit_sample', monkeypatch, out, models[1], *options)
    assert torch.equal(load_samples(out / 'student.npz')[0], before)  # alone, the same
    with Image.open(out / 'pictures.png') as picture:
        assert picture.width > 300 and np.asarray(picture.convert('L')).std() > 20

    files = [out / 'teacher.npz', out / 'student.npz']
    scores = ['--classifier', tmp_path / 'c.safetensors', '--epochs', '1', '--out', tmp_path / 'x']
    capsys.readouterr()
    run_tool('dit_evaluate', monkeypatch, *files, '--fashion-mnist', data, *scores)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ['real', 'teacher', 'student']
    assert lines[4].startswith(
        '60 pictures against 320 real ones, in features of fashion-mnist-cnn'
    )
    written = json.loads((tmp_path / 'x').read_text())
    assert list(written['rows']) == ['real', 'teacher', 'student'] and written['pictures'] == 60
    assert f'{written["rows"]["student"]["Frechet"]:.3f}' in lines[3]


@pytest.mark.parametrize(
    'tool, arguments, message',
    [
        ('dit_train', ['none.yaml', 'out'], "none.yaml': expected a .yaml file"),
        ('dit_sample', ['out', 'model'], "'model' must be NAME=FOLDER"),
        ('dit_sample', ['out', 'a/b=model'], "'a/b=model' must be NAME=FOLDER"),
        ('dit_sample', ['out', 'a=b', 'a=c'], "'a=c': there is a folder named 'a' already"),
        ('dit_sample', ['out', 'a=b', '--per-class', '0'], 'pictures.per_class=0'),
        ('dit_sample', ['out', 'a=/nowhere'], '/nowhere holds no model'),
        ('dit_evaluate', ['a.npz'], 'give one of fashion_mnist, inception, efficientnet'),
        ('dit_evaluate', ['a.npz', '--fashion-mnist', 'data'], 'a.npz is no .npz of samples'),
        ('dit_latents', ['/nowhere', 'vae', 'out'], '/nowhere'),
        ('dit_latents', ['a', 'b', 'c', '--size', '0'], '--size=0'),
    ],
)
def test_what_is_missing_is_named(tool, arguments, message, monkeypatch, tmp_path):
    arguments = [str(tmp_path / 'out') if name == 'out' else name for name in arguments]
    with pytest.raises((ConfigError, DatasetError), match=message):
        run_tool(tool, monkeypatch, *arguments)


def test_different_numbers_of_pictures_do_not_compare(tmp_path, monkeypatch):
    for name, count in (('a', 60), ('b', 70)):
        np.savez(tmp_path / f'{name}.npz', arr_0=np.zeros((count, 28, 28, 1), np.uint8))
    with pytest.raises(ConfigError, match=r'\[60, 70\] pictures'):
        files = [tmp_path / 'a.npz', tmp_path / 'b.npz']
        run_tool('dit_evaluate', monkeypatch, *files, '--fashion-mnist', tmp_path)


@pytest.fixture
def vae(tmp_path):
    torch.manual_seed(0)
    sizes = dict(block_out_channels=(4, 4), norm_num_groups=2, latent_channels=4)
    blocks = dict(
        down_block_types=('DownEncoderBlock2D',) * 2, up_block_types=('UpDecoderBlock2D',) * 2
    )
    model = AutoencoderKL(**sizes, **blocks, scaling_factor=0.5)
    model.save_pretrained(tmp_path / 'vae')
    return model.eval()


def test_latents_are_the_vaes_and_are_trained_on_and_decoded(vae, tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    for label in ('first', 'second'):
        (tmp_path / 'pictures' / label).mkdir(parents=True)
        for number in range(5):
            pixels = rng.integers(0, 255, (40, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f'pictures/{label}/{number}.png')
    folders = [tmp_path / name for name in ('pictures', 'vae', 'latents')]
    options = ['--size', '16', '--flip', '--batch-size', '4', '--workers', '0', '--cpu']
    run_tool('dit_latents', monkeypatch, *folders, *options)
    assert '20 latents (4, 8, 8)' in capsys.readouterr().out
    latents = np.load(tmp_path / 'latents/latents.npy')
    labels = np.load(tmp_path / 'latents/labels.npy')
    assert labels.tolist() == ([0] * 5 + [1] * 5) * 2
    with Image.open(tmp_path / 'pictures/second/1.png') as picture:
        pixels = np.asarray(centre_crop(picture, 16)).astype(np.float32) / 127.5 - 1
    for row, x in ((6, pixels), (16, pixels[:, ::-1].copy())):
        with torch.no_grad():
            given = vae.encode(torch.from_numpy(x).permute(2, 0, 1)[None]).latent_dist
        off = (torch.from_numpy(latents[row]).float() / 0.5 - given.mean[0]) / given.std[0]
        assert off.abs().max() < 5 and 0.7 < off.std() < 1.3  # a draw, of its mean and deviation

    cfg = recipe('x', training=dict(steps=2, batch_size=4))
    cfg['data'] = dict(type='latents', path=str(tmp_path / 'latents'))
    cfg['model'] |= dict(
        sample_size=8, patch_size=2, in_channels=4, out_channels=8, num_embeds_ada_norm=2
    )
    (tmp_path / 'r.yaml').write_text(yaml.safe_dump(cfg))
    run_tool('dit_train', monkeypatch, tmp_path / 'r.yaml', tmp_path / 'run', '--cpu')
    draw = ['--per-class', '2', '--steps', '2', '--sampler', 'ddpm', '--cpu']
    model = f'model={tmp_path / "run"}'
    with pytest.raises(ConfigError, match='latents of 4 channels: give the vae'):
        run_tool('dit_sample', monkeypatch, tmp_path / 's', model, *draw)
    run_tool('dit_sample', monkeypatch, tmp_path / 's', model, *draw, '--vae', tmp_path / 'vae')
    assert load_samples(tmp_path / 's/model.npz')[0].shape == (4, 16, 16, 3)


@pytest.mark.parametrize('size', [(20, 40), (41, 20), (300, 200), (256, 256)])
def test_crops_are_the_middle_of_the_picture(size):
    """Of a ramp, which resizing leaves a ramp: its middle stays the middle."""
    ramp = np.linspace(0, 255, size[0])[None].repeat(size[1], 0).astype(np.uint8)
    cropped = np.asarray(centre_crop(Image.fromarray(ramp), 16)).astype(float)
    assert cropped.shape == (16, 16)
    assert_close(torch.tensor(cropped.mean()), torch.tensor(127.5).double(), atol=8, rtol=0)


def test_every_config_is_a_recipe_of_models_that_fit():
    for path in sorted((ROOT / 'configs/dit/fashion_mnist').glob('[!m_]*.yaml')):
        recipe = read_recipe(path)
        model = build_model(recipe.model)
        assert isinstance(model, DiTTransformer2DModel)
    batch_sizes = dict(dit=256, emoji=64, fashion_mnist=32, study=32)  # 256 is the paper's
    for path in (p for p in (ROOT / 'configs/dit').rglob('[!_]*.yaml') if p.stem != 'study'):
        recipe = read_recipe(path)
        assert str(path.relative_to(ROOT)) in path.read_text(), 'its command'
        assert recipe.training.batch_size == batch_sizes[path.parent.name], path
    assert len(CLASSES) == 10
    assert load_tool('dit_train').__doc__.startswith('Train a diffusion transformer')
