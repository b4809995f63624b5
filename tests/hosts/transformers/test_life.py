"""What surrounds a step: evaluation, saving, resuming, and the ways that students are trained."""

import math

import peft
import pytest
import torch
from hosts.transformers.lm import Texts, arguments, gpt2, llama, trainer
from torch.testing import assert_close
from transformers import LlamaForCausalLM, Trainer

from shd_vit.errors import CheckpointError
from shd_vit.losses import KDLoss, SHDLoss

SHD = dict(shd=dict(backend='torch'))
ALL = dict(kd=True, fd=True, cor=True, **SHD)


def log_of(trained):
    return [row for row in trained.state.log_history if 'loss' in row]


def test_evaluation_generation_and_saving_are_the_students_alone(tmp_path):
    texts = Texts()
    made = trainer(tmp_path, losses=ALL, texts=texts, eval_dataset=texts)
    made.train()
    plain = Trainer(model=made.model, args=arguments(tmp_path), eval_dataset=texts)
    assert made.evaluate()['eval_loss'] == plain.evaluate()['eval_loss']
    ids = texts.batch(0, 1)['input_ids'][:, :4]
    made.save_model(tmp_path / 'saved')
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / 'saved')
    assert loaded.config._attn_implementation == 'sdpa'
    assert_close(loaded.state_dict(), made.model.state_dict(), rtol=0, atol=0)
    assert set(loaded.state_dict()) == set(llama().state_dict())
    both = [m.generate(ids, max_new_tokens=4, do_sample=False) for m in (loaded, made.model)]
    assert both[0].equal(both[1])


def test_the_teacher_is_frozen_run_once_a_batch_and_in_no_optimiser(tmp_path):
    teacher = gpt2()
    before = {name: x.clone() for name, x in teacher.state_dict().items()}
    calls = []
    teacher.register_forward_hook(
        lambda module, *_: calls.append((module.training, torch.is_grad_enabled()))
    )
    made = trainer(tmp_path, teachers=teacher, losses=ALL, gradient_accumulation_steps=2)
    made.train()
    assert calls == [(False, False)] * 4
    assert_close(teacher.state_dict(), before, rtol=0, atol=0)
    trained = {id(p) for group in made.optimizer.param_groups for p in group['params']}
    assert not trained & {id(p) for p in teacher.parameters()}
    assert {id(p) for p in made.distillation.losses.parameters()} <= trained


def test_what_losses_learn_is_trained_and_starts_each_step_without_gradient(tmp_path):
    """As with an optimiser of its own on the same gradients."""
    settings = dict(losses=dict(fd=True), max_steps=1, optim='sgd', learning_rate=0.5)
    torch.manual_seed(0)
    made = trainer(tmp_path, **settings, per_device_train_batch_size=8, max_grad_norm=0.0)
    before = [p.detach().clone() for p in made.distillation.losses.parameters()]
    loss = made.compute_loss(made.model, made.train_dataset.batch())
    grads = torch.autograd.grad(loss, list(made.distillation.losses.parameters()))
    made.train()
    for p, start, grad in zip(made.distillation.losses.parameters(), before, grads, strict=True):
        assert_close(p.detach(), start - 0.5 * grad)
        assert p.grad is None


