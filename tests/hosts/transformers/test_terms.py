"""The terms that a Trainer adds are those of the same maps and logits, computed apart."""

import copy

import pytest
import references
import torch
from hosts.transformers.lm import TOKENS, Texts, arguments, gpt2, llama, trainer
from taps.zoo import actual_maps
from torch.testing import assert_close
from transformers import (
    LlamaConfig,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
    Trainer,
)

from shd_vit.errors import ConfigError, NonFiniteLoss
from shd_vit.losses import DistillationLoss, KDLoss

PADDINGS = pytest.mark.parametrize('padding', [None, 'left', 'right'])
SHD = dict(shd=dict(backend='torch'))


def log_of(trained):
    return [row for row in trained.state.log_history if 'loss' in row]


def first_step(tmp_path, **kwargs):
    """The log of one step on all texts."""
    once = trainer(tmp_path, max_steps=1, per_device_train_batch_size=8, **kwargs)
    once.train()
    return log_of(once)[0]


def logits_of(model, batch, **kwargs):
    """(B, N, C), each sequence run alone, without its padding."""
    rows = torch.zeros(*batch['input_ids'].shape, model.config.vocab_size).double()
    for number, mask in enumerate(batch['attention_mask'].bool()):
        inputs = {name: batch[name][number : number + 1, mask] for name in ('input_ids', *kwargs)}
        with torch.no_grad():
            rows[number, mask] = model.eval()(**inputs).logits[0].double()
    return rows


def looped_kd(student, teacher, labels, temperature):
    """Sums of T^2 KL over the predictions of each sequence, and their numbers."""
    sums = []
    for number in range(len(labels)):
        kls = []
        for place in range(TOKENS - 1):
            if (labels[number, place : place + 2] != -100).all():  # a word after a word
                p, q = ((x[number, place] / temperature).softmax(0) for x in (teacher, student))
                kls.append(temperature**2 * (p * (p.log() - q.log())).sum())
        sums.append(torch.stack(kls))
    return sums


@PADDINGS
def test_soft_labels_are_compared_where_the_next_token_counts(tmp_path, padding):
    """In both reductions; the last is BabyLLaMA's, and larger by the length of a sequence."""
    student, teacher, texts = llama(), gpt2(), Texts(padding=padding)
    losses = dict(
        kd=dict(temperature=2.0), summed=KDLoss(0.5, temperature=2.0, reduction='sequences')
    )
    batch = texts.batch()
    kls = looped_kd(
        logits_of(student, batch), logits_of(teacher, batch), batch['labels'], temperature=2.0
    )
    log = first_step(tmp_path, student=student, teachers=teacher, texts=texts, losses=losses)
    assert log['kd'] == pytest.approx(torch.cat(kls).mean().item(), rel=1e-4)
    summed = 0.5 * torch.stack([x.sum() for x in kls]).mean().item()
    assert log['summed'] == pytest.approx(summed, rel=1e-4)
    assert log['loss'] == pytest.approx(log['task_loss'] + log['kd'] + log['summed'], rel=1e-5)


@PADDINGS
def test_maps_are_compared_where_tokens_are_no_padding(tmp_path, padding):
    student, teacher, texts = llama(), gpt2(), Texts(padding=padding)
    batch = texts.batch()
    expected = 0
    for number, mask in enumerate(batch['attention_mask'].bool()):  # alone, without padding
        ids, maps, values = batch['input_ids'][number : number + 1, mask], [], []
        handles = [
            layer.attn.c_attn.register_forward_hook(lambda m, i, out, at=values: at.append(out))
            for layer in teacher.transformer.h
        ]
        for model in (student, teacher):
            with torch.no_grad(), actual_maps(model.eval()) as seen:
                model(input_ids=ids)
            maps.append(seen)
        for handle in handles:
            handle.remove()
        for layer, (learned, taught) in enumerate(zip(*maps, strict=True)):
            value = values[layer][..., 64:].unflatten(-1, (4, 8)).transpose(1, 2).double()
            weight = teacher.transformer.h[layer].attn.c_proj.weight.T.double()
            squeezed = references.squeeze_heads(taught, value, weight, 2)[0]
            kl = torch.xlogy(squeezed, squeezed) - torch.xlogy(squeezed, learned)
            expected += kl.sum() / batch['attention_mask'].sum()
    log = first_step(tmp_path, student=student, teachers=teacher, texts=texts, losses=SHD)
    assert log['shd'] == pytest.approx(expected.item(), rel=1e-4)


def test_logits_of_several_teachers_are_averaged(tmp_path):
    """And the one with more heads gives the maps."""
    student, teachers, texts = llama(), [llama(seed=5), gpt2()], Texts()
    batch = texts.batch()
    mean = sum(logits_of(model, batch) for model in teachers) / 2
    kls = looped_kd(logits_of(student, batch), mean, batch['labels'], temperature=1.0)
    losses = dict(kd=True, **SHD)
    options = dict(student=student, teachers=teachers, texts=texts, losses=losses)
    log = first_step(tmp_path, attention_teacher=1, **options)
    assert log['kd'] == pytest.approx(torch.cat(kls).mean().item(), rel=1e-4)
    alone = first_step(tmp_path, student=llama(), teachers=gpt2(), texts=texts, losses=SHD)
    assert log['shd'] == pytest.approx(alone['shd'], rel=1e-6)


