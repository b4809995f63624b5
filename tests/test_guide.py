"""The code in docs/guide.md runs."""

import re
from pathlib import Path

import torch
from mmpretrain.registry import MODELS
from models import batch, build_distiller, mmpretrain_classifier
from torch import nn
from torch.testing import assert_close

from shd_vit import TapBank, attention_maps
from shd_vit.taps import ATTENTION_TAPS

GUIDE = (Path(__file__).parents[1] / 'docs/guide.md').read_text()
STEP, TAPPING, FAMILY, LOSS = re.findall(r'```python\n(.*?)```', GUIDE, re.DOTALL)


def test_a_step_of_ones_own():
    student, teacher = (MODELS.build(mmpretrain_classifier(heads)) for heads in (3, 6))
    labels = torch.tensor([0, 1, 2, 3])
    names = dict(
        student=student, teacher=teacher, images=batch()[0], labels=labels,
        cross_entropy=nn.functional.cross_entropy,
    )  # fmt: skip
    exec(STEP, names)
    names['loss'].backward()
    assert names['terms'].keys() == {'shd', 'nkd'}
    assert student.backbone.layers[0].attn.qkv.weight.grad.any()


def test_tapping():
    names = dict(model=MODELS.build(mmpretrain_classifier(3)), images=batch()[0])
    exec(TAPPING, names)
    maps = names['maps']
    assert maps.shape == (4, 3, 17, 17)
    assert_close(maps.sum(-1), torch.ones(4, 3, 17))


def test_adding_a_family():
    class MyAttention(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_heads = 2
            self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
                nn.Linear(8, 8) for _ in range(4)
            )

        def forward(self, x):
            q, k, v = (
                module(x).unflatten(-1, (2, 4)).transpose(1, 2)
                for module in (self.q_proj, self.k_proj, self.v_proj)
            )
            x = nn.functional.scaled_dot_product_attention(q, k, v)
            return self.out_proj(x.transpose(1, 2).flatten(2))

    names = {}
    exec(FAMILY, names)
    ATTENTION_TAPS.register(MyAttention)(names['MyFamily'])
    model = nn.Sequential(MyAttention())
    bank = TapBank(model)
    with bank.record():
        output = model(torch.randn(2, 5, 8))
    (tap,) = bank.collect().attention
    assert bank.anatomy.dim == 8
    attended = attention_maps(tap.q, tap.k, tap.scale) @ tap.v
    assert_close(model[0].out_proj(attended.transpose(1, 2).flatten(2)), output)


def test_adding_a_loss(monkeypatch):
    # A copy of the registry, so that other tests don't meet the new loss.
    monkeypatch.setattr(MODELS, '_module_dict', dict(MODELS.module_dict))
    exec(LOSS, {})
    distiller = build_distiller(losses=dict(cls_token=dict(type='ClassTokenLoss')))
    distiller(*batch(), mode='loss')['loss_cls_token'].backward()
    assert distiller.student.backbone.layers[0].attn.qkv.weight.grad.abs().sum() > 0
