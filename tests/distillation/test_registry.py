import pytest
from mmpretrain.registry import MODELS

import shd_vit.hosts.mmpretrain  # noqa: F401 - registers them there
from shd_vit import losses
from shd_vit.distillation.registry import LOSSES, LossRegistry
from shd_vit.errors import ConfigError
from shd_vit.losses import DistillationLoss, KDLoss, SHDLoss


def test_every_loss_has_a_short_name_and_is_mmpretrains():
    ours = {
        name
        for name in losses.__all__
        if isinstance(cls := getattr(losses, name), type) and issubclass(cls, DistillationLoss)
    }
    assert set(LOSSES.short.values()) == ours - {'DistillationLoss'}
    assert set(LOSSES.classes) >= set(LOSSES.short.values())
    for short, name in LOSSES.short.items():
        assert LOSSES.get(short) is LOSSES.get(name) is MODELS.get(name) is getattr(losses, name)


@pytest.mark.parametrize('kind', ['KDLoss', 'kd', KDLoss])
def test_built_by_long_name_short_name_or_class(kind):
    cfg = dict(type=kind, weight=0.5, temperature=2.0)
    loss = LOSSES.build(cfg)
    assert type(loss) is KDLoss and (loss.weight, loss.temperature) == (0.5, 2.0)
    assert cfg['type'] == kind  # a config is not used up
    assert type(LOSSES.build(kind)) is KDLoss


@pytest.mark.parametrize(
    'cfg, message',
    [
        (
            dict(type='SDHLoss'),
            r"losses: type='SDHLoss'; allowed types are Att",
        ),
        (dict(type='SDHLoss'), r'did you mean SHDLoss\?$'),
        ('vitdk', r"type='vitdk'; .* did you mean vitkd\?$"),
        (dict(weight=1), r'losses: type=None; allowed types are'),
        (dict(type=['kd']), r"type=\['kd'\]; allowed"),
        (None, r'type=None; allowed'),
        (dict(type=int), r"type=<class 'int'>; allowed"),
        (
            dict(type='kd', temprature=2),
            r'losses\.temprature is unknown to KDLoss; allowed are',
        ),
        (dict(type='kd', temprature=2), r'did you mean temperature\?$'),
        (dict(type='kd', weight=-1), r'^KDLoss\.weight=-1 must be'),
    ],
)
def test_what_cannot_be_built_is_named_in_one_line(cfg, message):
    with pytest.raises(ConfigError, match=message) as caught:
        LOSSES.build(cfg)
    assert '\n' not in str(caught.value)


def test_the_field_is_named():
    with pytest.raises(ConfigError, match=r'^model\.losses\.x: type='):
        LOSSES.build(dict(type='none of them'), 'model.losses.x')


def test_a_loss_of_ones_own():
    registry = LossRegistry()

    @registry.register('mine')
    class MyLoss(DistillationLoss):
        def __init__(self, factor, **kwargs):
            super().__init__()
            self.factor, self.more = factor, kwargs

    @registry.register()
    class Nameless(SHDLoss):
        pass

    assert registry.build(dict(type='mine', factor=3, more=1)).more == dict(more=1)
    assert type(registry.build('Nameless')) is Nameless
    with pytest.raises(ConfigError, match="x: MyLoss: missing a required argument: 'factor'"):
        registry.build('mine', 'x')
    for cls, short in ((MyLoss, None), (KDLoss, 'mine'), (KDLoss, 'MyLoss'), (int, 'x')):
        with pytest.raises(ValueError, match=r'registered already|must be a subclass'):
            registry.register(short)(cls)
    assert registry.get('KDLoss') is None  # nothing is left of what was refused
    taken = []
    registry.follow(taken.append)
    assert registry.register()(KDLoss) is KDLoss
    assert taken == [MyLoss, Nameless, KDLoss]
