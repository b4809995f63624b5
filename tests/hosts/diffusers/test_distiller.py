"""One denoising step: what both models are given, what is learned, and what is refused."""

import copy
import math
from functools import partial

import pytest
import torch
from diffusers import DDPMScheduler, PixArtTransformer2DModel
from diffusers.training_utils import EMAModel
from hosts.diffusers.dits import SHD, batch, ddpm, dit
from references import attention_kl, softmax_maps, squeeze_heads
from torch import nn
from torch.testing import assert_close

from shd_vit.errors import ConfigError, NonFiniteLoss, UnsupportedAttention
from shd_vit.hosts.diffusers import DiffusionDistiller, Pass
from shd_vit.hosts.diffusers.passes import call_model
from shd_vit.losses import OutputLoss, SHDLoss


class Spy:
    """A call that keeps what each model was given."""

    def __init__(self):
        self.given = []

    def __call__(self, model, noisy, timesteps, labels, **more):
        self.given.append((model, noisy.clone(), timesteps, labels, more))
        return call_model(model, noisy, timesteps, labels)


def pair(losses=None, *, student=None, teacher=None, scheduler=None, **kwargs):
    student, teacher = student or dit(2, 2), teacher or dit(4, 4, seed=1)
    losses = dict(shd=SHD, output=True) if losses is None else losses
    return DiffusionDistiller(student, teacher, scheduler or ddpm(), losses, **kwargs)


def test_both_models_get_the_same_noise_timesteps_and_dropped_labels():
    spy = Spy()
    distiller = pair(label_dropout=0.5, call=spy)
    latents, labels = batch(64)
    distiller(latents, labels)
    (first, *given), (second, *same) = spy.given
    assert (first, second) == (distiller.student, distiller.teacher)
    for ours, theirs in zip(given[:3], same[:3], strict=True):
        assert torch.equal(ours, theirs)
    dropped = given[2] == 5
    assert 20 < dropped.sum() < 44 and torch.equal(given[2][~dropped], labels[~dropped])
    assert given[1].unique().numel() > 50


def test_diffusers_own_label_dropout_would_be_another_in_every_block_and_is_off():
    """The trap: in training, DiT's blocks each drop labels by their own draw."""

    def embedded(model):
        """Whether each block saw the null class, by block (and the head) and sample."""
        seen = []
        handles = [
            block.norm1.emb.class_embedder.embedding_table.register_forward_pre_hook(
                lambda module, args: seen.append(args[0] == 5)
            )
            for block in model.transformer_blocks
        ]
        return seen, handles

    torch.manual_seed(0)
    latents, labels = batch(200)
    student = dit(2, 4).train()
    seen, _ = embedded(student)
    call_model(student, latents, torch.zeros(200).long(), labels)
    assert any(not torch.equal(seen[0], block) for block in seen[1:])  # that is how it is built

    seen.clear()
    pair(student=student, label_dropout=0.1).train()(latents, labels)
    assert len(seen) == 5 and all(torch.equal(seen[0], block) for block in seen[1:])
    assert 8 <= seen[0].sum() <= 35
    seen.clear()
    pair(student=dit(2, 4), label_dropout=0.0).train()(latents, labels)
    alone = dit(2, 4)
    seen, _ = embedded(alone)
    pair(student=alone, label_dropout=0.0).train()(latents, labels)
    assert not torch.stack(seen).any()


def keep(found, at, module, args, output):
    found[at] = output


