"""A student that starts as layers of its teacher."""

import pytest
import torch
from hosts.transformers.lm import Texts, gpt2, llama
from torch.testing import assert_close

from shd_vit.errors import ConfigError
from shd_vit.hosts.transformers import initialise_from_teacher


@pytest.mark.parametrize('build', [llama, gpt2])
def test_all_layers_make_the_student_the_teacher(build):
    student, teacher, batch = build(heads=2), build(heads=2, seed=8), Texts(count=2).batch()
    copied = initialise_from_teacher(student, teacher)
    assert set(copied) == {name for name, _ in student.named_parameters()}
    with torch.no_grad():
        logits = [model.eval()(**batch).logits for model in (student, teacher)]
    assert logits[0].equal(logits[1])


def test_chosen_layers_are_copied_and_others_left():
    student, teacher = llama(layers=2), llama(layers=4, seed=8)
    before = student.model.layers[0].mlp.up_proj.weight.clone()
    initialise_from_teacher(student, teacher, layers=[(2, 3)])
    for name, parameter in student.model.layers[1].named_parameters():
        assert_close(parameter, teacher.model.layers[2].get_parameter(name), rtol=0, atol=0)
    assert student.model.layers[0].mlp.up_proj.weight.equal(before)
    initialise_from_teacher(student, teacher)
    assert student.model.layers[0].mlp.up_proj.weight.equal(
        teacher.model.layers[1].mlp.up_proj.weight
    )


@pytest.mark.parametrize(
    'student, message',
    [
        (gpt2, 'the student is a GPT2LMHeadModel, the teacher a LlamaForCausalLM'),
        (lambda: llama(heads=4), 'the student has 4 heads a layer, the teacher 2'),
        (lambda: llama(vocabulary=60), r'embed_tokens.weight of the student is \(60, 16\)'),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_copied(student, message):
    made = student()
    before = {name: x.clone() for name, x in made.state_dict().items()}
    with pytest.raises(ConfigError, match=message):
        initialise_from_teacher(made, llama(seed=8))
    assert_close(made.state_dict(), before, rtol=0, atol=0)
