"""What holds for every loss: its numbers are checked, NaN is never hidden, half precision works."""

import inspect
import math

import numpy as np
import pytest
import torch
from losses.taps import Model, attention, tokens
from torch.testing import assert_close

from shd_vit.distillation.registry import LOSSES
from shd_vit.errors import ConfigError
from shd_vit.losses import ModelOutput

CLASSES = LOSSES.classes
PROJECTED = ('FeatureProjectorLoss', 'VkDLoss', 'ViTKDLoss')
FIELDS = [
    (name, field)
    for name, cls in CLASSES.items()
    for field, parameter in inspect.signature(cls).parameters.items()
    if isinstance(parameter.default, float) or field in ('weight', 'beta')
]
NO_NUMBERS = [math.nan, math.inf, -1, -0.1, '1', True, [1.0], 10**400, 1j]
NO_NUMBERS += [np.float32('nan'), np.bool_(True), np.array([1.0]), torch.tensor(1.0)]


def build(name, **kwargs):
    if name == 'SHDLoss':
        kwargs.setdefault('compile', False)
    return CLASSES[name](**kwargs)


def bound(name, **kwargs):
    torch.manual_seed(1)
    loss = build(name, **kwargs)
    loss.needs = loss.bind(Model('student', dim=4, heads=2), Model('teacher', dim=6, heads=4))
    return loss


def outputs(seed=0, dtype=torch.float32):
    """Of a student and a teacher, with all that a loss may read."""
    torch.manual_seed(seed)
    pair = []
    for dim, heads in ((4, 2), (6, 4)):
        taps = {
            n: tap._replace(**{x: getattr(tap, x).detach().to(dtype) for x in TENSORS})
            for n, tap in attention(heads).attention.items()
        }
        made = {
            n: tap._replace(x=tap.x.detach().to(dtype)) for n, tap in tokens(dim).tokens.items()
        }
        pair.append(ModelOutput(torch.randn(3, 5).to(dtype), taps, made))
    return pair


TENSORS = ('q', 'k', 'v', 'out_proj')
TARGET = torch.tensor([4, 0, 2])


def value_of(loss, student, teacher):
    torch.manual_seed(2)  # ViTKD draws a mask
    return loss(student, teacher, TARGET)


def to(output, dtype):
    """All tensors of an output in another type."""
    taps = {
        n: tap._replace(**{name: getattr(tap, name).to(dtype) for name in TENSORS})
        for n, tap in output.attention.items()
    }
    made = {n: tap._replace(x=tap.x.to(dtype)) for n, tap in output.tokens.items()}
    return ModelOutput(output.logits.to(dtype), taps, made)


@pytest.mark.parametrize('name, field', FIELDS)
def test_what_is_no_finite_positive_number_is_named(name, field):
    for value in NO_NUMBERS:
        with pytest.raises(ConfigError) as caught:
            build(name, **{field: value})
        message = str(caught.value)
        assert message.startswith(f'{name}.{field}={value!r} must be a finite number')
        assert '\n' not in message


@pytest.mark.parametrize('name, field', FIELDS)
def test_numpys_numbers_become_plain_ones(name, field):
    for value in (np.float32(0.5), np.float64(0.5), 0.5):
        kept = getattr(build(name, **{field: value}), field)
        assert type(kept) is float and kept == 0.5
    kept = getattr(build(name, **{field: np.int64(1)}), field)
    assert type(kept) is int and kept == 1


@pytest.mark.parametrize('name', CLASSES)
def test_every_number_and_weight_is_among_them(name):
    assert (name, 'weight') in FIELDS
    loss = build(name, weight=0.25)
    assert loss.weight == 0.25 and 'weight=0.25' in repr(loss)
    assert build(name, weight=0).weight == 0


@pytest.mark.parametrize(
    'name, field, values, allowed',
    [
        *((name, 'temperature', [0], 'above 0') for name, f in FIELDS if f == 'temperature'),
        ('ViTKDLoss', 'mask_ratio', [0, 1.01], 'above 0 and at most 1'),
        *(
            (name, field, [0, -3, 4.0, '4', True], 'a whole number, above 0 (or None)')
            for name in PROJECTED
            for field in ('student_dims', 'teacher_dims')
        ),
    ],
)
def test_numbers_out_of_their_range_are_named(name, field, values, allowed):
    for value in values:
        with pytest.raises(ConfigError) as caught:
            build(name, **{field: value})
        assert str(caught.value).startswith(f'{name}.{field}={value!r} must be')
        assert str(caught.value).endswith(allowed)


def test_beta_is_another_name_of_shds_weight():
    for loss in (build('SHDLoss', beta=0.3), build('SHDLoss', weight=0.3)):
        assert loss.beta == loss.weight == 0.3
    loss.beta = 0.5
    assert loss.weight == 0.5
    with pytest.raises(ConfigError, match=r'beta=2.0 is another name of weight=1.0: give one'):
        build('SHDLoss', beta=2.0, weight=1.0)


