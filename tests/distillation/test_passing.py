"""Pairs that are counted while the teacher runs: the same numbers, from less memory."""

import copy
from contextlib import nullcontext

import pytest
import timm
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.testing import assert_close

from shd_vit.distillation import Distillation, LossSchedule, Trainable
from shd_vit.errors import ConfigError
from shd_vit.losses import (
    AttentionTransferLoss,
    DistillationLoss,
    FeatureProjectorLoss,
    KDLoss,
    SHDLoss,
)
from shd_vit.pairing import Needs

DEPTH = 4


def vit(heads, depth=DEPTH, seed=0):
    torch.manual_seed(seed)
    return timm.create_model(
        'vit_tiny_patch16_224',
        **dict(img_size=32, patch_size=8, embed_dim=16 * heads, num_heads=heads, depth=depth),
        num_classes=5,
    )


def batch():
    torch.manual_seed(3)
    return torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 4])


def shd(**kwargs):
    return SHDLoss(backend='torch', **kwargs)


def losses():
    return dict(
        shd=shd(beta=2.0),
        maps=AttentionTransferLoss(layers=[(1, 2), (2, 2)]),
        feature=FeatureProjectorLoss(32, 64),
        kd=KDLoss(),
    )


def build(chosen=None, student=None, teacher=None, **kwargs):
    chosen = losses() if chosen is None else chosen
    student, teacher = student or vit(2, 2), teacher or vit(4, seed=1)
    return Distillation(chosen, student.train(), teacher, **kwargs), student, teacher


def both(d, student, teacher, target, images=None):
    """Terms and gradients, of the teacher first and of the student first."""
    found = []
    for is_passing in (False, True):
        student.zero_grad()
        images = batch()[0] if images is None else images
        if is_passing:
            terms = d.teach(d.record_student(student, images), target, teacher, images)
        else:
            taught = d.record_teacher(teacher, images)
            terms = d.terms(d.record_student(student, images), taught, target)
        sum(terms.values()).backward()
        gradients = {n: p.grad for n, p in student.named_parameters() if p.grad is not None}
        found.append(({n: t.detach() for n, t in terms.items()}, copy.deepcopy(gradients)))
    return found


def test_terms_and_gradients_are_those_of_a_teacher_that_is_run_first():
    d, student, teacher = build()
    (terms, gradients), (passed, passed_gradients) = both(d, student, teacher, batch()[1])
    assert terms.keys() == losses().keys() and min(terms.values()) > 0
    assert_close(passed, terms, rtol=0, atol=0)
    assert_close(passed_gradients, gradients, rtol=0, atol=0)
    assert gradients['blocks.0.attn.qkv.weight'].abs().sum() > 0


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_losses_run_under_the_autocast_of_the_step_not_of_the_teacher(dtype):
    d, student, teacher = build(
        dict(shd=shd(), maps=AttentionTransferLoss()), teacher=vit(4).to(dtype)
    )
    images = batch()[0]
    with torch.autocast('cpu', torch.bfloat16):
        taught = d.record_teacher(teacher, images.to(dtype))
        expected = d.terms(d.record_student(student, images), taught, None)
        learned = d.record_student(student, images)
        assert_close(d.teach(learned, None, teacher, images.to(dtype)), expected, rtol=0, atol=0)


def alive_at_each_layer(teacher):
    """How many layers' queries, keys and values are in memory when a block has run."""
    storages, alive = [], []
    for block in teacher.blocks:
        block.attn.qkv.register_forward_hook(
            lambda module, args, output: storages.append(StorageWeakRef(output.untyped_storage()))
        )
        block.register_forward_hook(
            lambda *_: alive.append(sum(not storage.expired() for storage in storages))
        )
    return alive


def test_no_layer_of_the_teacher_is_kept():
    everything = dict(layers=[(1, 1), (1, 2), (2, 3), (2, 4)])
    d, student, teacher = build(dict(shd=shd(**everything)))
    alive, images = alive_at_each_layer(teacher), batch()[0]
    learned = d.record_student(student, images)
    terms = d.teach(learned, None, teacher, images)
    assert alive == [0, 0, 0, 0]
    alive.clear()
    taught = d.record_teacher(teacher, images)
    assert alive == [1, 2, 3, 4] and len(taught.attention) == 4
    terms['shd'].backward()


class ReadsMore(DistillationLoss):
    """A loss of maps and logits."""

    def bind(self, student, teacher):
        return Needs(), Needs(attention=(2,), logits=True)

    def forward(self, student, teacher, target):
        self.seen = sorted(teacher.attention)
        return student.logits.mean() * teacher.attention[2].q.mean() * teacher.logits.mean()


class Doubled(SHDLoss):
    """A loss of a user, with something of its own in forward."""

    def forward(self, student, teacher, target):
        return 2 * super().forward(student, teacher, target)


