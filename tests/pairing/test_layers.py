"""Which layers are paired."""

import pytest
from losses.taps import Model

from shd_vit.errors import ConfigError
from shd_vit.pairing.layers import layer_pairs


def hierarchical(role, *depths):
    model = Model(role, sum(depths))
    numbers = iter(range(1, model.depth + 1))
    model.stages = [[next(numbers) for _ in range(depth)] for depth in depths]
    return model


def test_swins_are_paired_stage_by_stage():
    """Swin-S to Swin-T: layers 5 to 10 of the student learn from 5 to 22 of the teacher."""
    student, teacher = hierarchical('student', 2, 2, 6, 2), hierarchical('teacher', 2, 2, 18, 2)
    third = [(5, 7), (6, 10), (7, 13), (8, 16), (9, 19), (10, 22)]
    pairs = [(1, 1), (2, 2), (3, 3), (4, 4), *third, (11, 23), (12, 24)]
    assert layer_pairs('uniform', student, teacher, 'SHDLoss') == pairs
    assert layer_pairs('last', student, teacher, 'SHDLoss') == [(12, 24)]


def test_a_stage_of_fewer_teacher_layers():
    student, teacher = hierarchical('student', 1, 3), hierarchical('teacher', 2, 2)
    assert layer_pairs('uniform', student, teacher, 'SHDLoss') == [(1, 2), (2, 3), (3, 4), (4, 4)]


def test_one_list_of_blocks_is_one_stage():
    pairs = layer_pairs('uniform', Model('student', 4), Model('teacher', 6), 'SHDLoss')
    assert pairs == [(1, 2), (2, 3), (3, 5), (4, 6)]


def test_other_numbers_of_stages_need_pairs():
    student, teacher = hierarchical('student', 2, 2), hierarchical('teacher', 4)
    message = r"SHDLoss.layers='uniform' pairs .* student has 2 of \[2, 2\] layers .* 1 of \[4\]"
    with pytest.raises(ConfigError, match=message):
        layer_pairs('uniform', student, teacher, 'SHDLoss')
    assert layer_pairs([(4, 2)], student, teacher, 'SHDLoss') == [(4, 2)]
    assert layer_pairs('last', student, teacher, 'SHDLoss') == [(4, 4)]
