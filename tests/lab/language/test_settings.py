"""Settings of a training: merged as written, refused by name."""

import pytest
import yaml

from shd_vit.errors import ConfigError
from shd_vit.lab.language.settings import read_settings
from shd_vit.lab.settings import merge

GOOD = dict(
    model=dict(type='LlamaConfig', hidden_size=16),
    text=dict(folder='text', length=8),
    arguments=dict(output_dir='out', learning_rate=0.1),
)


def write(path, values):
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return path


def test_a_file_stands_over_its_bases_and_under_the_command_line(tmp_path):
    (tmp_path / 'below').mkdir()
    write(tmp_path / 'below/a.yaml', GOOD | dict(losses=dict(kd=True, shd=dict(beta=1.0))))
    write(
        tmp_path / 'below/b.yaml',
        'base: a.yaml\nlosses: {shd: {temperature: 2.0}}\nteachers: [t]\narguments: {seed: 3}',
    )
    path = write(
        tmp_path / 'c.yaml',
        'base: below/b.yaml\nlosses: {kd: null}\narguments: {learning_rate: 1e-3}',
    )
    settings = read_settings(path, ['losses.shd.beta=5e-1', 'schedules.shd.stop=2', 'teachers=[u]'])
    assert settings.losses == dict(shd=dict(beta=0.5, temperature=2.0))
    assert settings.arguments == dict(output_dir='out', learning_rate=0.001, seed=3)
    assert settings.schedules == dict(shd=dict(stop=2))
    assert settings.teachers == ['u'] and settings.model == GOOD['model']
    without = read_settings(path, ['losses.shd=null', 'losses.shd.beta=2', 'losses.fd=true'])
    assert without.losses == dict(shd=dict(beta=2), fd=True)
    assert read_settings(path, ['losses=null']).losses == {}


def test_merging_leaves_both_as_they_are():
    below, above = dict(a=dict(b=1)), dict(a=dict(c=2), d=None)
    assert merge(below, above) == dict(a=dict(b=1, c=2))
    assert below == dict(a=dict(b=1)) and above == dict(a=dict(c=2), d=None)


@pytest.mark.parametrize(
    'changes, message',
    [
        (
            ['textt.length=3'],
            r'^textt is unknown; allowed are model, .*; did you mean text\?$',
        ),
        (['text.lenght=3'], r'^text.lenght is unknown; allowed are .*did you mean length\?'),
        (['text=null'], r'^give text or instructions: what is trained on'),
        (['text=null', 'instructions.test=a'], r'^instructions.test is unknown; allowed are train'),
        (['text=null', 'instructions.validation=a'], r'^instructions.train is missing'),
        (['text.folder=null'], r'^text.folder is missing'),
        (['model=null'], r' has no model$'),
        (['model=3'], r'^model=3 must be a path or a mapping'),
        (['arguments=null'], r' has no arguments$'),
        (['arguments=fast'], r"^arguments='fast' must be a mapping"),
        (['losses=[kd]'], r"^losses=\['kd'\] must be a mapping"),
        (['teachers=a'], r"^teachers='a' must be a list of paths"),
        (['schedules.shd.stop=3'], r'^schedules has no effect without losses'),
        (['task_loss_weight=0.5'], r'^task_loss_weight has no effect without losses'),
        (['attention_teacher=0'], r'^attention_teacher has no effect without losses'),
        (['losses.shd'], r"^'losses.shd' must be KEY=VALUE"),
        (['.a=3'], r"^'.a=3' must be KEY=VALUE"),
        (['a={'], r"^'\{' is no value of YAML"),
    ],
)
def test_mistakes_are_one_line(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        read_settings(write(tmp_path / 'a.yaml', GOOD), changes)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'text, message',
    [
        ('[1]', r"^config '.*a.yaml' must define a model and arguments"),
        ('a: 1\na: 2', r"^config '.*a.yaml': line 2: 'a' is defined twice"),
        ('base: gone.yaml', r"^config '.*gone.yaml': expected a .yaml"),
        ('base: a.yaml', r"base='a.yaml' must be a file, and no circle"),
        ('base: [a]', r"base=\['a'\] must be a file"),
    ],
)
def test_files_that_cannot_be_read_are_one_line(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as error:
        read_settings(write(tmp_path / 'a.yaml', text))
    assert '\n' not in str(error.value)