def losses_of_all_kinds():
    kinds = dict(kd=True, summed=KDLoss(reduction='sequences'), cor=True, fd=True)
    return {**kinds, **SHD}


@PADDINGS
def test_accumulated_batches_have_the_gradient_of_the_joint_batch(tmp_path, padding):
    """Also of batches in which different numbers of tokens count, and of a last, shorter one."""
    ends = []
    for size, steps in ((8, 1), (2, 4), (3, 3)):
        settings = dict(
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            optim='sgd',
            max_grad_norm=0.0,
        )
        made = trainer(
            tmp_path,
            student=llama().double(),
            teachers=gpt2().double(),
            texts=Texts(padding=padding),
            losses=losses_of_all_kinds(),
            learning_rate=1.0,
            max_steps=1,
            **settings,
        )
        made.distillation.losses.double()
        made.train()
        learned = {**made.model.state_dict(), **made.distillation.losses.state_dict()}
        ends.append((learned, log_of(made)[0]))
    for learned, log in ends[1:]:
        assert_close(learned, ends[0][0], rtol=1e-9, atol=1e-9)
        for name in ('loss', 'task_loss', 'shd', 'kd', 'summed', 'cor', 'fd'):
            assert log[name] == pytest.approx(ends[0][1][name], rel=1e-5), name


def test_a_loss_that_trainer_divides_is_not_divided_twice(tmp_path):
    """Of models that take no number of items, Trainer averages batches itself."""
    ends = []
    for size, steps in ((8, 1), (2, 4)):
        student = llama().double()
        student.accepts_loss_kwargs = False
        made = trainer(
            tmp_path,
            student=student,
            teachers=gpt2().double(),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            optim='sgd',
            max_grad_norm=0.0,
            learning_rate=1.0,
            max_steps=1,
        )
        made.train()
        ends.append((made.model.state_dict(), log_of(made)[0]['shd']))
    assert_close(ends[0][0], ends[1][0], rtol=1e-9, atol=1e-9)
    assert ends[0][1] == pytest.approx(ends[1][1])


def test_terms_of_weight_0_train_as_trainer_does_to_the_bit(tmp_path):
    plain = Trainer(
        model=llama(),
        args=arguments(tmp_path, gradient_accumulation_steps=2),
        train_dataset=Texts(padding='right'),
    )
    plain.train()
    made = trainer(
        tmp_path,
        losses=dict(shd=dict(weight=0.0, backend='torch')),
        texts=Texts(padding='right'),
        gradient_accumulation_steps=2,
    )
    made.train()
    assert_close(made.model.state_dict(), plain.model.state_dict(), rtol=0, atol=0)
    assert [row['task_loss'] for row in log_of(made)] == [row['loss'] for row in log_of(plain)]


def test_terms_are_logged_as_means_of_the_interval(tmp_path):
    runs = [trainer(tmp_path, max_steps=4, logging_steps=n, losses=SHD) for n in (1, 4)]
    for run in runs:
        run.train()
    each, (mean,) = map(log_of, runs)
    for name in ('loss', 'task_loss', 'shd'):
        assert mean[name] == pytest.approx(sum(row[name] for row in each) / 4, rel=1e-4), name


def test_schedules_follow_the_epoch_and_end(tmp_path):
    teacher = gpt2()
    calls = []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    made = trainer(
        tmp_path,
        teachers=teacher,
        per_device_train_batch_size=4,
        max_steps=6,  # two an epoch
        learning_rate=0.0,
        task_loss_weight=0.5,
        schedules=dict(shd=dict(warm_up=1, stop=2)),
    )
    made.train()
    terms = [row['shd'] for row in log_of(made)]
    assert terms[0] == terms[4] == terms[5] == 0 and terms[1] > 0
    assert len(calls) == 4  # not once all is over
    plain = first_step(tmp_path, learning_rate=0.0)
    whole = sum(terms[2:4]) / 2
    assert whole == pytest.approx(plain['shd'], rel=1e-4)
    assert log_of(made)[5]['loss'] == pytest.approx(log_of(made)[5]['task_loss'])


def test_what_is_not_finite_is_named(tmp_path):
    class Broken(DistillationLoss):
        def forward(self, student, teacher, target):
            return torch.tensor(float('nan'))

    with pytest.raises(NonFiniteLoss, match='bad=nan is not finite'):
        trainer(tmp_path, losses=dict(bad=Broken(), **SHD)).train()


