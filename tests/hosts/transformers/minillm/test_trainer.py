"""MiniLLMTrainer, each part switched off against what is then left."""

import itertools

import pytest
import torch
from hosts.transformers.lm import gpt2, llama
from hosts.transformers.minillm.made import PLAIN, batch, five, gradients, learn, prompts, trainer
from torch.testing import assert_close

trl = pytest.importorskip('trl')

from shd_vit.hosts.transformers.minillm.scoring import ADVANTAGES, OLD, RATIO, STATE  # noqa: E402


def scored(made, inputs):
    made.model.train()
    return {**inputs, **made._score(inputs)}


def logs(made, name):
    return [row[name] for row in made.state.log_history if name in row]


def test_without_the_long_term_it_is_the_distillation_trainer(tmp_path):
    """Loss and gradients, by TRL's own trainer, on responses that differ in length."""
    made = trainer(tmp_path, teacher=gpt2(), long_term=False, teacher_mix=0.0)
    plain = trainer(
        tmp_path,
        teacher=gpt2(),
        cls=trl.DistillationTrainer,
        config=trl.DistillationConfig,
        disable_dropout=True,
        beta=1.0,
    )
    # TRL does not give GPT-2 positions over padding; ours has it count them from the first token.
    for left in (0, 3):
        inputs = batch([[7, 8, 1], [9], [3, 4, 5, 6]], left=left)
        loss, grads = learn(made, inputs)
        if left:
            for key in ('prompt_ids', 'prompt_mask'):
                inputs[key] = inputs[key][:, left:]
        wanted, wanted_grads = learn(plain, inputs)
        assert_close(loss, wanted, rtol=1e-5, atol=1e-6)
        assert_close(grads, wanted_grads, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_whole_run_without_the_long_term_is_the_distillation_trainers(tmp_path):
    settings = dict(gradient_accumulation_steps=2, disable_dropout=True)
    off = dict(long_term=False, teacher_mix=0.0, num_iterations=1)
    ends = []
    for kw in (off, dict(cls=trl.DistillationTrainer, config=trl.DistillationConfig)):
        made = trainer(tmp_path, **settings, **kw)
        made.train()
        ends.append(made.model.state_dict())
    assert_close(*ends, rtol=1e-4, atol=1e-6)


def test_the_expected_gradient_is_that_of_the_reverse_kl_of_all_responses(tmp_path):
    """Three tokens of five, the last of which ends a response, through the whole trainer."""
    end, longest, mix = 4, 3, 0.4
    student, teacher = llama(vocabulary=5), llama(heads=4, seed=7, vocabulary=5)
    settings = {
        **PLAIN,
        'teacher_mix': mix,
        'importance': 'exact',
        'max_completion_length': longest,
    }
    made = trainer(tmp_path, student, teacher, **settings, **five())
    begun = [s for n in range(longest) for s in itertools.product(range(end), repeat=n)]
    responses = [(*s, end) for s in begun] + list(itertools.product(range(end), repeat=longest))
    inputs = batch(responses, prompt=(2, 3), left=1)
    mask = inputs['completion_mask']

    def joint(model):
        """(responses,) log-probabilities by the model's own forward, without padding."""
        ids = torch.cat([inputs['prompt_ids'][:, 1:], inputs['completion_ids']], 1)
        each = model(input_ids=ids).logits[:, 1:-1].log_softmax(-1)
        return each.gather(2, inputs['completion_ids'][..., None])[..., 0] * mask

    ours, theirs = joint(student), joint(teacher).detach()
    log_q = ours.sum(1)
    assert log_q.exp().sum().item() == pytest.approx(1, abs=1e-5)
    (log_q.exp() * (log_q - theirs.sum(1))).sum().backward()
    wanted = gradients(student)
    drawn = ((1 - mix) * ours.detach().exp() + mix * theirs.exp()).masked_fill(mask == 0, 1).prod(1)
    scores, total = scored(made, inputs), {n: torch.zeros_like(g) for n, g in wanted.items()}
    for row, share in enumerate(drawn):
        one = {key: x[row : row + 1] if x.dim() else x for key, x in scores.items()}
        _, grads = learn(made, {**one, 'num_items_in_batch': torch.tensor(1.0)})
        for name, grad in grads.items():
            total[name] += share * grad
    assert_close(total, wanted, rtol=1e-3, atol=2e-5)


def test_padding_changes_nothing(tmp_path):
    """At the left of prompts, at the right of responses, or rows of nothing else."""
    made = trainer(tmp_path, teacher=gpt2(), teacher_mix=0.3)
    responses = [[7, 8, 1], [9, 1], [3, 4, 5, 6]]
    loss, grads = learn(made, scored(made, batch(responses)))
    moved = scored(made, batch(responses, left=4, width=9))
    other, other_grads = learn(made, moved)
    assert_close(other, loss, rtol=1e-4, atol=1e-5)
    assert_close(other_grads, grads, rtol=1e-3, atol=1e-5)
    with_nothing = scored(made, batch([*responses, []], left=4, width=9))
    with_nothing['prompt_mask'][3] = 0
    again, again_grads = learn(made, with_nothing)
    assert_close(again, loss, rtol=1e-4, atol=1e-5)
    assert_close(again_grads, grads, rtol=1e-3, atol=1e-5)


def test_a_batch_of_padding_alone_learns_nothing(tmp_path):
    made = trainer(tmp_path)
    loss, grads = learn(made, scored(made, batch([[], []], width=3)))
    assert loss == 0
    assert all((g == 0).all() for g in grads.values())


def test_an_end_counts_also_where_padding_has_its_number(tmp_path):
    """pad = EOS = 1: the end that was drawn is learnt, the padding after it is not."""
    made = trainer(tmp_path, **PLAIN)
    of_own = scored(made, batch([[7, 8, 1], [1]], pad=0))
    of_end = scored(made, batch([[7, 8, 1], [1]], pad=1))
    for key in (OLD, ADVANTAGES, RATIO, STATE):
        assert_close(of_end[key], of_own[key])
    assert of_end[OLD][0, 2] < 0 and of_end[OLD][1, 0] < 0
    assert of_end[ADVANTAGES][0, 1] != 0  # the reward of the end reaches the token before it
    assert_close(learn(made, of_end), learn(made, of_own))


def test_log_probs_are_the_models_own(tmp_path):
    """At the temperature of sampling, in rows of different lengths."""
    student, teacher = llama(), gpt2()
    made = trainer(tmp_path, student, teacher, temperature=0.7, **PLAIN)
    responses = [[7, 8, 1], [9, 1], [3, 4, 5, 6]]
    found = scored(made, batch(responses, left=2))
    for row, response in enumerate(responses):
        ids = torch.tensor([[5, 6, *response]])
        each = []
        for model in (student.eval(), teacher.eval()):
            logits = model(input_ids=ids).logits[0, 1:-1].double() / 0.7
            each.append(logits.log_softmax(-1)[range(len(response)), response])
        assert_close(found[OLD][row, : len(response)].double(), each[0], rtol=1e-4, atol=1e-5)
        rewards = each[1] - each[0]
        for t in range(len(response)):
            wanted = rewards[t + 1 :].sum()
            assert_close(found[ADVANTAGES][row, t].double(), wanted, rtol=1e-3, atol=1e-4)


def test_a_generation_batch_is_learnt_from_several_times(tmp_path):
    """Two inner epochs of four batches, in steps of two: four steps, then new responses."""
    made = trainer(
        tmp_path,
        train_dataset=prompts(16),
        gradient_accumulation_steps=2,
        steps_per_generation=4,
        num_iterations=2,
        max_steps=8,
        logging_steps=1,
        learning_rate=1e-3,
    )
    drawn, seen, counts = [], [], []
    plain, compute = made._generate_and_score_completions, made.compute_loss
    made._generate_and_score_completions = lambda rows: drawn.append(rows) or plain(rows)

    def spy(model, inputs, *args, **kwargs):
        seen.append(inputs['completion_ids'])
        counts.append((inputs['num_items_in_batch'], inputs['completion_mask'].sum()))
        return compute(model, inputs, *args, **kwargs)

    made.compute_loss = spy
    made.train()
    assert [len(rows) for rows in drawn] == [8, 8]
    asked = sorted(row['prompt'] for rows in drawn for row in rows)
    assert asked == sorted(row['prompt'] for row in prompts(16))  # none left out, none twice
    assert len(seen) == 16
    for start in (0, 8):
        for step in range(4):
            assert_close(seen[start + step], seen[start + 4 + step], rtol=0, atol=0)
    for step in range(0, 16, 2):
        joint = counts[step][1] + counts[step + 1][1]
        assert counts[step][0] == counts[step + 1][0] == joint


def test_all_parts_at_once_train_and_are_in_the_log(tmp_path):
    text = [dict(input_ids=torch.randint(0, 50, (6,)).tolist()) for _ in range(8)]
    made = trainer(
        tmp_path, lm_dataset=text, eval_dataset=prompts(4), max_steps=4, gradient_checkpointing=True
    )
    before = {n: p.clone() for n, p in made.model.named_parameters()}
    made.train()
    for name in ('single_step', 'long_term', 'lm_loss', 'token_kl', 'entropy'):
        assert len(logs(made, name)) == 4, name
    # Drawn once, for four steps; weights of importance are 1 in the mean.
    assert len(logs(made, 'reward')) == 1
    assert all((p != before[n]).any() for n, p in made.model.named_parameters())
    parts = zip(
        *(logs(made, name) for name in ('single_step', 'long_term', 'lm_loss')), strict=True
    )
    for loss, row in zip(logs(made, 'loss'), parts, strict=True):
        assert loss == pytest.approx(sum(row), rel=1e-3)
    assert made.evaluate()['eval_loss'] > 0


def test_plain_text_has_cross_entropy_and_the_teachers_distribution(tmp_path):
    ids = torch.randint(0, 50, (2, 6))
    student, teacher = llama(), gpt2()
    for kd_ratio in (0.0, 0.3, 1.0):
        made = trainer(tmp_path, student, teacher, kd_ratio=kd_ratio, temperature=0.7)
        made.model.zero_grad()
        made._corpus_loss(student, ids).backward()
        found = gradients(student)
        student.zero_grad()
        logits, taught = (m.eval()(input_ids=ids).logits[:, :-1] for m in (student, teacher))
        logs, p = logits.log_softmax(-1), taught.detach().softmax(-1)
        ce = -logs.gather(2, ids[:, 1:, None]).mean()
        soft = -(p * logs).sum(-1).mean()
        ((1 - kd_ratio) * ce + kd_ratio * soft).backward()
        assert_close(found, gradients(student), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_resumed_run_reads_on_in_the_plain_text(tmp_path):
    text = [dict(input_ids=[n, n + 1, n + 2]) for n in range(8)]
    off = dict(long_term=False, teacher_mix=0.0, num_iterations=1, lm_dataset=text)
    read = []

    def run(steps, **kw):
        made = trainer(tmp_path, max_steps=steps, save_strategy='steps', save_steps=1, **off)
        plain = made.corpus.batch
        made.corpus.batch = lambda n: read.append(n) or plain(n)
        made.train(**kw)

    run(2)
    run(4, resume_from_checkpoint=str(tmp_path / 'checkpoint-2'))
    assert read == [0, 1, 2, 3]


@pytest.mark.slow
def test_a_run_that_is_resumed_within_a_generation_batch_stays_in_step(tmp_path):
    """Three steps a generation batch: the second is resumed after its first."""
    drawn = []

    def run(steps, **kw):
        made = trainer(
            tmp_path, max_steps=steps, save_strategy='steps', save_steps=1, num_iterations=3
        )
        plain = made._generate_and_score_completions

        def spy(rows):
            drawn.append((made.state.global_step, [row['prompt'] for row in rows]))
            return plain(rows)

        made._generate_and_score_completions = spy
        made.train(**kw)

    run(7)
    whole, drawn[:] = drawn[:], []
    run(4)
    run(7, resume_from_checkpoint=str(tmp_path / 'checkpoint-4'))
    assert [step for step, _ in whole] == [0, 3, 6]
    assert [step for step, _ in drawn] == [0, 3, 4, 6]  # the responses are not kept
    assert drawn[1] == whole[1] and drawn[2][1] == whole[1][1] and drawn[3] == whole[2]


def test_an_adapter_learns(tmp_path):
    peft = pytest.importorskip('peft')
    student = peft.get_peft_model(llama(), peft.LoraConfig(target_modules=['q_proj', 'o_proj']))
    made = trainer(tmp_path, student, max_steps=2, teacher_mix=0.3)
    made.train()
    assert all(value == value for value in logs(made, 'long_term'))
    learned = [p for n, p in made.model.named_parameters() if 'lora_B' in n]
    assert learned and all(p.abs().sum() > 0 for p in learned)
