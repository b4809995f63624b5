"""TRL's trainers: those that call the student alone, and those that call both models."""

import pytest
import torch
from hosts.transformers.lm import Texts, gpt2, llama, trainer
from torch.testing import assert_close
from transformers import PreTrainedTokenizerFast

from shd_vit.errors import ConfigError
from shd_vit.functional import kd_loss
from shd_vit.hosts.transformers import DistillMixin

trl = pytest.importorskip('trl')
datasets = pytest.importorskip('datasets')

from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402
from trl.experimental.gkd import GKDConfig, GKDTrainer  # noqa: E402

SHD = dict(shd=dict(backend='torch'))
SETTINGS = dict(
    per_device_train_batch_size=2,
    max_steps=2,
    learning_rate=1e-2,
    logging_steps=1,
    save_strategy='no',
    report_to=[],
    disable_tqdm=True,
    use_cpu=True,
    bf16=False,
    seed=0,
)
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} </s> {% endfor %}"
    '{% if add_generation_prompt %}assistant {% endif %}'
)


class DistillSFT(DistillMixin, trl.SFTTrainer):
    pass


class DistillGKD(DistillMixin, GKDTrainer):
    pass


class DistillOnPolicy(DistillMixin, trl.DistillationTrainer):
    pass


def tokenizer():
    names = ['<pad>', '</s>', 'user', 'assistant', *(f'w{n}' for n in range(46))]
    words = {word: number for number, word in enumerate(names)}
    inside = Tokenizer(models.WordLevel(words, unk_token='<pad>'))
    inside.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inside, pad_token='<pad>', eos_token='</s>', padding_side='left'
    )
    made.chat_template = TEMPLATE
    return made


def chats(count=8):
    draw = torch.Generator().manual_seed(0)

    def text(words):
        return ' '.join(f'w{int(torch.randint(0, 46, (), generator=draw))}' for _ in range(words))

    return datasets.Dataset.from_list(
        [
            dict(
                messages=[
                    dict(role='user', content=text(2 + number % 3)),
                    dict(role='assistant', content=text(3 + number % 4)),
                ]
            )
            for number in range(count)
        ]
    )


def log_of(trained):
    return [row for row in trained.state.log_history if 'loss' in row]


def sft(tmp_path, losses, **kwargs):
    texts = [{k: v.tolist() for k, v in row.items() if k != 'labels'} for row in Texts().rows]
    settings = {**SETTINGS, 'per_device_train_batch_size': 8, 'max_steps': 1}
    settings = {**settings, 'max_length': None, **kwargs}
    return DistillSFT(
        model=llama(),
        args=trl.SFTConfig(output_dir=str(tmp_path), **settings),
        train_dataset=datasets.Dataset.from_list(texts),
        processing_class=tokenizer(),
        teachers=gpt2(),
        losses=losses,
    )


@pytest.mark.parametrize('more', [{}, dict(label_smoothing_factor=0.1)])
def test_sft_has_the_terms_of_trainer(tmp_path, more):
    """Though it makes no logits, and with label smoothing runs the student twice."""
    losses = dict(kd=True, **SHD)
    made = sft(tmp_path, losses, gradient_checkpointing=False, **more)
    made.train()
    plain = trainer(tmp_path, losses=losses, per_device_train_batch_size=8, max_steps=1)
    plain.train()
    for name in ('kd', 'shd', 'task_loss')[: 2 if more else 3]:
        assert log_of(made)[0][name] == pytest.approx(log_of(plain)[0][name], rel=1e-4), name
    if not more:
        assert_close(made.model.state_dict(), plain.model.state_dict(), rtol=1e-3, atol=1e-4)


def test_sft_accumulates_and_checkpoints(tmp_path):
    ends = []
    for size, steps in ((8, 1), (2, 4)):
        made = sft(
            tmp_path,
            dict(kd=True, **SHD),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            optim='sgd',
            max_grad_norm=0.0,
            learning_rate=1.0,
        )
        made.train()
        ends.append((made.model.state_dict(), log_of(made)[0]))
    assert_close(ends[0][0], ends[1][0], rtol=1e-4, atol=1e-5)
    for name in ('kd', 'shd', 'loss'):
        assert ends[0][1][name] == pytest.approx(ends[1][1][name], rel=1e-4)


def test_sft_packs(tmp_path):
    """Packed rows have the terms of sequences that stand alone."""
    losses = dict(kd=True, cor=True, **SHD)
    logs = []
    for more in ({}, dict(packing=True, max_length=30, per_device_train_batch_size=4)):
        made = sft(tmp_path, losses, **more)
        made.train()
        logs.append(log_of(made)[0])
    for name in ('kd', 'shd', 'cor', 'task_loss'):
        assert logs[1][name] == pytest.approx(logs[0][name], rel=1e-4), name


def gkd(tmp_path, cls=DistillGKD, losses=SHD, lmbda=0.0, settings=None, **kwargs):
    student, teacher = llama(), llama(heads=4, seed=7)
    options = dict(losses=losses, teachers=None) if cls is DistillGKD else {}
    made = cls(
        model=student,
        teacher_model=teacher,
        args=GKDConfig(
            output_dir=str(tmp_path),
            lmbda=lmbda,
            max_length=24,
            max_new_tokens=3,
            **{**SETTINGS, **(settings or {})},
        ),
        train_dataset=chats(),
        processing_class=tokenizer(),
        **{**options, **kwargs},
    )
    return made, student, teacher


