"""The order of events, with models of torch alone: no host takes part."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from shd_vit.distillation import Distillation, LossSchedule, Trainable, refuse_non_finite
from shd_vit.errors import ConfigError, NonFiniteLoss
from shd_vit.losses import FeatureProjectorLoss, KDLoss, NKDLoss, SHDLoss


class Encoder(nn.Module):
    """A classifier of token sequences (B, N, 8)."""

    num_prefix_tokens = 0

    def __init__(self, heads, classes=5, dropout=0.0):
        super().__init__()
        self.num_classes = classes
        width = 4 * heads
        self.embed = nn.Linear(8, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 2 * width, dropout, batch_first=True)
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(self.norm(x).mean(1))


def build(losses=None, schedules=None, student=None, teacher=None, seed=0):
    torch.manual_seed(seed)
    student, teacher = student or Encoder(2), teacher or Encoder(4, dropout=0.5)
    if losses is None:
        losses = dict(shd=SHDLoss(beta=2.0, compile=False), kd=KDLoss(temperature=2.0))
    return Distillation(losses, student.train(), teacher, schedules), student, teacher


def batch():
    torch.manual_seed(7)
    return torch.randn(3, 6, 8), torch.tensor([0, 1, 4])


def test_calling_and_listening_are_one():
    d, student, teacher = build()
    x, y = batch()
    taught, learned = d.record_teacher(teacher, x), d.record_student(student, x)
    expected = d.terms(learned, taught, y)
    with d.listening():
        with torch.no_grad():
            teacher_logits = teacher(x)
        logits = student(x)
    terms = d.terms(*d.heard(logits, teacher_logits), y)
    assert terms.keys() == {'shd', 'kd'}
    assert_close(terms, expected, rtol=0, atol=0)
    gradients = []
    for found in (expected, terms):
        student.zero_grad()
        sum(found.values()).backward()
        gradients.append([p.grad.clone() for p in student.parameters() if p.grad is not None])
    assert_close(*gradients, rtol=0, atol=0)
    assert sum(g.abs().sum() for g in gradients[0]) > 0


def test_the_terms_are_those_of_the_losses_alone():
    d, student, teacher = build()
    x, y = batch()
    p = (teacher(x) / 2).log_softmax(-1).double()
    q = (student(x) / 2).log_softmax(-1).double()
    kl = (p.exp() * (p - q)).sum(-1).mean() * 4
    terms = d.terms(d.record_student(student, x), d.record_teacher(teacher, x), y)
    assert_close(terms['kd'].double(), kl, rtol=1e-5, atol=1e-6)


def test_the_teacher_is_frozen_in_eval_and_without_grad():
    d, _, teacher = build()
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
    x, _ = batch()
    taught = d.record_teacher(teacher, x)
    assert not taught.logits.requires_grad
    assert_close(taught.logits, d.record_teacher(teacher, x).logits, rtol=0, atol=0)


def test_a_schedule_rests_the_teacher_and_leaves_a_gradient_of_zero():
    losses = dict(shd=SHDLoss(compile=False), feature=FeatureProjectorLoss(8, 16))
    d, student, teacher = build(losses, {n: LossSchedule(stop=1) for n in losses})
    x, y = batch()
    for record in (d.record_student, d.record_teacher):
        with pytest.raises(ConfigError, match=r'the schedule of shd would never be followed'):
            record(None, x)  # before a model is run
    d.schedules.set_epoch(0.5)
    terms = d.terms(d.record_student(student, x), d.record_teacher(teacher, x), y)
    assert min(terms.values()) > 0
    d.schedules.set_epoch(1)
    assert d.is_over and d.record_teacher(None) is None
    terms = d.terms(d.record_student(student, x), None, y)
    assert terms == dict(shd=0, feature=0)
    terms['feature'].backward()
    assert all(not p.grad.any() for p in d.losses.parameters())


def test_a_copy_shares_the_teacher_and_has_taps_and_losses_of_its_own():
    losses = dict(feature=FeatureProjectorLoss(8, 16))
    d, student, teacher = build(losses)
    trainable = Trainable(student, d)
    copied = copy.deepcopy(trainable)
    assert copied.distillation.teacher is d.teacher
    assert copied.distillation.losses is copied.losses is not d.losses
    assert {n.split('.')[0] for n in trainable.state_dict()} == {'student', 'losses'}
    x, y = batch()
    taught = d.record_teacher(teacher, x)
    with torch.no_grad():
        for p in copied.student.parameters():
            p.zero_()
    assert copied(x, taught, y)[1]['feature'] != trainable(x, taught, y)[1]['feature']


def test_weights_that_both_models_have_are_refused_by_name():
    student, teacher = Encoder(2), Encoder(2)
    student.blocks[1] = teacher.blocks[0]
    with pytest.raises(ConfigError, match=r"'blocks.1.self_attn.in_proj_weight' of the student.*"):
        build(student=student, teacher=teacher)
    assert all(p.requires_grad for p in student.parameters())
    with pytest.raises(ConfigError, match=r"'embed.weight' of the student is also 'embed.weight'"):
        build(student=teacher, teacher=teacher)


@pytest.mark.parametrize(('classes', 'shown'), [(7, '7'), (0, 'no classifier')])
def test_other_classes_are_refused_where_a_loss_reads_logits(classes, shown):
    teacher = Encoder(4, classes=max(classes, 1))
    teacher.num_classes = classes
    for losses in (dict(kd=KDLoss()), dict(shd=SHDLoss(), nkd=NKDLoss())):
        with pytest.raises(ConfigError, match=rf'student has 5 classes, the teacher {shown}: n?kd'):
            build(losses, teacher=teacher)
    d, student, _ = build(dict(shd=SHDLoss(compile=False)), teacher=teacher)
    x, _ = batch()
    assert d.terms(d.record_student(student, x), d.record_teacher(teacher, x), None)['shd'] > 0


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_a_teacher_in_half_precision_keeps_it_under_autocast(dtype):
    d, student, teacher = build(teacher=Encoder(4).to(dtype))
    x, y = batch()
    with torch.autocast('cpu', torch.bfloat16):
        taught = d.record_teacher(teacher, x.to(dtype))
        learned = d.record_student(student, x)
        terms = d.terms(learned, taught, y)
    assert taught.logits.dtype == dtype
    expected = teacher.float()(x.to(dtype).float())
    assert_close(taught.logits.float(), expected, rtol=0.05, atol=0.05)
    assert all(term.isfinite() for term in terms.values())


def test_what_is_not_finite_is_named():
    terms = dict(shd=torch.tensor(1.0), kd=torch.tensor(float('nan')), a=torch.tensor(torch.inf))
    with pytest.raises(NonFiniteLoss, match=r'^kd=nan, a=inf is not finite'):
        refuse_non_finite(sum(terms.values()), terms)
    big = torch.tensor(3e38)
    with pytest.raises(NonFiniteLoss, match=r'^the sum of losses'):
        refuse_non_finite(big + big, dict(a=big, b=big))
    refuse_non_finite(terms['shd'], terms)


def test_without_losses_nothing_is_taught():
    d, student, _ = build({})
    x, y = batch()
    assert d.record_teacher(None) is None
    assert d.terms(d.record_student(student, x), None, y) == {}
