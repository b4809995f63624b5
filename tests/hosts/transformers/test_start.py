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
        (
            lambda: llama(heads=4),
            'the student has 4 heads a layer, the teacher 2: give both as many',
        ),
        (lambda: llama(vocabulary=60), r'embed_tokens.weight of the student is \(60, 16\)'),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_copied(student, message):
    made = student()
    before = {name: x.clone() for name, x in made.state_dict().items()}
    with pytest.raises(ConfigError, match=message):
        initialise_from_teacher(made, llama(seed=8))
    assert_close(made.state_dict(), before, rtol=0, atol=0)


def grouped(heads, key_heads, seed=0, **kwargs):
    """Heads of 4, whatever the width."""
    return llama(heads=heads, num_key_value_heads=key_heads, head_dim=4, seed=seed, **kwargs)


@pytest.mark.parametrize(
    'heads, key_heads, student',
    [
        ([1, 2, 3, 4, 5, 6, 7, 8], (4, 4), 8),  # all of them
        ([5, 2], (8, 2), 2),  # each with keys of its own
        ([4, 3, 7, 8], (4, 2), 4),  # groups of two
        ([8, 7], (2, 1), 2),
    ],
)
def test_chosen_heads_compute_what_the_teacher_computes_without_the_others(
    heads, key_heads, student
):
    made, teacher = grouped(student, key_heads[1]), grouped(8, key_heads[0], seed=8)
    initialise_from_teacher(made, teacher, heads=heads)
    others = [h for h in range(8) if h + 1 not in heads]
    with torch.no_grad():
        for layer in teacher.model.layers:  # what other heads say is not heard
            layer.self_attn.o_proj.weight.unflatten(1, (8, 4))[:, others] = 0
        batch = Texts(count=2).batch()
        logits = [model.eval()(**batch).logits for model in (made, teacher)]
    assert_close(*logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    'student, heads, message',
    [
        (lambda: grouped(2, 2), [1], 'must be 2 different heads of the teacher, from 1 to 8'),
        (lambda: grouped(2, 2), [1, 9], 'must be 2 different heads'),
        (lambda: grouped(2, 2), [1, 1], 'must be 2 different heads'),
        (lambda: grouped(2, 2), [0, 1], 'must be 2 different heads'),
        (lambda: grouped(2, 1), [2, 3], 'heads 2, 3 of the teacher do not share keys'),
        (lambda: llama(heads=2, head_dim=8), [1, 2], 'a head of the student is 8 wide, one of'),
        (
            lambda: grouped(8, 4, tie_word_embeddings=True),
            None,
            'embed_tokens.weight and lm_head.weight are one weight of the student, but two',
        ),
    ],
)
def test_heads_that_cannot_be_chosen_are_refused(student, heads, message):
    made = student()
    before = {name: x.clone() for name, x in made.state_dict().items()}
    with pytest.raises(ConfigError, match=message) as caught:
        initialise_from_teacher(made, grouped(8, 4, seed=8), heads=heads)
    assert '\n' not in str(caught.value)
    assert_close(made.state_dict(), before, rtol=0, atol=0)


def test_heads_of_gpt2_are_not_apart():
    with pytest.raises(ConfigError, match='GPT2Attention of the student has no q_proj'):
        initialise_from_teacher(gpt2(heads=2), gpt2(heads=4), heads=[1, 2])


def test_a_tied_teacher_fills_a_student_that_is_not_tied():
    student, teacher = llama(), llama(seed=8, tie_word_embeddings=True)
    initialise_from_teacher(student, teacher)
    assert student.lm_head.weight.equal(teacher.model.embed_tokens.weight)


def test_what_the_teacher_has_besides_is_refused():
    teacher = llama(seed=8, attention_bias=True)
    with pytest.raises(
        ConfigError, match=r'the teacher has model\.layers\.0\.self_attn\.\w+\.bias'
    ):
        initialise_from_teacher(llama(), teacher)