@pytest.mark.parametrize('lmbda', [0.0, 1.0])
def test_gkd_is_listened_to(tmp_path, lmbda):
    made, _, teacher = gkd(tmp_path, losses=dict(kd=True, **SHD), lmbda=lmbda)
    calls = []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    made.train()
    assert len(calls) == 2
    assert not any(p.requires_grad for p in teacher.parameters())
    for row in log_of(made):
        assert row['shd'] > 0 and row['kd'] > 0
        total = row['task_loss'] + row['shd'] + row['kd']
        assert row['loss'] == pytest.approx(total, rel=1e-3)


def test_gkd_has_its_own_loss(tmp_path):
    plain, made = (
        gkd(tmp_path, cls=cls, losses=dict(shd=dict(weight=0.0, backend='torch')))[0]
        for cls in (GKDTrainer, DistillGKD)
    )
    for each in (plain, made):
        each.train()
    assert_close(made.model.state_dict(), plain.model.state_dict(), rtol=0, atol=0)


def test_what_calls_a_teacher_is_given_no_other(tmp_path):
    with pytest.raises(ConfigError, match='DistillGKD has a teacher and calls it'):
        gkd(tmp_path, teachers=gpt2())


def on_policy(tmp_path, losses=SHD, **kwargs):
    prompts = [dict(prompt=row['messages'][0]['content']) for row in chats()]
    settings = {**SETTINGS, 'max_completion_length': 4, **kwargs}
    return DistillOnPolicy(
        model=llama(),
        teacher_model=gpt2(),
        args=trl.DistillationConfig(output_dir=str(tmp_path), **settings),
        train_dataset=datasets.Dataset.from_list(prompts),
        processing_class=tokenizer(),
        losses=losses,
    )


def test_the_on_policy_trainer_is_listened_to(tmp_path):
    made, calls = on_policy(tmp_path, losses=dict(kd=True, **SHD)), []
    teacher = made.distillation.teacher.model
    teacher.transformer.register_forward_hook(lambda *_: calls.append(1))
    made.train()
    assert len(calls) == 2
    assert all(row['shd'] > 0 and row['kd'] > 0 for row in log_of(made))


def test_logits_that_the_on_policy_trainer_does_not_make(tmp_path):
    """At beta 0 its own loss is the mean over completions of the same KL."""
    made = on_policy(tmp_path, losses=dict(kd=True), beta=0.0, temperature=1.0)
    made.train()
    for row in log_of(made):
        assert row['kd'] == pytest.approx(row['task_loss'], rel=1e-4)


SGD = dict(optim='sgd', max_grad_norm=0.0, learning_rate=1.0, max_steps=1)


@pytest.mark.parametrize('kind', ['gkd', 'on-policy'])
def test_batches_that_are_listened_to_have_the_gradient_of_the_joint_batch(tmp_path, kind):
    """Also by rows of completions: their lengths differ from batch to batch."""
    ends, losses = [], dict(kd=True, **SHD)
    for size, steps in ((8, 1), (2, 4)):
        settings = dict(SGD, per_device_train_batch_size=size, gradient_accumulation_steps=steps)
        if kind == 'gkd':
            made = gkd(tmp_path, losses=losses, settings=settings)[0]
        else:
            made = on_policy(tmp_path, losses, max_completion_length=20, **settings)
        made.rows = 'completion'
        parts, take = [], made._joint.shares
        made._joint.shares = lambda *args, do=take, at=parts: at.append(do(*args)) or at[-1]
        made.train()
        ends.append((made.model.state_dict(), log_of(made)[0]))
        for kind_of_mean in ('rows', 'tokens'):
            assert sum(part[kind_of_mean] for part in parts) == pytest.approx(1)
            assert steps == 1 or len({part[kind_of_mean] for part in parts}) > 1
    for name in ('shd', 'kd'):
        assert ends[1][1][name] == pytest.approx(ends[0][1][name], rel=1e-4), name
    assert_close(ends[1][0], ends[0][0], rtol=1e-3, atol=1e-5)


def test_where_gkd_samples_batches_have_equal_weights(tmp_path):
    settings = dict(per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=1)
    made = gkd(tmp_path, lmbda=1.0, settings=settings)[0]
    shares, take = [], made._joint.shares
    made._joint.shares = lambda *args: shares.append(take(*args)) or shares[-1]
    made.train()
    assert shares == [dict.fromkeys(('rows', 'tokens', 'sequences'), 0.5)] * 2


@pytest.mark.parametrize('beta, divergence', [(0.0, 'forward'), (0.5, 'jsd'), (1.0, 'reverse')])
def test_divergences_are_those_of_gkd(beta, divergence):
    student, teacher = torch.randn(2, 1, 6, 5)
    labels = torch.tensor([[1, 2, -100, 3, -100, 4]])
    theirs = GKDTrainer.generalized_jsd_loss(student, teacher, labels, beta=beta)
    counted = labels[0] != -100
    assert_close(kd_loss(student[0, counted], teacher[0, counted], 1.0, divergence), theirs)
