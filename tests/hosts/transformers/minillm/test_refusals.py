"""Bad input: one line that says what, and what is allowed."""

import pytest
import torch
from hosts.transformers.lm import gpt2, llama
from hosts.transformers.minillm.made import batch, learn, prompts, trainer
from hosts.transformers.test_trl import datasets, tokenizer
from torch.testing import assert_close

trl = pytest.importorskip('trl')

from shd_vit.errors import ConfigError, NonFiniteLoss  # noqa: E402
from shd_vit.hosts.transformers import MiniLLMTrainer  # noqa: E402


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(gamma=1.5), 'gamma=1.5 must be .* at most 1'),
        (dict(reward_scale=0), 'reward_scale=0 must be .* above 0'),
        (dict(reward_clip=-1.0), 'reward_clip=-1.0'),
        (dict(num_iterations=1.5), 'num_iterations=1.5 must be a whole number'),
        (dict(teacher_mix=1.0), 'teacher_mix=1'),
        (dict(teacher_mix=-0.1), 'teacher_mix=-0.1'),
        (dict(kd_ratio=float('nan')), 'kd_ratio=nan'),
        (dict(returns='all'), "returns='all' must be one of"),
        (dict(importance='none'), "importance='none' must be one of"),
        (dict(max_completion_length=0), 'max_completion_length=0'),
        (dict(beta=0.5), 'beta=0.5: MiniLLM is the reverse KL'),
        (dict(steps_per_generation=3, gradient_accumulation_steps=2), 'must be a multiple of'),
        (dict(single_step=False, long_term=False), 'leave nothing to learn'),
        (dict(single_step=False), "single_step=False needs returns='own'"),
        (dict(use_vllm=True), 'use_vllm=True draws from the student alone'),
        (dict(top_k=50), 'top_k=50: the long-term term needs'),
        (dict(top_p=0.9), 'top_p=0.9'),
        (dict(repetition_penalty=1.2), 'repetition_penalty=1.2'),
        (dict(generation_kwargs=dict(num_beams=2)), 'generation_kwargs='),
        (dict(disable_dropout=False), 'disable_dropout=False'),
    ],
)
def test_settings(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        trainer(tmp_path, **settings)


def test_what_only_the_long_term_needs_is_free_without_it(tmp_path):
    made = trainer(tmp_path, long_term=False, teacher_mix=0.0, top_k=5, disable_dropout=False)
    assert made.top_k == 5


def test_arguments(tmp_path):
    with pytest.raises(ConfigError, match='needs a teacher_model, and args: MiniLLMConfig'):
        trainer(tmp_path, config=trl.DistillationConfig)
    with pytest.raises(ConfigError, match='needs a teacher_model'):
        MiniLLMTrainer(model=llama())


def test_a_prompt_longer_than_the_limit(tmp_path):
    rows = datasets.Dataset.from_list([dict(prompt='w1 w2'), dict(prompt='w1 w2 w3')] * 4)
    with pytest.raises(ConfigError, match='row 1 has a prompt of 3 tokens, more than 2'):
        trainer(tmp_path, train_dataset=rows, max_prompt_length=2)
    made = trainer(tmp_path, train_dataset=rows, max_prompt_length=3)
    with pytest.raises(ConfigError, match='row of the batch 0 has a prompt of 4 tokens'):
        made._tokenize_prompts(['w1 w2 w3 w4'])


def test_a_prompt_that_leaves_no_room_in_the_models(tmp_path):
    """32 positions: 28 for the prompt, where responses have up to 4."""
    rows = datasets.Dataset.from_list([dict(prompt='w1 ' * 28)] * 8)
    assert trainer(tmp_path, train_dataset=rows).prompt_limit == 28
    rows = datasets.Dataset.from_list([dict(prompt='w1 ' * 29)] * 8)
    with pytest.raises(ConfigError, match='row 0 has a prompt of 29 tokens, more than 28'):
        trainer(tmp_path, train_dataset=rows)
    with pytest.raises(ConfigError, match='max_completion_length=32 leaves no room'):
        trainer(tmp_path, max_completion_length=32)


def test_data(tmp_path):
    with pytest.raises(ConfigError, match='row 0 has a prompt without tokens'):
        trainer(tmp_path, train_dataset=datasets.Dataset.from_list([dict(prompt='')] * 8))
    with pytest.raises(ConfigError, match=r'no column prompt \(it has text\)'):
        trainer(tmp_path, train_dataset=datasets.Dataset.from_list([dict(text='w1')] * 8))
    with pytest.raises(ConfigError, match='train_dataset has 3 rows, a generation batch 4'):
        trainer(tmp_path, train_dataset=prompts(3), steps_per_generation=2)
    stream = prompts().to_iterable_dataset()
    with pytest.raises(ConfigError, match='train_dataset is a stream'):
        trainer(tmp_path, train_dataset=stream, max_steps=1)


def test_plain_text(tmp_path):
    with pytest.raises(ConfigError, match='lm_dataset has 1 rows, a batch of all processes 2'):
        trainer(tmp_path, lm_dataset=[dict(input_ids=[1, 2])])
    made = trainer(tmp_path, lm_dataset=[dict(input_ids=[1, 2]), dict(input_ids=[1, 2, 3])])
    with pytest.raises(ConfigError, match='rows of lm_dataset have 2 and 3 tokens'):
        made.corpus.batch(0)
    made = trainer(tmp_path, lm_dataset=[dict(input_ids=[1])] * 2)
    with pytest.raises(ConfigError, match='have 1 tokens'):
        made.corpus.batch(0)


def test_a_response_without_tokens(tmp_path, monkeypatch):
    made = trainer(tmp_path, teacher_mix=0.0)
    monkeypatch.setattr(trl.DistillationTrainer, '_generate_single_turn', lambda *_: [[7], []])
    with pytest.raises(ConfigError, match='response 1 of the batch has no tokens'):
        made._generate(['w1', 'w2'])


def test_a_response_that_ends_at_once_learns_from_its_end(tmp_path):
    """It has no later token to answer for, and the end itself is compared with the teacher's."""
    made = trainer(tmp_path, whiten=False)
    made.model.train()
    inputs = batch([[1], [1]])
    inputs.update(made._score(inputs))
    assert_close(inputs['advantages'], torch.zeros(2, 1))
    loss, grads = learn(made, inputs)
    only, only_grads = learn(trainer(tmp_path, made.model, long_term=False), inputs)
    assert loss > 0
    assert_close(loss, only)
    assert_close(grads, only_grads)


@pytest.mark.parametrize('value', [float('-inf'), float('nan')])
def test_a_reward_that_is_not_finite(tmp_path, value):
    teacher = llama(heads=4, seed=7)
    teacher.lm_head.bias = torch.nn.Parameter(torch.zeros(50))
    teacher.lm_head.bias.data[8] = value
    made = trainer(tmp_path, teacher=teacher)
    shown = value if value == value else 'nan'
    with pytest.raises(NonFiniteLoss, match=f'reward of token . of response 0 is {shown}'):
        made._score(batch([[7, 8, 1], [9, 1]]))


def test_a_loss_that_is_not_finite(tmp_path):
    """A student that has run away from the responses that it drew."""
    made = trainer(tmp_path, epsilon=None)
    made.model.train()
    inputs = batch([[7, 8, 1], [9, 1]])
    inputs.update(made._score(inputs))
    inputs['old_log_probs'] = inputs['old_log_probs'] - 1000.0
    with pytest.raises(NonFiniteLoss, match=r'^long_term=(inf|-inf|nan) is not finite'):
        learn(made, inputs)


def test_a_teacher_with_more_padding_in_its_vocabulary(tmp_path):
    """The tokenizer has 50 tokens, as the student; the teacher's last 14 rows are no tokens."""
    padded, plain = llama(heads=4, seed=7, vocabulary=64), llama(heads=4, seed=7)
    plain.load_state_dict(
        {name: x[:50] if len(x) == 64 else x for name, x in padded.state_dict().items()}
    )
    inputs, found = batch([[7, 8, 1], [9, 1]]), []
    for teacher in (padded, plain):
        made = trainer(tmp_path, teacher=teacher, teacher_tokenizer=tokenizer())
        made.model.train()
        found.append(learn(made, {**inputs, **made._score(inputs)}))
    assert_close(*found)
    assert padded.lm_head.weight.shape[0] == padded.config.vocab_size == 50


def test_vocabularies_that_are_not_the_same(tmp_path):
    with pytest.raises(ConfigError, match=r'resize_token_embeddings\(50\)'):
        trainer(tmp_path, llama(vocabulary=64))
    with pytest.raises(ConfigError, match='lacks tokens'):
        trainer(tmp_path, teacher=llama(heads=4, seed=7, vocabulary=40))
    other = tokenizer()
    other.add_tokens(['new'])
    with pytest.raises(ConfigError, match='tokenizers of student and teacher differ in 1 tokens'):
        trainer(tmp_path, teacher_tokenizer=other)


def test_models(tmp_path):
    for student, teacher, role in ((True, False, 'student'), (False, True, 'teacher')):
        models = llama(), llama(heads=4, seed=7)
        for model, is_scaled in zip(models, (student, teacher), strict=True):
            if is_scaled:
                model.config.final_logit_softcapping = 30.0
        with pytest.raises(ConfigError, match=f'final_logit_softcapping of the {role}'):
            trainer(tmp_path, *models)


def test_no_tools(tmp_path):
    made = trainer(tmp_path, teacher=gpt2())
    made.tools = [print]
    from shd_vit.hosts.transformers.minillm.checks import check_rollouts

    with pytest.raises(ConfigError, match='no tools'):
        check_rollouts(made, made.teacher_inside())
