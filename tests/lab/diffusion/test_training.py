"""A recipe, its data and its training: the same numbers after a stop, averages, refusals."""

import json

import numpy as np
import pytest
import torch
from lab.diffusion.small import recipe, write_idx, write_recipe
from torch.testing import assert_close

from shd_vit.errors import CheckpointError, ConfigError, DatasetError
from shd_vit.lab.diffusion.data import read_data
from shd_vit.lab.diffusion.recipe import build_model, load_model, read_recipe
from shd_vit.lab.diffusion.training import Trainer, build_distiller


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_idx(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def teacher(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp('teacher')
    path = write_recipe(folder / 'teacher.yaml', data, heads=4)
    Trainer(read_recipe(path, ['training.steps=2']), folder, cpu=True).run()
    return folder


class Stopped(Exception):
    pass


def weights(folder):
    return load_model(folder).state_dict()


def test_a_stopped_run_goes_on_to_the_same_numbers(data, teacher, tmp_path, monkeypatch, capsys):
    losses = dict(shd=dict(compile=False), output=dict(weight=0.5))
    path = write_recipe(
        tmp_path / 'r.yaml', data, teacher=str(teacher), losses=losses,
        training=dict(accumulate=2, max_grad_norm=1.0, warm_up=3),
    )  # fmt: skip
    whole = Trainer(read_recipe(path), tmp_path / 'whole', cpu=True).run()
    trainer = Trainer(read_recipe(path), tmp_path / 'stopped', cpu=True)
    step = trainer._train_step

    def stop_at_five():
        if trainer.step == 5:
            raise Stopped
        return step()

    monkeypatch.setattr(trainer, '_train_step', stop_at_five)
    with pytest.raises(Stopped):
        trainer.run()
    capsys.readouterr()
    resumed = Trainer(read_recipe(path), tmp_path / 'stopped', cpu=True).run()
    assert 'Going on from step 4' in capsys.readouterr().out
    for name, value in weights(tmp_path / 'whole').items():
        assert torch.equal(value, weights(tmp_path / 'stopped')[name]), name
    logs = [
        [json.loads(line) for line in (tmp_path / run / 'log.jsonl').read_text().splitlines()]
        for run in ('whole', 'stopped')
    ]
    for line in (*logs[0], *logs[1]):
        del line['images_per_second']
    assert logs[0] == logs[1] and [line['step'] for line in logs[0]] == [2, 4, 6]
    assert {'mse', 'vb', 'shd', 'output'} < set(logs[0][0])
    assert whole['mse'] == resumed['mse'] and resumed['seconds_of_steps'] == 2
    assert not (tmp_path / 'stopped/state').exists()


def test_a_kill_between_two_names_loses_nothing(data, tmp_path, capsys):
    path = write_recipe(tmp_path / 'r.yaml', data, training=dict(save_every=2))
    whole = Trainer(read_recipe(path), tmp_path / 'whole', cpu=True).run()
    trainer = Trainer(read_recipe(path), tmp_path / 'o', cpu=True)
    trainer._resume()
    for _ in range(2):
        trainer._train_step()
    trainer._save_state()
    (tmp_path / 'o/state').rename(tmp_path / 'o/.state.old')
    (tmp_path / 'o/log.jsonl').write_text('{"step": 2, "lr": 0.1}\n{"step": 4}\n{"ste')
    assert Trainer(read_recipe(path), tmp_path / 'o', cpu=True).run()['mse'] == whole['mse']
    assert 'Going on from step 2' in capsys.readouterr().out
    lines = (tmp_path / 'o/log.jsonl').read_text().splitlines()
    assert [json.loads(line)['step'] for line in lines] == [2, 4, 6]


def test_losses_that_look_first_are_shown_the_teacher(data, teacher, tmp_path):
    losses = dict(shd=dict(compile=False, strategy='head_matching'))
    path = write_recipe(tmp_path / 'r.yaml', data, teacher=str(teacher), losses=losses)
    trainer = Trainer(read_recipe(path, ['training.steps=1']), tmp_path / 'o', cpu=True)
    assert trainer.run()['shd'] > 0
    assert trainer.distiller.losses[0]['shd'].is_settled


def test_averaged_weights_are_saved(data, tmp_path):
    """EMA by its definition: after a step, d * average + (1 - d) * weights, d of diffusers."""
    trainer = Trainer(
        read_recipe(write_recipe(tmp_path / 'r.yaml', data)), tmp_path / 'o', cpu=True
    )
    average = [p.detach().clone() for p in trainer.parameters]
    original, decays = trainer.ema.step, []

    def follow(parameters):
        original(parameters)
        decays.append(trainer.ema.cur_decay_value)
        for mean, p in zip(average, trainer.parameters, strict=True):
            mean.mul_(decays[-1]).add_(p.detach(), alpha=1 - decays[-1])

    trainer.ema.step = follow
    trainer.run()
    assert decays[-1] > 0.3
    saved = dict(load_model(tmp_path / 'o').named_parameters())
    names = [name for name, _ in trainer.distiller.student.named_parameters()]
    for name, mean in zip(names, average, strict=True):
        assert_close(saved[name], mean)


def test_every_sample_is_seen_once_an_epoch_and_orders_differ(data, tmp_path):
    trainer = Trainer(
        read_recipe(write_recipe(tmp_path / 'r.yaml', data)), tmp_path / 'o', cpu=True
    )
    epochs = []
    for epoch in range(2):
        rows = []
        for trainer.step in range(20 * epoch, 20 * epoch + 20):
            rows += trainer._rows().tolist()
        epochs.append(rows)
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(320))
    assert epochs[0] != epochs[1]


def test_packed_files_and_pixels(data, tmp_path):
    packed = read_data(dict(type='fashion_mnist', root=str(write_idx(tmp_path, packed=True))))
    plain = read_data(dict(type='fashion_mnist', root=str(data)))
    assert torch.equal(packed.samples, plain.samples) and plain.samples.shape == (320, 1, 28, 28)
    samples, labels = plain.batch(torch.tensor([3, 311]), torch.device('cpu'))
    raw = np.frombuffer((data / 'train-images-idx3-ubyte').read_bytes()[16:], np.uint8)
    raw = raw.reshape(320, 28, 28)[[3, 311]].astype(float)
    assert_close(samples[:, 0].double(), torch.from_numpy(raw / 255 * 2 - 1), atol=1e-6, rtol=0)
    assert labels.tolist() == [3, 1]


def test_latents_are_read_from_their_file(tmp_path):
    latents = np.random.default_rng(0).normal(size=(6, 4, 8, 8)).astype(np.float16)
    np.save(tmp_path / 'latents.npy', latents)
    np.save(tmp_path / 'labels.npy', np.arange(6))
    found = read_data(dict(type='latents', path=str(tmp_path)))
    samples, labels = found.batch(torch.tensor([5, 0]), torch.device('cpu'))
    assert samples.dtype == torch.float32 and labels.tolist() == [5, 0]
    assert_close(samples.half(), torch.from_numpy(latents[[5, 0]]), rtol=0, atol=0)


@pytest.mark.parametrize(
    'damage, message',
    [
        (lambda path: path.unlink(), 'is missing: run tools/data/prepare_fashion_mnist.sh'),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), 'bytes, expected'),
        (lambda path: path.write_bytes(b'nothing'), 'is no IDX file of 3 dimensions'),
    ],
)
def test_damaged_data_is_named(damage, message, tmp_path, monkeypatch):
    monkeypatch.setattr('shd_vit.lab.diffusion.data.DEBIAN', '/nowhere')
    damage(write_idx(tmp_path) / 'train-images-idx3-ubyte')
    with pytest.raises(DatasetError, match=message):
        read_data(dict(type='fashion_mnist', root=str(tmp_path)))


