"""What responses are drawn from, against distributions without a cache."""

import pytest
import torch
from hosts.transformers.lm import gpt2, llama
from hosts.transformers.minillm.made import trainer
from torch.testing import assert_close

pytest.importorskip('trl')

from transformers import GenerationConfig

from shd_vit.hosts.transformers.minillm.sampling import mixed


@pytest.mark.parametrize('temperature', [1.0, 0.7])
@pytest.mark.parametrize('mix', [0.0, 0.25])
def test_each_token_is_drawn_from_the_mixture(temperature, mix):
    """Of both distributions at the temperature, in a left-padded batch, step by step."""
    student, teacher = llama().eval(), gpt2().eval()
    ids = torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    config = GenerationConfig(
        max_new_tokens=5,
        do_sample=True,
        temperature=temperature,
        top_k=0,
        pad_token_id=0,
        eos_token_id=49,
        return_dict_in_generate=True,
        output_scores=True,
    )
    with torch.no_grad(), mixed(student, teacher, mix, temperature):
        drawn = student.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    assert 'generate' not in vars(student)
    for step, scores in enumerate(drawn.scores):
        found = scores.softmax(-1)
        for row in range(2):
            so_far = drawn.sequences[row, 2 * (row == 0) : 5 + step]
            if 49 in so_far:
                continue
            with torch.no_grad():
                q, p = (
                    (model(input_ids=so_far[None]).logits[0, -1] / temperature).softmax(-1)
                    for model in (student, teacher)
                )
            assert_close(found[row], (1 - mix) * q + mix * p, rtol=1e-4, atol=1e-6)


def test_an_exception_leaves_generation_plain():
    student = llama()
    with pytest.raises(RuntimeError), mixed(student, gpt2(), 0.5, 1.0):
        raise RuntimeError
    assert 'generate' not in vars(student)


def test_the_trainer_mixes_in_training_alone(tmp_path):
    """The teacher all but draws alone; in evaluation the student does."""
    student, teacher = llama(), llama(heads=4, seed=7)
    for model, number in ((student, 10), (teacher, 20)):
        model.lm_head.weight.data.zero_()
        bias = torch.zeros(50)
        bias[number] = 40.0
        model.lm_head.bias = torch.nn.Parameter(bias)
    made = trainer(tmp_path, student, teacher, teacher_mix=0.999)
    for training, number in ((True, 20), (False, 10)):
        made.model.train(training)
        drawn = made._generate_and_score_completions([dict(prompt='w1 w2')] * 4)
        share = (drawn['completion_ids'] == number).float().mean()
        assert share > 0.9


def test_weights_are_those_of_the_mixture(tmp_path):
    """w = q / (0.6 q + 0.4 p) at each token that was drawn, by the models' own forward."""
    student, teacher = llama(), llama(heads=4, seed=7)
    made = trainer(tmp_path, student, teacher, teacher_mix=0.4)
    made.model.train()
    drawn = made._generate_and_score_completions([dict(prompt='w1 w2'), dict(prompt='w3 w4 w5')])
    for row in range(2):
        count = int(drawn['completion_mask'][row].sum())
        prompt = drawn['prompt_ids'][row][drawn['prompt_mask'][row].bool()]
        response = drawn['completion_ids'][row, :count]
        with torch.no_grad():
            q, p = (
                m(input_ids=torch.cat([prompt, response])[None])
                .logits[0, len(prompt) - 1 : -1]
                .softmax(-1)[range(count), response]
                for m in (student, teacher)
            )
        wanted = q / (0.6 * q + 0.4 * p)
        assert_close(drawn['importance_ratio'][row, :count], wanted, rtol=1e-4, atol=1e-5)
