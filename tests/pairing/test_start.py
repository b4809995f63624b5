"""A student that starts from its teacher's blocks, of a model that no host has a function for."""

import pytest
import torch
from hosts.diffusers.test_mdt import inputs, model

from shd_vit.errors import ConfigError
from shd_vit.pairing.start import initialise_from_teacher


def test_mdt_starts_as_its_teacher():
    teacher, student = model(), model()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.normal_()
    copied = initialise_from_teacher(student, teacher)
    assert set(copied) == {name for name, _ in student.named_parameters()}
    with torch.no_grad():
        outputs = [m.eval()(*inputs())[0] for m in (student, teacher)]
    assert torch.equal(*outputs)


def test_a_block_of_another_stage_is_refused_and_nothing_is_copied():
    """Blocks of one half merge a skip connection, those of the other do not."""
    teacher, student = model(), model()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.normal_()
    before = {name: x.clone() for name, x in student.named_parameters()}
    last = teacher.config.num_layers
    for pair in ((1, last), (last, 1)):
        with pytest.raises(ConfigError, match='merge') as caught:
            initialise_from_teacher(student, teacher, [pair])
        assert '\n' not in str(caught.value)
    assert all(torch.equal(x, before[name]) for name, x in student.named_parameters())
