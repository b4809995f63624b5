"""The two passes of MDTv2: same tokens for both models, and layers that can meet."""

import logging

import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn
from torch.testing import assert_close

from shd_vit.errors import ConfigError
from shd_vit.hosts.diffusers import DiffusionDistiller
from shd_vit.hosts.diffusers.mdt import MDTv2Model
from shd_vit.hosts.diffusers.mdt_passes import mdt_passes
from shd_vit.losses import SHDLoss
from shd_vit.pairing import ModelOutput
from shd_vit.taps import Anatomy, TapBank

SHD = dict(shd=dict(beta=2.0))


def mdt(heads=2, layers=6, decoder=4, seed=0):
    torch.manual_seed(seed)
    sizes = dict(num_layers=layers, decoder_layers=decoder, sample_size=8, num_embeds_ada_norm=3)
    model = MDTv2Model(num_attention_heads=heads, attention_head_dim=8, **sizes)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def distiller(student=None, teacher=None, **options):
    student, teacher = student or mdt(), teacher or mdt(4, 10, 2, seed=1)
    scheduler = DDPMScheduler(variance_type='learned_range')
    losses = dict(losses=SHD) | options
    passes = mdt_passes(student, teacher, **losses)
    return DiffusionDistiller(
        student, teacher, scheduler, losses['losses'], label_dropout=0.5, passes=passes
    )


def batch():
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(3)), torch.arange(3)


def test_both_models_see_the_same_in_each_pass_and_noise_is_fresh():
    step, seen = distiller(), []
    for model in (step.student, step.teacher):
        model.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append((*args, *kwargs.values())), with_kwargs=True
        )
    step(*batch())
    assert len(seen) == 4
    tensors = [[x for x in call if isinstance(x, torch.Tensor)] for call in seen]
    for one, other in (tensors[:2], tensors[2:]):
        assert len(one) == len(other)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert [len(call) for call in tensors] == [3, 3, 4, 4]  # kept tokens come last
    assert not torch.equal(tensors[0][0], tensors[2][0])
    assert torch.equal(tensors[0][1], tensors[2][1])  # the step's own timesteps


def test_terms_are_those_of_shd_on_what_each_pass_recorded():
    step, calls = distiller(), []
    step.student.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    terms = step(*batch()).terms
    assert set(terms) == {*('mse', 'vb', 'shd', 'masked_mse', 'masked_vb', 'masked_shd')}
    # Layers 1 and 2 of the student are its encoder, 3 its side block; 1 to 8 and 9 of the teacher.
    whole = [(1, 2), (2, 4), (4, 5), (5, 7), (6, 10), (7, 11)]
    masked = [(1, 4), (2, 8), (3, 9), (4, 10), (5, 10), (6, 11), (7, 11)]
    for name, pairs, call in zip(('shd', 'masked_shd'), (whole, masked), calls[:2], strict=True):
        assert_close(shd_of(step, pairs, *call), terms[name])


def shd_of(step, pairs, args, kwargs):
    """SHD of a call that both models get, by taps of its own."""
    loss = SHDLoss(beta=2.0, layers=pairs)
    models = step.student, step.teacher
    loss.bind(*(Anatomy(m, role) for m, role in zip(models, ('student', 'teacher'), strict=True)))
    outputs = []
    for model, layers in zip(models, zip(*pairs, strict=True), strict=True):
        bank = TapBank(model, sorted(set(layers)))
        outputs.append(ModelOutput.of(bank, model, *args, **kwargs))
        bank.close()
    return loss(*outputs, None).detach()


def test_the_log_says_which_rule_pairs_layers(caplog):
    with caplog.at_level(logging.INFO):
        mdt_passes(mdt(), mdt(4, 10, 2), SHD)
    assert 'shd, whole pass: 1<-2, 2<-4, 4<-5, 5<-7, 6<-10, 7<-11 (over all' in caplog.text
    assert 'shd, masked pass: 1<-4, 2<-8, 3<-9, 4<-10, 5<-10, 6<-11, 7<-11 (stage' in caplog.text


def test_a_step_reaches_every_parameter_of_the_student_and_none_of_the_teacher():
    step = distiller()
    step(*batch()).loss.backward()
    assert [n for n, p in step.student.named_parameters() if p.grad is None] == []
    assert all(p.grad is None for p in step.teacher.parameters())


def test_losses_may_differ_or_be_left_out_of_a_pass():
    torch.manual_seed(0)
    terms = distiller(losses=dict(kd=dict(type='OutputLoss')), masked_losses=SHD)(*batch()).terms
    assert {'kd', 'masked_shd'} < set(terms) and 'masked_kd' not in terms
    assert 'masked_shd' not in distiller(losses=SHD, masked_losses={})(*batch()).terms


def test_without_a_teacher_both_passes_train():
    student = mdt()
    step = DiffusionDistiller(
        student, None, DDPMScheduler(variance_type='learned_range'), passes=mdt_passes(student)
    )
    assert set(step(*batch()).terms) == {'mse', 'vb', 'masked_mse', 'masked_vb'}


def test_layers_that_see_other_tokens_are_refused():
    models = mdt(), mdt(4, 10, 2)
    side = dict(shd=dict(layers=[(7, 11), (4, 9)]))
    with pytest.raises(ConfigError, match=r'\(4, 9\): the side block does not run in the whole'):
        mdt_passes(*models, side, {})
    mdt_passes(*models, {}, side)  # where it runs, it sees all tokens
    with pytest.raises(ConfigError, match=r'\(4, 8\), decoder of the student and encoder_out of'):
        mdt_passes(*models, {}, dict(shd=dict(layers=[(4, 8)])))


def test_what_has_no_masks_or_no_settings_is_refused():
    with pytest.raises(ConfigError, match='the teacher is Linear'):
        mdt_passes(mdt(), nn.Linear(1, 1), SHD)
    with pytest.raises(ConfigError, match='each of the two passes builds its own'):
        mdt_passes(mdt(), mdt(), dict(shd=SHDLoss()))
    with pytest.raises(ConfigError, match=r'losses\.shd needs a teacher'):
        mdt_passes(mdt(), None, SHD)
    with pytest.raises(ConfigError, match='mask ratio'):
        mdt_passes(mdt(), ratio=(0.5, 1.0))