@torch.no_grad()
def test_the_terms_are_what_they_say():
    distiller = pair(
        dict(shd=dict(SHD, beta=2.0), kd=dict(type='OutputLoss', weight=0.5)), label_dropout=0.0
    )
    latents, labels = batch()
    t, noise = torch.tensor([0, 10, 900]), torch.randn_like(latents)
    step = distiller(latents, labels, timesteps=t, noises=[noise])
    noisy = ddpm().add_noise(latents, noise, t)
    outputs, taps = [], []
    for model in (distiller.student, distiller.teacher):
        inner, handles = {}, []
        for number, block in enumerate(model.transformer_blocks):
            for name in ('to_q', 'to_k', 'to_v'):
                hook = partial(keep, inner, (number, name))
                handles.append(getattr(block.attn1, name).register_forward_hook(hook))
        outputs.append(call_model(model, noisy, t, labels))
        for handle in handles:
            handle.remove()
        heads = model.config.num_attention_heads
        taps.append({at: x.unflatten(-1, (heads, 8)).transpose(1, 2) for at, x in inner.items()})
    learned, taught = (output[:, :2] for output in outputs)
    shd = 0.0
    for student, teacher in ((0, 1), (1, 3)):
        q, k, v = (taps[1][teacher, name] for name in ('to_q', 'to_k', 'to_v'))
        out = distiller.teacher.transformer_blocks[teacher].attn1.to_out[0].weight
        target, _ = squeeze_heads(softmax_maps(q, k, 8**-0.5), v, out, 2)
        q, k = taps[0][student, 'to_q'], taps[0][student, 'to_k']
        shd = shd + attention_kl(q, k, target, 8**-0.5)
    assert_close(step.terms['mse'], (learned - noise).square().mean())
    assert_close(step.terms['kd'], 0.5 * (learned - taught).square().mean())
    assert_close(step.terms['shd'].double(), 2.0 * shd, rtol=1e-4, atol=1e-6)
    assert list(step.terms) == ['mse', 'vb', 'shd', 'kd']
    assert_close(step.loss, sum(step.terms.values()))
    assert not any(term.requires_grad for term in step.terms.values())


def test_every_parameter_of_the_student_learns_and_none_of_the_teacher():
    distiller = pair()
    before = copy.deepcopy(distiller.teacher.state_dict())
    distiller.train()
    distiller(*batch()).loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in distiller.student.parameters())
    assert all(not p.requires_grad and p.grad is None for p in distiller.teacher.parameters())
    assert not distiller.teacher.training and distiller.student.training
    assert all(torch.equal(v, before[k]) for k, v in distiller.teacher.state_dict().items())
    ours = {id(p) for p in distiller.parameters()}
    assert ours == {id(p) for p in distiller.student.parameters()}
    assert all(name.startswith(('student.', 'schedules.')) for name in distiller.state_dict())


def test_a_student_alone_has_its_own_loss_and_the_same_random_numbers():
    steps = []
    for distiller in (DiffusionDistiller(dit(), None, ddpm()), pair(student=dit())):
        torch.manual_seed(3)
        steps.append(distiller(*batch()))
    alone, taught = steps
    assert list(alone.terms) == ['mse', 'vb']
    for name, value in alone.terms.items():
        assert_close(taught.terms[name], value)


def test_several_passes_share_timesteps_and_draw_noise_labels_and_more_anew():
    spy, drawn = Spy(), []

    def draw(latents):
        drawn.append(torch.randperm(16))
        return dict(ids_keep=drawn[-1])

    losses = dict(shd=dict(SHD, layers=[(2, 4)]))
    distiller = pair(
        dict(output=True), passes=(Pass('whole'), Pass('masked', losses, draw)), call=spy
    )
    step = distiller(*batch())
    assert list(step.terms) == [
        'whole_mse', 'whole_vb', 'whole_output', 'masked_mse', 'masked_vb', 'masked_shd',
    ]  # fmt: skip
    assert [model for model, *_ in spy.given] == [distiller.student, distiller.teacher] * 2
    whole, masked = spy.given[0], spy.given[2]
    assert torch.equal(whole[2], masked[2]) and not torch.equal(whole[1], masked[1])
    assert torch.equal(spy.given[3][1], masked[1])
    assert whole[4] == {} and len(drawn) == 1
    assert spy.given[3][4]['ids_keep'] is masked[4]['ids_keep'] is drawn[0]
    step.loss.backward()


def test_conditions_reach_both_models():
    def pixart(heads, layers):
        return PixArtTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=8,
            in_channels=2,
            out_channels=4,
            num_layers=layers,
            sample_size=8,
            cross_attention_dim=8 * heads,
            caption_channels=6,
            use_additional_conditions=False,
        )

    distiller = pair(student=pixart(2, 2), teacher=pixart(4, 4))
    text = dict(
        encoder_hidden_states=torch.randn(3, 5, 6),
        added_cond_kwargs=dict(resolution=None, aspect_ratio=None),
    )
    step = distiller(batch()[0], conditions=text)
    assert step.terms['shd'] > 0 and torch.isfinite(step.loss)
    with pytest.raises(ConfigError, match='labels are given, and the student takes none'):
        distiller(*batch(), conditions=text)