@pytest.mark.parametrize('seed', [1.5, '1', True, -1, 2**63, math.nan])
def test_a_seed_that_is_none_is_named(seed):
    with pytest.raises(ConfigError, match=r'HardSelection\.seed=.* must be a whole number'):
        build('SHDLoss', strategy=dict(type='hard', seed=seed))


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(strategy=None), 'strategy=None is unknown; allowed are'),
        (dict(strategy=['hard']), r"strategy=\['hard'\] is unknown"),
        (dict(distance=['kl']), r"distance=\['kl'\] must be one of 'kl', 'mse'"),
        (dict(compile='no'), "compile='no' must be True, False or None"),
        (dict(layers=[(True, 1)]), r'layers=\[\(True, 1\)\] must be'),
        (dict(layers=np.array([[1, 2]])), r'layers=array.* must be'),
    ],
)
def test_options_of_other_types_are_named(kwargs, message):
    with pytest.raises(ConfigError, match=rf'{message}'):
        build('SHDLoss', **kwargs)


@pytest.mark.parametrize('name', CLASSES)
def test_the_weight_is_a_factor(name):
    once, thrice = (value_of(bound(name, weight=w), *outputs()) for w in (1.0, 3.0))
    assert once > 0
    assert_close(thrice, 3 * once)


@pytest.mark.parametrize('name', PROJECTED)
def test_widths_are_learned_and_stated_ones_build_the_same(name):
    learned, stated = bound(name), bound(name, student_dims=4, teacher_dims=6)
    assert list(learned.state_dict()) == list(stated.state_dict())
    assert_close(value_of(learned, *outputs()), value_of(stated, *outputs()), rtol=0, atol=0)
    again = bound(name)
    again.bind(Model('student', dim=5), Model('teacher', dim=7))  # nothing is left of the first
    with pytest.raises(ConfigError, match=rf'{name}\.student_dims=5, but the student is 4 wide'):
        bound(name, student_dims=5)


@pytest.mark.parametrize(
    'name', sorted(set(CLASSES) - {'KDLoss', 'NKDLoss', 'OutputLoss', 'SHDLoss'})
)
def test_a_loss_that_was_never_bound_says_so(name):
    with pytest.raises(ConfigError, match=f'{name} is not bound'):
        build(name)(*outputs(), TARGET)


@pytest.mark.parametrize('name', CLASSES)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_a_teacher_in_half_precision_teaches_the_same(name, dtype):
    """As the same numbers in float32 do, and so does a student whose outputs are in it."""
    loss = bound(name)
    student, teacher = outputs()
    rounded = to(teacher, dtype), to(to(teacher, dtype), torch.float32)
    value, expected = (value_of(loss, student, t) for t in rounded)
    assert value.dtype == torch.float32
    # Where products run on tensor cores, SHD's are of operands in half precision.
    assert_close(value, expected, rtol=1e-2 if name == 'SHDLoss' else 1e-6, atol=1e-7)
    assert_close(value, value_of(loss, student, teacher), rtol=0.1, atol=1e-3)
    rounded = to(student, dtype), to(to(student, dtype), torch.float32)
    value, expected = (value_of(loss, s, teacher) for s in rounded)
    assert value.dtype == torch.float32
    assert_close(value, expected, rtol=1e-2 if name == 'SHDLoss' else 1e-6, atol=1e-7)


@pytest.mark.parametrize('name', CLASSES)
@pytest.mark.parametrize('of', [0, 1], ids=['student', 'teacher'])
@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_one_number_that_is_not_finite_makes_the_loss_so(name, of, bad):
    """Of all that the loss reads; a random mask of ViTKD hides none."""
    loss = bound(name)
    needs = loss.needs[of]
    assert value_of(loss, *outputs()).isfinite()
    places = [('attention', n, x) for n in needs.attention for x in ('q', 'k')]
    places += [('tokens', n, 'x') for n in needs.tokens]
    if needs.logits and math.isnan(bad):
        places += [('logits', None, n) for n in range(15)]
    for kind, layer, what in places:
        for position in [None] if kind == 'logits' else [0, -1]:
            broken = outputs()
            if kind == 'logits':
                broken[of].logits.view(-1)[what] = bad
            else:
                getattr(getattr(broken[of], kind)[layer], what).view(-1)[position and -2] = bad
                if name in ('VkDLoss', 'ViTKDLoss') and position == 0:
                    continue  # a class token, which they do not read
            assert not value_of(loss, *broken).isfinite(), (kind, layer, what, position)


def test_vitkd_shows_a_nan_of_the_student_at_any_patch():
    loss = bound('ViTKDLoss')
    for patch in range(1, 10):
        broken = outputs()
        broken[0].tokens['final'].x[1, patch, 2] = math.nan
        assert not value_of(loss, *broken).isfinite()


@pytest.mark.parametrize('name', ['SHDLoss', 'AttentionTransferLoss'])
@pytest.mark.parametrize('of', [0, 1], ids=['student', 'teacher'])
def test_a_bias_of_nan_is_not_taken_for_padding(name, of):
    loss = bound(name)
    for part in ((), (0,), (slice(None), slice(None), 2)):
        broken = outputs()
        bias = torch.zeros(3, 1, 5, 5)
        bias[part] = math.nan
        broken[of].attention[1] = broken[of].attention[1]._replace(bias=bias)
        assert value_of(loss, *broken).isnan()


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted(set(CLASSES) - {'SHDLoss'}))
def test_traced_whole_it_is_the_same(name, monkeypatch):
    """torch.compile of a step finds no branch on a value in it."""
    loss = bound(name)
    expected = value_of(loss, *outputs())
    monkeypatch.delenv('TORCHDYNAMO_DISABLE', raising=False)  # as the suite sets it
    torch._dynamo.reset()
    with torch._dynamo.config.patch(disable=False):
        traced = torch.compile(loss, backend='eager', fullgraph=True)
        assert_close(value_of(traced, *outputs()), expected)
