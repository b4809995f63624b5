"""Rows of completions alone: maps and hidden states of prompts have no part."""

import pytest
import references
import torch
from hosts.transformers.lm import Texts, gpt2, llama, trainer
from taps.zoo import actual_maps
from torch.testing import assert_close

from shd_vit.errors import ConfigError
from shd_vit.functional import Mask
from shd_vit.hosts.transformers.packing import Packing
from shd_vit.losses import KDLoss, ModelOutput
from shd_vit.taps import AttentionTap

SHD = dict(shd=dict(backend='torch'))


def chats(padding=None):
    """Texts of which the first tokens, another number in each, are a prompt."""
    texts = Texts(padding=padding, shortest=7)
    for number, row in enumerate(texts.rows):
        first = int(row['attention_mask'].argmax())
        row['labels'][: first + 2 + number % 3] = -100
    return texts


def log_of(trained):
    return next(row for row in trained.state.log_history if 'loss' in row)


def expected_terms(student, teacher, projector, texts):
    """Sums over the rows that predict a label that counts, each text alone, in float64."""
    shd, fd, rows = 0.0, 0.0, 0
    batch = texts.batch()
    for number, mask in enumerate(batch['attention_mask'].bool()):
        ids, labels = batch['input_ids'][number : number + 1, mask], batch['labels'][number, mask]
        counted = torch.cat([labels[1:] != -100, torch.zeros(1, dtype=torch.bool)])
        rows += int(counted.sum())
        values, maps, hidden = [], [], []
        handles = [
            layer.attn.c_attn.register_forward_hook(lambda m, i, out, at=values: at.append(out))
            for layer in teacher.transformer.h
        ]
        for model in (student, teacher):
            with torch.no_grad(), actual_maps(model.eval()) as seen:
                hidden.append(model(input_ids=ids, output_hidden_states=True).hidden_states)
            maps.append(seen)
        for handle in handles:
            handle.remove()
        for layer, (learned, taught) in enumerate(zip(*maps, strict=True)):
            value = values[layer][..., 64:].unflatten(-1, (4, 8)).transpose(1, 2).double()
            weight = teacher.transformer.h[layer].attn.c_proj.weight.T.double()
            taught = taught * counted[:, None]  # merged by the rows that count
            squeezed = references.squeeze_heads(taught, value, weight, 2)[0]
            kl = torch.xlogy(squeezed, squeezed) - torch.xlogy(squeezed, learned)
            shd += kl[:, :, counted].sum()
        first = (x[1][0, counted].double() for x in hidden)  # after block 1, un-normed
        x_s, x_t = first
        weight, bias = projector.weight.detach().double(), projector.bias.detach().double()
        fd += (x_s @ weight.T + bias - x_t).square().mean(-1).sum()
    return shd / rows, fd / rows


@pytest.mark.parametrize('padding', [None, 'left', 'right'])
def test_completion_rows_alone_count(tmp_path, padding):
    student, teacher, texts = llama(), gpt2(), chats(padding)
    losses = dict(fd=dict(layers=[(1, 1)], weight=1.0), **SHD)
    settings = dict(max_steps=1, per_device_train_batch_size=8, learning_rate=0.0)
    made = trainer(
        tmp_path, student=student, teachers=teacher, texts=texts, losses=losses,
        rows='completion', **settings,
    )  # fmt: skip
    shd, fd = expected_terms(student, teacher, made.distillation.losses['fd'].projectors[0], texts)
    made.train()
    assert log_of(made)['shd'] == pytest.approx(float(shd), rel=1e-4)
    assert log_of(made)['fd'] == pytest.approx(float(fd), rel=1e-4)


def test_accumulated_completions_have_the_gradient_of_the_joint_batch(tmp_path):
    ends = []
    for size, steps in ((8, 1), (3, 3)):
        made = trainer(
            tmp_path,
            student=llama(layers=1).double(),
            teachers=gpt2(layers=1).double(),
            texts=chats('right'),
            losses=dict(kd=True, summed=KDLoss(reduction='sequences'), fd=True, **SHD),
            rows='completion',
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            optim='sgd',
            learning_rate=1.0,
            max_grad_norm=0.0,
            max_steps=1,
        )
        made.distillation.losses.double()
        made.train()
        ends.append({**made.model.state_dict(), **made.distillation.losses.state_dict()})
    assert_close(ends[1], ends[0], rtol=1e-9, atol=1e-9)


def test_packed_completions_count_as_they_do_alone(tmp_path):
    texts = chats('right')
    losses = dict(cor=True, **SHD)
    settings = dict(max_steps=1, per_device_train_batch_size=8, rows='completion', losses=losses)
    alone = trainer(tmp_path, texts=texts, **settings)
    alone.train()
    rows = [
        {name: row[name][row['attention_mask'].bool()] for name in ('input_ids', 'labels')}
        for row in texts.rows
    ]
    for row in rows:
        row['position_ids'] = torch.arange(len(row['input_ids']))
    packed = Texts(count=0)
    packed.rows = [{name: torch.cat([row[name] for row in rows]) for name in rows[0]}]
    together = trainer(tmp_path, texts=packed, **settings)
    together.train()
    for name in ('shd', 'cor'):
        assert log_of(together)[name] == pytest.approx(log_of(alone)[name], rel=1e-4), name


def test_packed_rows_that_see_each_other_are_refused():
    packing = Packing.of(dict(position_ids=torch.tensor([[0, 1, 2, 0, 1]])))
    x = torch.zeros(1, 1, 5, 2)
    tap = AttentionTap(x, x, x, torch.empty(0, 0), 1.0, mask=Mask(is_causal=True))
    with pytest.raises(ConfigError, match=r'packs sequences .* attention was not told'):
        packing.unpack(ModelOutput(None, {1: tap}, {}))


def test_rows_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="rows='prompt' must be 'all' or 'completion'"):
        trainer(tmp_path, rows='prompt')
    made = trainer(tmp_path, rows='completion')
    batch = {name: x for name, x in Texts().batch().items() if name != 'labels'}
    with pytest.raises(ConfigError, match='the batch has no labels'):
        made.compute_loss(made.model, batch)
