"""Teachers and students of many families, through every classifier.

Trusted are the maps that the models really compute, in float64: rows and columns of tokens that are
not compared are deleted, and the rows that are left normalised to 1.
"""

import copy

import pytest
import references
import torch
from hosts.mmpretrain import pairs as zoo
from models import batch
from taps.zoo import actual_maps
from tooling import run_tool
from torch.testing import assert_close

from shd_vit.distillation import Distillation, summary
from shd_vit.errors import ConfigError, UnsupportedAttention
from shd_vit.lab.models import record
from shd_vit.lab.pairs import descend, row, shd_loss
from shd_vit.losses import (
    AttentionTransferLoss,
    SelfCorrelationLoss,
    SHDLoss,
)
from shd_vit.taps import Anatomy

# Tokens that are compared, of teacher and student: (class, [distillation or registers,] 16 patches)
KEPT = {
    'DeiT3-S -> distilled DeiT-Ti': (range(17), [0, *range(2, 18)]),
    'DINOv2-S with registers -> DeiT-Ti': ([0, *range(5, 21)], range(17)),
    'DINOv2-S with registers -> distilled DeiT-Ti': (range(5, 21), range(2, 18)),
}
# In a Swin's third stage of six layers, the student's two are layers 5 and 6.
SWIN = [(1, 1), (2, 2), (3, 3), (4, 4), (5, 7), (6, 10), (7, 11), (8, 12)]


def among(maps, tokens):
    """Maps of these tokens alone."""
    maps = maps[..., list(tokens), :][..., list(tokens)]
    return maps / maps.sum(-1, keepdim=True)


def reference(distiller, images, pairs, kept):
    """SHD of all layers, from the maps of both models and the teacher's values."""
    with actual_maps(distiller.student) as student, torch.no_grad():
        distiller.student(images)
    with actual_maps(distiller.teacher) as teacher, torch.no_grad():
        distiller.teacher(images)
    taps = record(distiller, images)[1].attention
    total = 0.0
    for s, t in pairs:
        own, others = student[s - 1], teacher[t - 1]
        value = taps[t].v
        if kept:
            others, own = (
                among(maps, tokens) for maps, tokens in zip((others, own), kept, strict=True)
            )
            value = value[:, :, list(kept[0])]
        target, _ = references.squeeze_heads(others, value, taps[t].out_proj, own.shape[1])
        # 0 log 0 is 0: what a shifted window hides from both.
        rows = torch.where(target > 1e-30, target * (target.log() - own.log()), 0.0).sum(-1)
        total = total + rows.sum(1).mean()
    return total


@pytest.mark.parametrize('name', zoo.PAIRS)
def test_every_pair_has_the_loss_of_its_real_maps_and_learns(name, tmp_path):
    distiller = zoo.build(name, zoo.TINY, tmp_path)
    images, samples = batch(1 if 'Swin' in name else 2)
    pairs = SWIN if 'Swin' in name else [(n, n) for n in range(1, 5)]
    value = distiller(images, samples, mode='loss')['loss_shd']
    expected = reference(distiller, images, pairs, KEPT.get(name))
    assert expected > 0.1
    assert_close(value.double(), expected, rtol=1e-4, atol=0)
    before, reached = descend(distiller, images)
    assert reached
    assert before == value.item()
    assert shd_loss(distiller, images)[0] < before


def test_a_row_says_what_was_paired_and_whether_it_learns(tmp_path):
    name = 'DeiT3-S -> distilled DeiT-Ti'
    cells = row(name, zoo.build(name, zoo.TINY, tmp_path), zoo.TINY.image)
    assert cells[0] == name
    assert cells[2:5] == ['1-4', '6 -> 3', 'cls']
    assert float(cells[6]) < float(cells[5])
    assert cells[-1] == 'yes'