def test_gpt2_counts_positions_from_its_first_word(tmp_path):
    """Under left padding it would count the padding: student and teacher are given positions."""
    batch = Texts(padding='left').batch()
    student, alone = gpt2(heads=2), gpt2(heads=2)
    made = trainer(tmp_path, student=student, losses=SHD, texts=Texts(padding='left'))
    counted = batch['attention_mask'].bool()
    with torch.no_grad():
        logits = student.eval()(**batch).logits
    assert_close(logits[counted].double(), logits_of(alone, batch)[counted], rtol=1e-3, atol=1e-4)
    assert made.compute_loss(student, batch).isfinite()
    assert copy.deepcopy(student)(**batch).logits.equal(logits)


def test_inputs_that_only_the_teacher_takes_reach_it(tmp_path):
    student, teacher = llama(), gpt2()
    texts = Texts(columns=('token_type_ids',))
    batch = texts.batch()
    taught = logits_of(teacher, batch, token_type_ids=True)
    kls = looped_kd(logits_of(student, batch), taught, batch['labels'], temperature=1.0)
    seen = []
    student.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append('token_type_ids' in kwargs), with_kwargs=True
    )
    log = first_step(tmp_path, student=student, teachers=teacher, texts=texts, losses=dict(kd=True))
    assert log['kd'] == pytest.approx(torch.cat(kls).mean().item(), rel=1e-4)
    assert seen and not any(seen)


def test_classifiers_have_a_row_a_sequence(tmp_path):
    def classifier(heads, seed):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=50,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=heads,
            num_labels=3,
            pad_token_id=0,
            initializer_range=0.3,
        )
        return LlamaForSequenceClassification(config)

    texts = Texts()
    for number, row in enumerate(texts.rows):
        row['labels'] = torch.tensor(number % 3)
    student, teacher = classifier(2, 0), classifier(4, 1)
    inputs = {k: v for k, v in texts.batch().items() if k != 'labels'}
    with torch.no_grad():
        p, q = (m.eval()(**inputs).logits.double().softmax(-1) for m in (teacher, student))
    log = first_step(
        tmp_path, student=student, teachers=teacher, texts=texts, losses=dict(kd=True, **SHD)
    )
    assert log['kd'] == pytest.approx((p * (p / q).log()).sum(-1).mean().item(), rel=1e-4)
    assert log['shd'] > 0


def test_logits_without_labels_are_refused(tmp_path):
    texts = Texts()
    made = trainer(tmp_path, losses=dict(kd=True), texts=texts)
    batch = {name: x for name, x in texts.batch().items() if name != 'labels'}
    with pytest.raises(ConfigError, match='the batch has no labels'):
        made.compute_loss(made.model, batch)


def test_packed_sequences_count_as_they_do_alone(tmp_path):
    """Several in a row, told apart by positions that start anew: no token sees another's."""
    texts = Texts(count=4, padding='right')
    losses = dict(kd=True, summed=KDLoss(reduction='sequences'), cor=True, **SHD)
    alone = first_step(tmp_path, texts=texts, losses=losses)
    rows = [
        {name: row[name][row['attention_mask'].bool()] for name in ('input_ids', 'labels')}
        for row in texts.rows
    ]
    for row in rows:
        row['position_ids'] = torch.arange(len(row['input_ids']))
        row['labels'][0] = -100
    packed = Texts(count=0)
    packed.rows = [{name: torch.cat([row[name] for row in rows]) for name in rows[0]}]
    together = first_step(tmp_path, texts=packed, losses=losses)
    for name in ('task_loss', 'kd', 'summed', 'cor', 'shd', 'grad_norm'):
        assert together[name] == pytest.approx(alone[name], rel=1e-4), name


@pytest.mark.slow
def test_a_compiled_student_is_read_in_one_graph(tmp_path, dynamo):
    from torch._dynamo.utils import counters

    losses = dict(kd=True, cor=True, **SHD)
    plain = trainer(tmp_path, losses=losses)
    plain.train()
    compiled = trainer(
        tmp_path, losses=losses, torch_compile=True, torch_compile_backend='aot_eager'
    )
    compiled.train()
    assert counters['stats']['unique_graphs'] == 1
    for one, other in zip(log_of(plain), log_of(compiled), strict=True):
        for name in ('loss', 'kd', 'cor', 'shd'):
            assert other[name] == pytest.approx(one[name], rel=1e-5), name


def test_sliding_windows_are_in_the_maps(tmp_path):
    """Tokens beyond the window have no part: the loss is that of the maps that were computed."""
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=4,
        initializer_range=0.3,
    )
    student, teacher = MistralForCausalLM(config), MistralForCausalLM(config)
    ids, maps = Texts().batch()['input_ids'], []
    for model in (student, teacher):
        with torch.no_grad(), actual_maps(model.eval()) as seen:
            model(input_ids=ids)
        maps.append(torch.stack(seen))
    assert (maps[0][..., 11, :8] == 0).all() and (maps[0][..., 11, 8:] > 0).all()
    kl = torch.xlogy(maps[1], maps[1]) - torch.xlogy(maps[1], maps[0]).nan_to_num()
    log = first_step(tmp_path, student=student, teachers=teacher, losses=SHD)
    assert log['shd'] == pytest.approx(kl.sum().item() / ids.numel(), rel=1e-4)