@pytest.mark.parametrize(
    'option, message',
    [
        ('training.stepz=3', 'training.stepz is unknown; allowed are steps'),
        ('modle=3', 'modle is unknown'),
        ('training.steps=0', r'training.steps=0 must be a whole number, above 0'),
        ('training.steps=no', r'training.steps=False must be'),
        ('training.lr=nan', "training.lr='nan'"),
        ('training.precision=half', "training.precision='half' must be fp32"),
        ('training.optimizer=adamw', "training.optimizer='adamw' must be a dict"),
        ('training.steps', "'training.steps' must be KEY=VALUE"),
        ('losses.shd.beta=2', 'losses.shd needs a teacher'),
        ('model=DiT', "model='DiT' must be fields"),
        ('data.type=cifar', r"data.type='cifar' must be one of fashion_mnist, pictures, latents"),
        ('data.path=x', 'data of type fashion_mnist: .*path'),
        ('model.type=Linear', "type='Linear' must be a class of diffusers or one of MDTv2Model"),
        ('model.heads=2', 'model: .*heads'),
        ('scheduler.betas=2', 'scheduler: .*betas'),
        ('scheduler.variance_type=fixed_small', 'out_channels=2'),
        ('training.batch_size=400', 'more than the 320 samples'),
        ('training.accumulate=3', 'batch_size=16 must be a multiple of 3'),
        ('teacher=/nowhere', '/nowhere holds no model'),
    ],
)
def test_recipes_that_cannot_work_are_refused_in_one_line(option, message, data, tmp_path):
    path = write_recipe(tmp_path / 'r.yaml', data)
    with pytest.raises(ConfigError, match=message) as caught:
        Trainer(read_recipe(path, [option]), tmp_path / 'o', cpu=True)
    assert '\n' not in str(caught.value)


