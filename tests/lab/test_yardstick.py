"""The benchmark's yardstick is the paper's text: against float64 loops, and against SHDLoss."""

import pytest
import references
import torch
from models import batch, build_distiller, mmpretrain_classifier
from torch.testing import assert_close

from shd_vit.lab.models import record
from shd_vit.lab.yardstick import LiteralSHDLoss, literal_shd
from shd_vit.losses import SHDLoss
from shd_vit.taps import AttentionTap


def tap(heads):
    q, k, v = (torch.randn(2, heads, 5, 4) for _ in range(3))
    return AttentionTap(q, k, v, torch.randn(4 * heads, 4 * heads), 0.5)


@pytest.mark.parametrize('heads, temperature', [((6, 3), 1.0), ((7, 3), 2.0), ((5, 5), 1.0)])
def test_a_layer(heads, temperature):
    teacher, student = map(tap, heads)
    maps = references.softmax_maps(teacher.q, teacher.k, teacher.scale, temperature)
    target, _ = references.squeeze_heads(maps, teacher.v, teacher.out_proj, heads[1])
    expected = references.attention_kl(student.q, student.k, target, student.scale, temperature)
    assert_close(literal_shd(student, teacher, temperature).double(), expected, rtol=1e-4, atol=0)


def test_it_takes_the_place_of_the_loss():
    loss = dict(shd=dict(type='SHDLoss', compile=False, beta=2.0))
    distiller = build_distiller(mmpretrain_classifier(3), mmpretrain_classifier(6), loss)
    outputs = record(distiller, batch(2)[0])
    literal = LiteralSHDLoss(beta=2.0)
    literal.pairs = distiller.losses['shd'].pairs
    assert isinstance(literal, SHDLoss)
    expected = distiller.losses['shd'](*outputs, None)
    assert_close(literal(*outputs, None), expected, rtol=1e-4, atol=0)