def test_scheduled_losses_end_and_then_the_teacher_rests():
    spy = Spy()
    distiller = pair(dict(output=True), schedules=dict(output=dict(stop=2)), call=spy)
    with pytest.raises(ConfigError, match='set_epoch'):
        distiller(*batch())
    distiller.set_epoch(1)
    spy.given.clear()
    distiller(*batch())
    assert len(spy.given) == 2
    distiller.set_epoch(2)
    step = distiller(*batch())
    assert len(spy.given) == 3 and step.terms['output'] == 0


def test_gradient_checkpointing_changes_no_gradient():
    found = []
    for is_checkpointed in (False, True):
        distiller = pair(label_dropout=0.0).train()
        if is_checkpointed:
            distiller.student.enable_gradient_checkpointing()
        torch.manual_seed(4)
        distiller(*batch()).loss.backward()
        found.append([p.grad for p in distiller.student.parameters()])
    for plain, checkpointed in zip(*found, strict=True):
        assert_close(checkpointed, plain)


def test_ema_of_diffusers_follows_the_student_alone():
    distiller = pair()
    ema = EMAModel(distiller.student.parameters(), decay=0.5)
    before = [p.detach().clone() for p in distiller.student.parameters()]
    optimizer = torch.optim.SGD(distiller.parameters(), 0.1)
    distiller(*batch()).loss.backward()
    optimizer.step()
    ema.step(distiller.student.parameters())
    for shadow, old, new in zip(
        ema.shadow_params, before, distiller.student.parameters(), strict=True
    ):
        decay = ema.cur_decay_value
        assert_close(shadow, decay * old + (1 - decay) * new)


def test_autocast_changes_little_and_moves_take_the_teacher_along():
    distiller = pair(label_dropout=0.0)
    latents, labels = batch()
    t, noises = torch.tensor([5, 300, 900]), [torch.randn_like(latents)]
    exact = distiller(latents, labels, timesteps=t, noises=noises)
    with torch.autocast('cpu', torch.bfloat16):
        rough = distiller(latents, labels, timesteps=t, noises=noises)
    for name, value in exact.terms.items():
        assert rough.terms[name].dtype == torch.float32
        assert_close(rough.terms[name], value, rtol=0.05, atol=1e-3)
    distiller.double()
    assert next(distiller.teacher.parameters()).dtype == torch.float64


def test_what_is_not_finite_is_named():
    distiller = pair()
    nn.init.constant_(distiller.teacher.proj_out_2.weight, math.nan)
    with pytest.raises(NonFiniteLoss, match=r'^output=nan is not finite'):
        distiller(*batch())
    distiller = pair()
    latents, labels = batch()
    with pytest.raises(NonFiniteLoss, match='mse=nan'):
        distiller(latents * math.nan, labels)


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (
            dict(teacher=lambda: dit(4, sample_size=16)),
            r'latents \(sample_size\) 8, the teacher 16',
        ),
        (dict(teacher=lambda: dit(4, patch_size=4)), r'\(patch_size\) 2, the teacher 4'),
        (dict(teacher=lambda: dit(4, in_channels=3)), r'\(in_channels\) 2, the teacher 3'),
        (dict(teacher=lambda: dit(4, num_embeds_ada_norm=7)), '5, the teacher 7'),
        (dict(teacher=lambda: dit(1)), 'student layer 1 has 2 heads, teacher layer 1 has 1'),
        (dict(teacher_scheduler=lambda: ddpm(beta_end=0.01)), r'betas .* 0.0001 to 0.02, of the'),
        (
            dict(teacher_scheduler=lambda: ddpm(num_train_timesteps=500)),
            'timesteps 1000, the .* 500',
        ),
        (
            dict(teacher_scheduler=lambda: ddpm(prediction_type='sample')),
            'prediction_type epsilon, the teacher sample',
        ),
        (
            dict(scheduler=lambda: ddpm(variance_type='fixed_small')),
            "out_channels=4 .*'fixed_small'",
        ),
        (dict(student=lambda: dit(sigma=False)), "out_channels=2 .*'learned_range'"),
        (dict(student=lambda: dit(out_channels=None)), "out_channels=2 .*'learned_range'"),
        (dict(losses=lambda: dict(kd=True)), 'losses.kd is a KDLoss, of logits of classes'),
        (dict(losses=lambda: dict(shd=dict(SHD, layers=[(3, 4)]))), 'layers 1 to 2'),
        (
            dict(losses=lambda: dict(shd=dict(SHD, layers=[(1, 1), (1, 2), (2, 4)]))),
            'losses.shd.layers are 3 pairs, the student has 2 layers',
        ),
        (dict(losses=lambda: dict(shd=3)), 'losses.shd=3 must be True, a dict'),
        (dict(losses=lambda: dict(nothing=True)), "losses.nothing: type='nothing'"),
        (dict(label_dropout=lambda: 1.5), 'label_dropout=1.5'),
        (dict(label_dropout=lambda: math.nan), 'label_dropout=nan'),
    ],
)
def test_pairs_that_cannot_be_distilled_are_refused_in_one_line(kwargs, message):
    with pytest.raises(ConfigError, match=message) as caught:
        pair(**{name: build() for name, build in kwargs.items()})
    assert '\n' not in str(caught.value)