def test_numbers_without_a_point_and_files_that_are_no_recipes(tmp_path, data):
    path = write_recipe(tmp_path / 'r.yaml', data)
    assert read_recipe(path, ['training.lr=1e-4', 'seed=7']).training.lr == 1e-4
    for text, message in (
        ('[1', 'line 1: expected'), ('3', 'must define fields'), ('seed: 1', 'training is missing'),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_recipe(path)
    with pytest.raises(ConfigError, match=r"none.yaml': expected a .yaml file"):
        read_recipe(tmp_path / 'none.yaml')


def test_a_recipe_stands_over_its_base(tmp_path, data):
    write_recipe(tmp_path / 'r.yaml', data, teacher='t', losses=dict(output={}))
    above = tmp_path / 'above.yaml'
    above.write_text('base: r.yaml\nlosses: {output: null, shd: {beta: 3}}\ntraining: {lr: 2e-3}')
    found = read_recipe(above, ['training.steps=9'])
    assert found.losses == dict(shd=dict(beta=3)) and found.teacher == 't'
    assert (found.training.lr, found.training.steps, found.training.batch_size) == (2e-3, 9, 16)
    assert read_recipe(above, ['teacher=null', 'losses=null']).losses == {}


def test_a_teacher_of_another_schedule_is_refused(data, teacher, tmp_path):
    path = write_recipe(tmp_path / 'r.yaml', data, teacher=str(teacher), losses=dict(output={}))
    with pytest.raises(ConfigError, match=r'scheduler\.betas of the student'):
        build_distiller(read_recipe(path, ['scheduler.beta_end=0.1']))
    assert build_distiller(read_recipe(path)).teacher.config.num_attention_heads == 4


def test_a_student_starts_from_blocks_of_its_teacher(data, teacher, tmp_path):
    """Of the teacher's width; embeddings and the last layer are the teacher's as well."""
    path = write_recipe(tmp_path / 'r.yaml', data, heads=4, teacher=str(teacher))
    one = ['model.num_layers=1']
    made = build_distiller(read_recipe(path, [*one, 'model.initialise_from_teacher=[[1, 2]]']))
    student, source = made.student, made.teacher
    assert_close(
        student.transformer_blocks[0].state_dict(), source.transformer_blocks[1].state_dict(),
        rtol=0, atol=0,
    )  # fmt: skip
    assert torch.equal(student.proj_out_2.weight, source.proj_out_2.weight)
    assert not torch.equal(
        student.transformer_blocks[0].ff.net[2].weight,
        source.transformer_blocks[0].ff.net[2].weight,
    )
    whole = build_distiller(read_recipe(path, ['model.initialise_from_teacher=uniform']))
    x, t, y = torch.randn(2, 1, 28, 28), torch.tensor([3, 500]), torch.tensor([1, 10])
    with torch.no_grad():
        outputs = [m.eval()(x, t, y).sample for m in (whole.student, whole.teacher)]
    assert torch.equal(*outputs), 'all blocks make it the teacher'
    for change, message in (
        (['model.num_attention_heads=2'], 'the student has 2 heads a layer, the teacher 4'),
        (['model.attention_head_dim=8'], 'only parameters of one shape can be copied'),
        (['teacher=null'], "initialise_from_teacher='last' needs a teacher"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_distiller(read_recipe(path, ['model.initialise_from_teacher=last', *change]))


def test_state_of_another_recipe_is_refused(data, tmp_path):
    path = write_recipe(tmp_path / 'r.yaml', data)
    trainer = Trainer(read_recipe(path), tmp_path / 'o', cpu=True)
    trainer._resume()
    trainer._train_step()
    trainer._save_state()
    with pytest.raises(CheckpointError, match=r'does not fit this recipe .* remove it'):
        Trainer(read_recipe(path, ['model.num_layers=3']), tmp_path / 'o', cpu=True).run()


def test_a_model_is_loaded_as_it_was_saved(tmp_path):
    model = build_model(recipe('x')['model'])
    model.save_pretrained(tmp_path / 'transformer')
    loaded = load_model(tmp_path)
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