@pytest.mark.slow
def test_the_tool_writes_the_table(tmp_path, monkeypatch):
    """Of the published pair: a config of mmpretrain's and a timm name."""
    run_tool(
        'analysis/pairs', monkeypatch, 'mmpretrain::deit3/deit3-small-p16_64xb64_in1k.py',
        'deit_tiny_patch16_224', '--out', tmp_path / 'pairs.md',
    )  # fmt: skip
    _, line = (tmp_path / 'pairs.md').read_text().splitlines()[-2:]
    cells = [cell.strip() for cell in line.strip('|').split('|')]
    assert cells[1] == 'ImageClassifier(DeiT3) -> TimmClassifier(VisionTransformer)'
    assert cells[2:5] == ['1-12', '6 -> 3', 'cls']
    assert cells[-1] == 'yes'


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['a', 'b', 'c'], "'c' has no student: models come in pairs"),
        (['vit_tiny_patch16_224', 'b'], "'b' is neither a model of timm nor the .py file"),
        (['a', 'b', '--images', 0], '--images=0 must be at least 1'),
        (['a', 'b', '--image-size', -1], '--image-size=-1 must be at least 1'),
    ],
)
def test_mistakes_are_named(arguments, message, monkeypatch):
    with pytest.raises(ConfigError, match=message):
        run_tool('analysis/pairs', monkeypatch, *arguments)


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    """Student and teacher by name, built alone."""
    from mmpretrain.models import build_classifier

    folder = tmp_path_factory.mktemp('models')
    registers = zoo.timm_vit('vit_small_patch14_reg4_dinov2', 3)(zoo.TINY, folder)
    made = dict(
        distilled=zoo.TIMM_DISTILLED_DEIT_TI(zoo.TINY, folder),
        one_register={**registers, 'reg_tokens': 1},
        plain=zoo.DEIT_TI(zoo.TINY, folder),
        swin=zoo.timm_swin(6, 3)(zoo.TINY, folder),
    )
    return {name: build_classifier(cfg) for name, cfg in made.items()}


@pytest.mark.parametrize('loss', [SHDLoss, AttentionTransferLoss, SelfCorrelationLoss])
def test_as_many_tokens_of_other_names_are_refused(models, loss):
    """18 tokens each: class, distillation against class, register."""
    student, teacher = Anatomy(models['distilled']), Anatomy(models['one_register'])
    message = 'student has cls, dist, the teacher cls, reg1'
    with pytest.raises(ConfigError, match=message) as error:
        loss().bind(student, teacher)
    assert ("SHDLoss.tokens='shared'" in str(error.value)) == (loss is SHDLoss)


def test_what_is_shared_is_said_in_the_summary(models, tmp_path):
    loss = SHDLoss(tokens='shared')
    loss.bind(Anatomy(models['distilled']), Anatomy(models['one_register']))
    assert 'tokens=shared (cls, patches)' in loss.extra_repr()
    distiller = zoo.build('DeiT3-S -> distilled DeiT-Ti', zoo.TINY, tmp_path)
    text = summary(distiller.distillation)
    assert 'tokens=shared' in text and 'patches)' in text
    assert 'cls, dist' in text


def test_stages_and_windows_have_no_tokens_to_share(models):
    swin, vit = Anatomy(models['swin'], 'student'), Anatomy(models['plain'], 'teacher')
    assert swin.stages == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert vit.stages == [[1, 2, 3, 4]]
    with pytest.raises(ConfigError, match=r'student has 4 of \[2, 2, 2, 2\].* write layers='):
        SHDLoss().bind(swin, vit)
    with pytest.raises(UnsupportedAttention, match='stand in 4 lists'):
        SHDLoss(tokens='shared').bind(swin, swin)
    assert SHDLoss(layers='last', tokens='all').bind(swin, swin)[0].attention == (8,)


def test_shifted_windows_are_not_compared_with_others(models):
    swin, images = models['swin'], batch(2)[0]
    loss = SHDLoss(layers=[(1, 2)], compile=False)
    teacher = copy.deepcopy(swin)
    d = Distillation(dict(shd=loss), swin, teacher)
    with pytest.raises(
        ConfigError, match='128 windows in student layer 1, 128 shifted windows in teacher layer 2'
    ):
        d.terms(d.record_student(swin, images), d.teacher(teacher, images), None)