def test_other_patches_matter_to_losses_inside_the_models_alone():
    step = pair(dict(output=OutputLoss()), teacher=dit(4, patch_size=4))(*batch())
    assert step.terms['output'] > 0


def test_dropping_labels_needs_a_null_class():
    student = dit()
    for block in student.transformer_blocks:
        embedder = block.norm1.emb.class_embedder
        embedder.embedding_table = nn.Embedding(5, 16)
    with pytest.raises(
        ConfigError, match=r'label_dropout=0.1 needs a null class: .* 5 labels for 5'
    ):
        pair(student=student)
    pair(student=student, label_dropout=0.0)(*batch())


def test_a_loss_without_a_teacher_and_attention_that_is_not_read_are_refused():
    with pytest.raises(ConfigError, match=r'losses.shd needs a teacher'):
        DiffusionDistiller(dit(), None, ddpm(), dict(shd=SHD))
    with pytest.raises(UnsupportedAttention, match='AttnProcessor is unknown'):
        teacher = dit(4)
        from diffusers.models.attention_processor import AttnProcessor

        teacher.transformer_blocks[0].attn1.set_processor(AttnProcessor())
        pair(teacher=teacher)


@pytest.mark.parametrize(
    'labels, message',
    [
        (None, 'labels=None: the student takes a label of 5 classes'),
        (torch.tensor([0, 1, 5]), 'label 5 must be between 0 and 4'),
        (torch.tensor([0, -1, 2]), 'label -1 must be'),
        (torch.zeros(3, 5), r'labels \(3, 5\) of torch.float32 must be'),
    ],
)
def test_labels_that_no_model_has_are_refused(labels, message):
    with pytest.raises(ConfigError, match=message):
        pair()(batch()[0], labels)


def test_every_loss_of_the_registry_runs_by_name():
    losses = dict(shd=SHD, at=True, cor=True, output=True)
    losses |= {name: True for name in ('vitkd', 'vkd', 'fd')}
    distiller = pair(losses)
    step = distiller(*batch())
    step.loss.backward()
    assert set(losses) < set(step.terms)
    assert all(p.grad is not None for p in distiller.losses.parameters())
    assert len(list(distiller.losses.parameters())) > 5


def test_head_matching_is_settled_on_training_batches():
    distiller = pair(dict(shd=SHDLoss(strategy='head_matching', compile=False)))
    with pytest.raises(ConfigError, match='must see training images first'):
        distiller(*batch())
    distiller.settle([batch(), batch()])
    assert distiller(*batch()).terms['shd'] > 0
    pair().settle(iter([1 / 1]))  # not touched: no loss asks


def test_fixed_variances_are_trained_on_the_error_alone():
    student, teacher = dit(sigma=False), dit(4, 4, sigma=False)
    for kind in ('epsilon', 'v_prediction', 'sample'):
        scheduler = DDPMScheduler(prediction_type=kind)
        step = pair(student=student, teacher=teacher, scheduler=scheduler, min_snr_gamma=5.0)(
            *batch()
        )
        assert list(step.terms) == ['mse', 'shd', 'output']
