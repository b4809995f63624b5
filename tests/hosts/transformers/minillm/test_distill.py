"""Terms on what is inside the models, on responses of the student."""

import pytest
import torch
from hosts.transformers.lm import gpt2, llama
from hosts.transformers.lm import trainer as plain_trainer
from hosts.transformers.minillm.made import batch, learn, prompts, trainer
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
    return batch(RESPONSES, left=left, width=width)


def whole(inputs):
    """The same as a batch of a plain Trainer."""
    ids, mask = (
        torch.cat([inputs[f'prompt_{what}'], inputs[f'completion_{what}']], 1)
        for what in ('ids', 'mask')
    )
    labels = ids.masked_fill(mask == 0, IGNORED)
    labels[:, : inputs['prompt_ids'].shape[1]] = IGNORED
    return dict(input_ids=ids, attention_mask=mask, labels=labels)


def distilled(folder, losses, **kw):
    kw = dict(cls=DistillMiniLLMTrainer, losses=losses, long_term=False, teacher_mix=0.0, **kw)
    torch.manual_seed(0)  # of projectors
    return trainer(folder, llama(), gpt2(), **kw)


def terms(made, inputs):
    """Each term by name, and gradients."""
    _, grads = learn(made, inputs)
    return {n: float(x) for n, x in made._term_log.means().items()}, grads


CASES = [(name, 'all') for name in LOSSES] + [(n, 'completion') for n in ('shd', 'fd', 'matching')]


@pytest.mark.parametrize(('name', 'rows'), CASES)
def test_terms_are_those_of_a_trainer_that_calls_both(tmp_path, name, rows):
    """And padding has no part: at the left of prompts, and at the right of responses."""
    losses = {name: LOSSES[name]}
    plain_inputs = whole(rollouts())
    torch.manual_seed(0)
    plain = plain_trainer(tmp_path, llama(), gpt2(), losses=losses, task_loss_weight=0.0, rows=rows)
    made = distilled(tmp_path, losses, rows=rows)
    for each in (plain, made):
        each.settle([plain_inputs])
        for loss in each.distillation.losses.values():
            torch.manual_seed(1)
            for parameter in loss.parameters():
                torch.nn.init.normal_(parameter, std=0.1)
        each.distillation.schedules.set_epoch(0.0)
    plain.model.train()
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


def test_a_step_of_a_generation_batch_is_weighed_by_its_own_tokens(tmp_path):
    """Two steps of two batches: shares of each step sum to 1, for tokens and for sequences."""
    made = trainer(
        tmp_path, llama(), gpt2(), cls=DistillMiniLLMTrainer, losses=dict(shd=LOSSES['shd']),
        gradient_accumulation_steps=2, steps_per_generation=4, num_iterations=2, max_steps=4,
    )  # fmt: skip
    shares, plain = [], made._joint.shares

    def spy(*args):
        shares.append(plain(*args))
        return shares[-1]

    made._joint.shares = spy
    made.train()
    assert len(shares) == 8
    for step in range(0, 8, 2):
        for kind in ('tokens', 'sequences', 'rows'):
            assert shares[step][kind] + shares[step + 1][kind] == pytest.approx(1)
    assert len({share['tokens'] for share in shares}) > 2


def test_each_prompt_is_answered_once_to_settle(tmp_path):
    """Though the trainer's loader has each generation batch as often as it is learnt from."""
    losses = dict(matching=LOSSES['matching'])
    made = trainer(tmp_path, llama(), gpt2(), cls=DistillMiniLLMTrainer, losses=losses)
    asked, plain = [], made._generate_and_score_completions
    made._generate_and_score_completions = lambda rows: asked.extend(rows) or plain(rows)
    made.settle(made.get_train_dataloader())
    assert len(made.get_train_dataloader()) == 16
    assert sorted(row['prompt'] for row in asked) == sorted(row['prompt'] for row in prompts())
    assert made.distillation.losses['matching'].is_settled
    made = trainer(tmp_path, llama(), gpt2(), cls=DistillMiniLLMTrainer, losses=dict(fd=True))
    made.settle(pytest.fail() for _ in range(1))  # nothing asks