@pytest.mark.parametrize('losses', [ALL, SHD])
def test_resuming_goes_on_to_the_same_bits(tmp_path, losses):
    """Dropout in the student, a schedule, weights of losses: all as if never interrupted."""

    def made(folder):
        return trainer(
            folder,
            student=gpt2(heads=2),
            teachers=gpt2(seed=4),
            losses=losses,
            max_steps=6,
            save_strategy='steps',
            save_steps=3,
            schedules=dict(shd=dict(warm_up=1)),
        )

    whole, parted = made(tmp_path / 'whole'), made(tmp_path / 'whole')
    whole.train()
    parted.train(resume_from_checkpoint=str(tmp_path / 'whole/checkpoint-3'))
    assert_close(parted.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
    states = [t.distillation.losses.state_dict() for t in (parted, whole)]
    assert_close(*states, rtol=0, atol=0)
    assert [row['shd'] for row in log_of(parted)] == [row['shd'] for row in log_of(whole)]


def test_resuming_without_the_weights_of_losses_is_refused(tmp_path):
    trainer(tmp_path, losses=SHD, save_strategy='steps', save_steps=1).train()
    other = trainer(tmp_path, losses=ALL)
    with pytest.raises(CheckpointError, match='weights of the losses cannot be resumed'):
        other.train(resume_from_checkpoint=str(tmp_path / 'checkpoint-1'))


def gradients(made):
    made.compute_loss(made.model, made.train_dataset.batch()).backward()
    return {name: p.grad for name, p in made.model.named_parameters() if p.grad is not None}


def test_activation_checkpointing_changes_nothing(tmp_path):
    settings = [{}, dict(gradient_checkpointing=True)]
    runs = []
    for more in settings:
        made = trainer(tmp_path, losses=dict(kd=True, cor=True, **SHD), **more)
        made.train()
        runs.append(made.model.state_dict())
    assert_close(*runs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('dtype', ['bf16', None])
def test_half_precision_trains(tmp_path, dtype):
    """By autocast, and of a teacher that is kept in bfloat16."""
    whole = trainer(tmp_path, losses=ALL)
    whole.train()
    settings = {'bf16': True} if dtype else {}
    made = trainer(tmp_path, teachers=gpt2().bfloat16(), losses=ALL, **settings)
    made.train()
    for half, full in zip(log_of(made), log_of(whole), strict=True):
        for name in ('shd', 'kd', 'cor', 'fd'):
            assert half[name] == pytest.approx(full[name], rel=0.1), name


def test_adapters_learn_and_nothing_else(tmp_path):
    config = peft.LoraConfig(
        r=2, target_modules=['q_proj', 'k_proj', 'v_proj'], init_lora_weights=False
    )
    student = peft.get_peft_model(llama(), config)
    made = trainer(tmp_path, student=student, losses=dict(kd=True, **SHD))
    found = gradients(made)
    assert found and all('lora' in name for name in found)
    before = {name: x.clone() for name, x in student.state_dict().items()}
    made.train()
    moved = {n for n, x in student.state_dict().items() if not x.equal(before[n])}
    assert moved and all('lora' in name for name in moved)
    assert all(math.isfinite(row['shd']) for row in log_of(made))
    made.save_model(tmp_path / 'saved')
    assert (tmp_path / 'saved/adapter_model.safetensors').exists()


def test_grouped_heads_and_tied_embeddings(tmp_path):
    student = llama(heads=4, num_key_value_heads=2, tie_word_embeddings=True)
    teacher = llama(heads=8, num_key_value_heads=2, seed=7)
    made = trainer(tmp_path, student=student, teachers=teacher, losses=dict(kd=True, **SHD))
    made.train()
    assert log_of(made)[0]['shd'] > 0
    made.save_model(tmp_path / 'saved')
    assert_close(
        LlamaForCausalLM.from_pretrained(tmp_path / 'saved').state_dict(),
        made.model.state_dict(),
    )


def test_label_smoothing_and_a_loss_of_the_users(tmp_path):
    plain = trainer(tmp_path, losses=SHD)
    smooth = trainer(tmp_path, losses=SHD, label_smoothing_factor=0.1)
    own = trainer(
        tmp_path, losses=SHD, compute_loss_func=lambda out, labels, **kw: out.logits.mean()
    )
    logs = []
    for made in (plain, smooth, own):
        made.train()
        logs.append(log_of(made)[0])
    assert len({log['shd'] for log in logs}) == 1
    assert len({log['task_loss'] for log in logs}) == 3


def test_heads_are_matched_after_the_teacher_was_seen(tmp_path):
    texts = Texts()
    losses = dict(shd=dict(strategy='head_matching', backend='torch'))
    made = trainer(tmp_path, losses=losses, texts=texts)
    made.settle([texts.batch(0, 1), texts.batch(2, 3)])
    made.train()
    assert log_of(made)[0]['shd'] > 0


def test_losses_are_given_by_name_by_settings_or_made(tmp_path):
    losses = dict(shd=True, soft=dict(type='KDLoss', temperature=3.0), more=KDLoss(0.5))
    made = trainer(tmp_path, losses=losses)
    built = made.distillation.losses
    assert isinstance(built['shd'], SHDLoss) and built['soft'].temperature == 3.0
    assert built['more'] is losses['more']
