import math

import pytest
import references
import torch
from losses.taps import Model
from torch.testing import assert_close

from shd_vit.errors import ConfigError
from shd_vit.functional import kd_loss
from shd_vit.losses import KDLoss, ModelOutput, NKDLoss

BOTH = pytest.mark.parametrize('cls', [KDLoss, NKDLoss])


def output(*shape):
    return ModelOutput(torch.randn(*shape), {}, {})


def test_weights_and_mixed_targets():
    s, t = (ModelOutput(torch.randn(4, 6), {}, {}) for _ in range(2))
    mixed = torch.rand(4, 6).softmax(1)
    expected = 0.3 * references.nkd(s.logits, t.logits, mixed.argmax(1), 1.2, 2.0)
    value = NKDLoss(gamma=1.2, temperature=2.0, weight=0.3)(s, t, mixed)
    assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    value = KDLoss(weight=0.3, temperature=2.0)(s, t, mixed)
    assert_close(value, 0.3 * kd_loss(s.logits, t.logits, 2.0))


@BOTH
def test_temperature_must_be_positive(cls):
    with pytest.raises(ConfigError, match=f'{cls.__name__}.temperature=0'):
        cls(temperature=0)


@BOTH
def test_it_says_that_it_reads_logits(cls):
    for needs in cls().bind(Model('student'), Model('teacher')):
        assert needs.logits and not needs.attention and not needs.tokens


@BOTH
def test_the_teacher_gets_no_gradient(cls):
    s, t = (ModelOutput(torch.randn(4, 6, requires_grad=True), {}, {}) for _ in range(2))
    cls()(s, t, torch.arange(4)).backward()
    assert s.logits.grad.abs().sum() > 0 and t.logits.grad is None


@BOTH
@pytest.mark.parametrize(
    'student, teacher, message',
    [
        ((4, 6), (4, 1), 'the student has 6 logits a row, the teacher 1'),
        ((4, 1), (4, 6), 'the student has 1 logits a row, the teacher 6'),
        ((4, 6), (4, 5), 'the student has 6 logits a row, the teacher 5'),
        ((4, 6), (3, 6), 'the student predicts 4 rows, the teacher 3'),
        ((4, 1), (4, 1), 'student and teacher have 1 logit a row'),
        ((4, 7, 6), (4, 7, 6), r'logits of the student are \(4, 7, 6\), but must be \(R, C\)'),
        ((4, 6), (4, 7, 6), r'logits of the teacher are \(4, 7, 6\), but must be \(R, C\)'),
        ((6,), (6,), r'logits of the student are \(6,\), but must be \(R, C\)'),
        ((4, 6, 2, 2), (4, 6, 2, 2), r'logits of the student are \(4, 6, 2, 2\)'),
    ],
)
def test_other_shapes_are_refused_by_name(cls, student, teacher, message):
    with pytest.raises(ConfigError, match=message) as caught:
        cls()(output(*student), output(*teacher), torch.arange(4))
    assert '\n' not in str(caught.value)


@BOTH
def test_what_is_no_tensor_is_refused_by_name(cls):
    features = ModelOutput((torch.randn(4, 6),), {}, {})
    with pytest.raises(ConfigError, match='logits of the teacher are a tuple, not a tensor'):
        cls()(output(4, 6), features, torch.arange(4))


@BOTH
@pytest.mark.parametrize(
    'target, message',
    [
        (torch.tensor([0, 9, 6, 1]), 'label 9 of sample 1 is none of the 6 classes, 0 to 5'),
        (torch.tensor([0, 1, -100, 1]), 'label -100 of sample 2 is none of the 6 classes'),
        (torch.tensor([0.0, 1, 2, 3]), r'target is \(4,\) of torch.float32, but must be class'),
        (torch.tensor([True] * 4), r'target is \(4,\) of torch.bool'),
        (torch.arange(3), r'target is \(3,\) of torch.int64, .* indices \(4,\) or scores \(4, 6\)'),
        (torch.zeros(4, 1).long(), r'target is \(4, 1\) of torch.int64'),
        (torch.rand(4, 5).softmax(1), r'target is \(4, 5\) of torch.float32'),
        (torch.tensor([[1.0, 0] * 3] * 4), 'scores of sample 0 sum to 3, but those of one'),
        (torch.eye(6)[:4] * torch.tensor([[1], [1], [0], [1]]), 'scores of sample 2 sum to 0'),
        (torch.eye(6)[:4] * math.nan, 'scores of sample 0 sum to nan'),
        (torch.tensor([[1, 1, 0, 0, 0, 0]] * 4), 'scores of sample 0 sum to 2'),
    ],
)
def test_targets_that_are_not_one_label_a_row_are_refused(cls, target, message):
    with pytest.raises(ConfigError, match=message) as caught:
        cls()(output(4, 6), output(4, 6), target)
    assert '\n' not in str(caught.value)


