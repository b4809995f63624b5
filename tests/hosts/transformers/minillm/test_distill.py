"""Terms on what is inside the models, on responses of the student."""

import pytest
import torch
from hosts.transformers.lm import gpt2, llama
from hosts.transformers.lm import trainer as plain_trainer
from hosts.transformers.minillm.made import batch, learn, trainer
from torch.testing import assert_close

trl = pytest.importorskip('trl')

from shd_vit.hosts.transformers import DistillMiniLLMTrainer  # noqa: E402
from shd_vit.hosts.transformers.batch import IGNORED  # noqa: E402

RESPONSES = [[7, 8, 1], [9, 1], [3, 4, 5, 6]]
LOSSES = dict(
    shd=dict(backend='torch'),
    mse=dict(type='SHDLoss', distance='mse', backend='torch'),
    constant=dict(type='SHDLoss', strategy='constant', backend='torch'),
    hard=dict(type='SHDLoss', strategy='hard', backend='torch'),
    matching=dict(type='SHDLoss', strategy='head_matching', backend='torch'),
    fd=True,
    cor=True,
    vkd=True,
    at=True,
    kd=True,
)


def rollouts(left=0, width=None):
    """With labels of the response, as the trainer draws them."""
    inputs = batch(RESPONSES, left=left, width=width)
    response = inputs['completion_ids'].masked_fill(inputs['completion_mask'] == 0, IGNORED)
    labels = torch.cat([torch.full_like(inputs['prompt_ids'], IGNORED), response], 1)
    return {**inputs, 'labels': labels}


def whole(inputs):
    """The same as a batch of a plain Trainer."""
    ids, mask = (
        torch.cat([inputs[f'prompt_{what}'], inputs[f'completion_{what}']], 1)
        for what in ('ids', 'mask')
    )
    return dict(input_ids=ids, attention_mask=mask, labels=inputs['labels'])


def distilled(folder, losses, **kw):
    kw = dict(cls=DistillMiniLLMTrainer, losses=losses, long_term=False, teacher_mix=0.0, **kw)
    torch.manual_seed(0)  # of projectors
    return trainer(folder, llama(), gpt2(), **kw)


def terms(made, inputs):
    """Each term by name, and gradients."""
    _, grads = learn(made, inputs)
    return {n: float(x) for n, x in made._term_log.means().items()}, grads


@pytest.mark.parametrize('name', LOSSES)
def test_terms_are_those_of_a_trainer_that_calls_both(tmp_path, name):
    """And padding has no part: at the left of prompts, and at the right of responses."""
    losses = {name: LOSSES[name]}
    plain_inputs = whole(rollouts())
    torch.manual_seed(0)
    plain = plain_trainer(tmp_path, llama(), gpt2(), losses=losses, task_loss_weight=0.0)
    made = distilled(tmp_path, losses)
    for each in (plain, made):
        each.settle([plain_inputs])
        for loss in each.distillation.losses.values():
            torch.manual_seed(1)
            for parameter in loss.parameters():
                torch.nn.init.normal_(parameter, std=0.1)
        each.distillation.schedules.set_epoch(0.0)
    plain.model.train()
    plain._joint = None
    plain.compute_loss(plain.model, plain_inputs).backward()
    wanted = float(plain._term_log.means()[name])
    assert wanted > 0
    for left, width in ((0, None), (3, 7)):
        found, grads = terms(made, rollouts(left, width))
        assert found[name] == pytest.approx(wanted, rel=1e-4)
        own = trainer(tmp_path, llama(), gpt2(), long_term=False, teacher_mix=0.0)
        _, without = learn(own, rollouts(left, width))
        for parameter, value in plain.model.named_parameters():
            added = 0 if value.grad is None else value.grad
            assert_close(grads[parameter] - without[parameter], added + 0 * grads[parameter],
                         rtol=1e-3, atol=1e-5)  # fmt: skip


def test_hidden_states_are_compared_by_layer_and_token(tmp_path):
    """FD in loops, on hidden states that the models themselves hand out, without padding."""
    # The last layer's are handed out after the final norm, so the first is compared alone.
    made = distilled(tmp_path, dict(fd=dict(weight=1.0, layers=[(1, 1)])))
    total, count = 0.0, 0
    for response in RESPONSES:
        ids = torch.tensor([[5, 6, *response]])
        with torch.no_grad():
            ours, theirs = (
                m.eval()(input_ids=ids, output_hidden_states=True).hidden_states
                for m in (made.model, made.teacher_inside())
            )
        projector = made.distillation.losses['fd'].projectors[0]
        projected = projector(ours[1][0]).double()
        for token in range(ids.shape[1]):
            error = ((projected[token] - theirs[1][0, token].double()) ** 2).detach()
            total += float(error.sum()) / len(error)
            count += 1
    found, _ = terms(made, rollouts(left=2))
    assert found['fd'] == pytest.approx(total / count, rel=1e-4)


def test_a_run_with_everything(tmp_path):
    losses = {name: LOSSES[name] for name in ('shd', 'fd', 'kd')}
    text = [dict(input_ids=torch.randint(0, 50, (6,)).tolist()) for _ in range(8)]
    made = trainer(
        tmp_path,
        llama(),
        gpt2(),
        cls=DistillMiniLLMTrainer,
        losses=losses,
        schedules=dict(shd=dict(warm_up=0.5)),
        lm_dataset=text,
        gradient_checkpointing=True,
        gradient_accumulation_steps=2,
        num_iterations=2,
        max_steps=4,
    )
    calls = []
    made.model.model.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    made.train()
    assert sum(calls) == 2 * 8  # of responses, and of plain text
    rows = [row for row in made.state.log_history if 'loss' in row]
    assert len(rows) == 4
    for row in rows:
        parts = sum(row[name] for name in ('task_loss', 'shd', 'fd', 'kd', 'lm_loss'))
        assert row['loss'] == pytest.approx(parts, rel=2e-3)
        assert row['task_loss'] == pytest.approx(row['single_step'] + row['long_term'], rel=2e-3)
    assert not any(p.requires_grad for p in made.teacher_inside().parameters())
    drawn = made._buffered_inputs[0]
    counted = drawn['labels'] != IGNORED
    assert_close(counted[:, -drawn['completion_mask'].shape[1] :], drawn['completion_mask'].bool())
    assert counted.sum() == drawn['completion_mask'].sum()
