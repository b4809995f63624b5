import pytest
from lab.study.stub import CONFIG

from shd_vit.errors import ConfigError
from shd_vit.lab.study.configs import resolve
from shd_vit.lab.study.plan import Row


def row(tmp_path, options, text=CONFIG):
    path = tmp_path / 'base.py'
    path.write_text(text)
    return Row('mine', str(path), options, (0,))


def test_options_are_put_in_one_after_the_other(tmp_path):
    cfg = resolve(
        row(
            tmp_path,
            {
                'behaviour.top1': 3,
                'schedulers.1.lr': 5,
                'behaviour.extra': {'type': 'SHDLoss'},
                'behaviour.extra.beta': 2,
                'new': [1],
            },
        )
    )
    assert (cfg.behaviour.top1, cfg.behaviour.fails) == (3, [])
    assert cfg.schedulers == [dict(lr=0.1), dict(lr=5)]
    assert cfg.behaviour.extra == dict(type='SHDLoss', beta=2)
    assert cfg.new == [1]


@pytest.mark.parametrize(
    'key, message',
    [
        ('behavior.top1', r"mine: option 'behavior.top1': '.*' has no behavior$"),
        ('behaviour.top1.value', r'behaviour.top1.value=1 does not fit'),
        ('schedulers.2.lr', r'has no schedulers\.2$'),
        ('schedulers.x.lr', r'has no schedulers\.x$'),
        ('schedulers.2', r'schedulers\.2=1 does not fit'),
    ],
)
def test_places_that_do_not_exist_are_refused(key, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as error:
        resolve(row(tmp_path, {key: 1}))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'text, message',
    [
        ('a = [', 'cannot be read: '),
        ('a = 1 / 0', 'cannot be read: ZeroDivisionError'),
        ("_base_ = 'gone.py'", 'cannot be read: '),
        ('val_dataloader = dict(a=1)', 'has no train_dataloader'),
        ('train_dataloader = dict(a=1)\nval_dataloader = None', 'has no val_dataloader'),
    ],
)
def test_configs_that_cannot_work_are_refused(text, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as error:
        resolve(row(tmp_path, {}, text))
    assert '\n' not in str(error.value)


def test_a_missing_config_is_named():
    with pytest.raises(ConfigError, match=r"mine: config 'no/such\.py' does not exist"):
        resolve(Row('mine', 'no/such.py', {}, (0,)))