def test_kd_goes_without_labels_and_nkd_does_not():
    pair = output(4, 6), output(4, 6)
    assert KDLoss()(*pair, None) > 0
    with pytest.raises(ConfigError, match='target is a NoneType, not a tensor of labels'):
        NKDLoss()(*pair, None)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_mixed_and_smoothed_labels_pass_in_any_precision(dtype):
    mixed = torch.full((4, 1000), 0.1 / 1000)
    mixed[:, 3] += 0.63
    mixed[:, 7] += 0.27
    pair = output(4, 1000), output(4, 1000)
    value = NKDLoss()(*pair, mixed.to(dtype))
    assert_close(value, NKDLoss()(*pair, torch.full((4,), 3)), rtol=0, atol=0)
    assert NKDLoss()(*pair, torch.full((4,), 3, dtype=torch.uint8)) == value


def test_scores_whose_sums_are_not_looked_at_give_nan(monkeypatch):
    """As on a GPU after the first batch, where looking would wait for it."""
    pair = output(4, 6), output(4, 6)
    monkeypatch.setattr(torch.compiler, 'is_compiling', lambda: True)
    assert NKDLoss()(*pair, torch.tensor([[1.0, 0] * 3] * 4)).isnan()
    assert NKDLoss()(*pair, torch.eye(6)[:4]).isfinite()


@BOTH
def test_a_batch_without_rows_costs_nothing(cls):
    s = ModelOutput(torch.randn(0, 6, requires_grad=True), {}, {})
    value = cls()(s, output(0, 6), torch.zeros(0, dtype=torch.long))
    value.backward()
    assert value == 0


def test_a_row_is_a_prediction():
    """Positions of a language model, laid out as rows: the KL of a token, not of a sequence."""
    s, t = torch.randn(2, 2, 7, 5, dtype=torch.float64)
    expected = 0.0
    for b in range(2):
        for n in range(7):
            p, q = t[b, n].softmax(0), s[b, n].softmax(0)
            expected += (p * (p / q).log()).sum().item() / 14
    rows = (ModelOutput(x.flatten(0, 1), {}, {}) for x in (s, t))
    assert_close(KDLoss()(*rows, None).item(), expected)


def test_kd_sums_over_the_rows_of_a_sequence():
    """Of six predictions from two sequences; of a classifier each row is one."""
    s, t = output(6, 5)._replace(sequences=2), output(6, 5)
    mean = KDLoss()(s, t, None)
    assert_close(KDLoss(reduction='sequences')(s, t, None), mean * 3)
    classified = s._replace(sequences=None)
    assert_close(KDLoss(reduction='sequences')(classified, t, None), mean)
    with pytest.raises(ConfigError, match=r"KDLoss.reduction='sum' must be 'rows' or 'sequences'"):
        KDLoss(reduction='sum')


@pytest.mark.parametrize('divergence', ['reverse', 'jsd'])
@pytest.mark.parametrize('reduction, times', [('rows', 1), ('sequences', 3)])
def test_kd_by_another_divergence_in_both_reductions(divergence, reduction, times):
    s, t = output(6, 5)._replace(sequences=2), output(6, 5)
    loss = KDLoss(0.5, temperature=2.0, reduction=reduction, divergence=divergence)
    expected = 0.5 * times * kd_loss(s.logits, t.logits, 2.0, divergence)
    assert_close(loss(s, t, None), expected)
    assert not torch.isclose(expected, 0.5 * times * kd_loss(s.logits, t.logits, 2.0))


def test_an_unknown_divergence_is_refused():
    with pytest.raises(ConfigError, match=r"KDLoss\.divergence='js' must be one of forward, rev"):
        KDLoss(divergence='js')