def test_what_another_loss_reads_is_kept_for_it():
    more = ReadsMore()
    d, student, teacher = build(dict(shd=shd(), more=more))
    (terms, _), (passed, _) = both(d, student, teacher, batch()[1])
    assert_close(passed, terms, rtol=0, atol=0)
    assert more.seen == [2]
    alive, images = alive_at_each_layer(teacher), batch()[0]
    d.teach(d.record_student(student, images), None, teacher, images)
    assert alive == [0, 1, 1, 1]


def test_a_loss_with_a_forward_of_its_own_is_called_by_it():
    d, student, teacher = build(dict(shd=shd(), twice=Doubled(backend='torch')))
    (terms, gradients), (passed, passed_gradients) = both(d, student, teacher, None)
    assert_close(passed['twice'], 2 * passed['shd'])
    assert_close(passed, terms, rtol=0, atol=0)
    assert_close(passed_gradients, gradients, rtol=0, atol=0)


def test_schedules_hold_and_a_loss_that_is_over_reads_nothing():
    d, student, teacher = build(
        dict(shd=shd(), maps=AttentionTransferLoss()),
        schedules=dict(shd=LossSchedule(stop=1), maps=LossSchedule(warm_up=4, stop=4)),
    )
    images, _ = batch()
    with pytest.raises(ConfigError, match='the schedule of shd would never be followed'):
        d.teach(None, None, teacher, images)
    d.schedules.set_epoch(2)
    d.losses['shd'].of_pair = None
    terms = d.teach(d.record_student(student, images), None, teacher, images)
    whole = AttentionTransferLoss()
    whole.bind(d.student_bank.anatomy, d.teacher.bank.anatomy)
    expected = whole(d.record_student(student, images), d.teacher(teacher, images), None)
    assert terms['shd'] == 0
    assert_close(terms['maps'], expected / 2)
    d.schedules.set_epoch(4)
    terms = d.teach(d.record_student(student, images), None, None)  # nobody is called
    assert terms == dict(shd=0, maps=0)


def test_a_loss_that_has_yet_to_see_images_says_so():
    d, student, teacher = build(dict(shd=shd(strategy='head_matching')))
    images, _ = batch()
    with pytest.raises(ConfigError, match='must see training images first'):
        d.teach(d.record_student(student, images), None, teacher, images)
    d.settle([d.teacher(teacher, images)])
    (terms, _), (passed, _) = both(d, student, teacher, None)
    assert_close(passed, terms, rtol=0, atol=0)


def test_what_a_loss_raises_comes_through_and_the_next_step_runs():
    d, student, teacher = build(dict(shd=shd()))
    images, _ = batch()
    learned = d.record_student(student, images)
    other = torch.randn(3, 3, 32, 32)[:1]  # another batch
    with pytest.raises(ConfigError, match='3 windows in student layer 1, 1 windows'):
        d.teach(learned, None, teacher, other)
    assert not any(block.attn._forward_hooks for block in teacher.blocks)
    (terms, _), (passed, _) = both(d, student, teacher, None)
    assert_close(passed, terms, rtol=0, atol=0)


@pytest.mark.parametrize('is_first_run_before', [False, True])
def test_a_compiled_teacher_leaves_all_to_the_end(is_first_run_before, dynamo):
    d, student, teacher = build(dict(shd=shd(), kd=KDLoss()))
    compiled = torch.compile(teacher, backend='eager')
    images, labels = batch()
    if is_first_run_before:
        d.record_teacher(compiled, images)  # compiled without readers
    for run in (compiled, teacher, compiled):
        learned = d.record_student(student, images)
        passed = d.teach(learned, labels, run, images)
        expected = d.terms(learned, d.record_teacher(teacher, images), labels)
        assert_close(passed, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('autocast', [False, True])
def test_one_module_of_student_and_losses_takes_the_teachers_call(autocast):
    d, student, teacher = build()
    trainable, (images, labels) = Trainable(student, d), batch()
    with torch.autocast('cpu', torch.bfloat16) if autocast else nullcontext():
        logits, terms = trainable(images, teacher, labels)
        expected = trainable(images, d.record_teacher(teacher, images), labels)
    assert_close((logits, terms), expected, rtol=0, atol=0)


def test_weights_that_are_offloaded_stop_nothing():
    """As accelerate keeps them: on the meta device until their layer runs."""
    teacher = vit(4, seed=1).to(torch.float16)
    weight = teacher.patch_embed.proj.weight
    teacher.patch_embed.proj.weight = torch.nn.Parameter(weight.to('meta'), requires_grad=False)

    def fetch(module, args):
        module.weight = weight

    teacher.patch_embed.proj.register_forward_pre_hook(fetch)
    d, student, _ = build(dict(shd=shd()), teacher=teacher)
    images = batch()[0]
    term = d.teach(d.record_student(student, images), None, teacher, images.half())['shd']
    assert term.isfinite() and term > 0
