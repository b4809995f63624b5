"""What cannot be distilled is refused when the trainer is built, in one line."""

from types import SimpleNamespace

import pytest
from hosts.transformers.lm import DistillTrainer, Texts, arguments, gpt2, llama, trainer
from tokenizers import Tokenizer, models
from torch import nn
from torch.utils.data import IterableDataset
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from shd_vit.errors import ConfigError, UnsupportedAttention
from shd_vit.hosts.transformers.checks import check_trainer


def words(*, swap=False, count=50):
    """A tokenizer of so many words, two of them swapped."""
    vocabulary = {f'word{n}': n for n in range(count)}
    if swap:
        vocabulary['word7'], vocabulary['word9'] = 9, 7
    model = models.WordLevel(vocabulary, unk_token='word0')
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(model), pad_token='word0', eos_token='word1'
    )


def bart():
    sizes = dict.fromkeys(('encoder_layers', 'decoder_layers'), 1)
    sizes |= dict.fromkeys(('encoder_attention_heads', 'decoder_attention_heads'), 2)
    sizes |= dict.fromkeys(('encoder_ffn_dim', 'decoder_ffn_dim', 'd_model'), 16)
    return BartForConditionalGeneration(BartConfig(vocab_size=50, **sizes))


def eager(model):
    model.config._attn_implementation = 'eager'
    return model


REFUSED = {
    'encoder-decoder teacher': (
        dict(teachers=bart),
        'the teacher BartForConditionalGeneration is an encoder-decoder',
    ),
    'encoder-decoder student': (
        dict(student=bart),
        'the student BartForConditionalGeneration is an encoder-decoder',
    ),
    'more heads': (
        dict(student=lambda: llama(heads=8)),
        'student layer 1 has 8 heads, teacher layer 1 has 4',
    ),
    'attention that cannot be tapped': (
        dict(student=lambda: eager(llama())),
        r"'eager' is none of sdpa, flash_attention_2.*set_attn_implementation\('sdpa'\)",
    ),
    'reentrant checkpointing': (
        dict(
            gradient_checkpointing=True,
            gradient_checkpointing_kwargs=lambda: dict(use_reentrant=True),
        ),
        'gradient_checkpointing_kwargs.use_reentrant=True runs layers without gradients',
    ),
    'a list of losses': (
        dict(losses=lambda: ['shd']),
        r"losses=\['shd'\] must be a dict by name",
    ),
    'no loss': (dict(losses=dict), 'there is nothing to distil'),
    'unknown loss': (dict(losses=lambda: dict(shdd=True)), 'did you mean shd'),
    'loss that is none': (dict(losses=lambda: dict(shd=2.0)), 'losses.shd=2.0 must be True'),
    'a name that the log has': (
        dict(losses=lambda: dict(loss=dict(type='KDLoss'))),
        'losses.loss: the log of the trainer has that name already',
    ),
    'schedule of nothing': (
        dict(schedules=lambda: dict(kd=dict(stop=1))),
        r'schedules.kd: there is no such loss',
    ),
    'attention of no teacher': (
        dict(attention_teacher=1),
        'attention_teacher=1 must be between 0 and 0',
    ),
    'no teacher': (dict(teachers=list), 'teachers=.* must be a model, or several'),
    'what is no teacher': (dict(teachers=lambda: ['gpt2']), 'teachers=.* must be a model'),
    'too few tokenizers': (
        dict(teacher_tokenizers=lambda: [words(), words()]),
        'teacher_tokenizers has 2 entries, teachers 1',
    ),
    'weight': (dict(task_loss_weight=-1), 'task_loss_weight=-1 must be a finite number'),
    'weights in common': (
        dict(student=lambda: STUDENT, teachers=lambda: STUDENT),
        'of the student is also',
    ),
    'a student made later': (
        dict(student=lambda: None, model_init=lambda: lambda: llama()),
        'model_init makes the student anew',
    ),
    'other sizes, no tokenizer': (
        dict(teachers=lambda: gpt2(vocabulary=64)),
        'the student knows 50 tokens, the teacher 64: whether they are the same',
    ),
    'other sizes, and words that one lacks': (
        dict(teachers=lambda: gpt2(vocabulary=64), processing_class=lambda: words(count=60)),
        'one of them lacks tokens',
    ),
    'other words': (
        dict(processing_class=words, teacher_tokenizers=lambda: words(swap=True)),
        "differ in 2 tokens: 'word7' is 7 of the student, 9 of the teacher",
    ),
}
STUDENT = llama()


@pytest.mark.parametrize('name', REFUSED)
def test_refused(tmp_path, name):
    options, message = REFUSED[name]
    made = {key: value() if callable(value) else value for key, value in options.items()}
    with pytest.raises((ConfigError, UnsupportedAttention), match=message) as caught:
        if 'model_init' in made:
            DistillTrainer(
                model_init=made['model_init'],
                args=arguments(tmp_path),
                teachers=gpt2(),
                losses=dict(shd=True),
            )
        else:
            trainer(tmp_path, **made)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('sizes', [(50, 64), (64, 50)])
def test_vocabularies_of_padded_sizes_are_compared_where_they_are_the_same(tmp_path, sizes):
    made = trainer(
        tmp_path,
        student=llama(vocabulary=sizes[0]),
        teachers=gpt2(vocabulary=sizes[1]),
        losses=dict(kd=True),
        processing_class=words(),
        teacher_tokenizers=words(),
    )
    made.train()
    assert made.teachers.vocabulary == 50 and made.state.log_history[0]['kd'] > 0


def test_reentrant_checkpointing_is_nothing_to_losses_on_logits(tmp_path):
    made = trainer(
        tmp_path,
        losses=dict(kd=True),
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs=dict(use_reentrant=True),
    )
    made.train()
    assert made.state.log_history[0]['kd'] > 0


def test_batches_that_a_teacher_would_misread(tmp_path):
    made, batch = trainer(tmp_path), Texts().batch()
    embedded = dict(batch, inputs_embeds=made.model.get_input_embeddings()(batch['input_ids']))
    del embedded['input_ids']
    with pytest.raises(ConfigError, match='the batch has no input_ids'):
        made.compute_loss(made.model, embedded)


def test_schedules_need_a_data_set_that_ends(tmp_path):
    class Endless(IterableDataset):
        def __iter__(self):
            yield from Texts().rows

    with pytest.raises(ConfigError, match=r'schedules.shd counts epochs'):
        trainer(tmp_path, texts=Endless(), schedules=dict(shd=dict(warm_up=1)))
    made = trainer(tmp_path, texts=Endless())
    made.train()
    assert made.state.log_history[0]['shd'] > 0


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(is_fsdp_enabled=True), 'fsdp shards or wraps weights'),
        (dict(is_deepspeed_enabled=True), 'deepspeed shards or wraps weights'),
        (dict(n_gpu=2), 'n_gpu=2: one process for several devices'),
        (dict(lr_scheduler=object()), 'optimizers has a schedule, made without .* losses.fd'),
    ],
)
def test_ways_of_training_that_were_never_run(settings, message):
    args = SimpleNamespace(n_gpu=settings.pop('n_gpu', 1), gradient_checkpointing_kwargs=None)
    plain = dict(is_fsdp_enabled=False, is_deepspeed_enabled=False, lr_scheduler=None)
    made = SimpleNamespace(args=args, model_init=None, **{**plain, **settings})
    losses = nn.ModuleDict(dict(shd=nn.Identity(), fd=nn.Linear(2, 2)))
    with pytest.raises(ConfigError, match=message):
        check_trainer(made, losses, reads_layers=True)


def test_a_teacher_that_is_spread_over_devices(tmp_path):
    teacher = gpt2()
    for places in ({'transformer': 'cpu', 'lm_head': 1}, {'': 'disk'}):
        teacher.hf_device_map = places
        with pytest.raises(ConfigError, match=r'the teacher is spread over .*load it onto cpu'):
            trainer(tmp_path, teachers=teacher)
    teacher.hf_device_map = {'': 'cpu'}
    trainer(tmp_path, teachers=teacher).train()


def test_a_teacher_is_held_against_the_tokenizer_that_it_was_saved_with(tmp_path):
    gpt2().save_pretrained(tmp_path / 'saved')
    teacher = GPT2LMHeadModel.from_pretrained(tmp_path / 'saved')
    trainer(tmp_path, teachers=teacher, processing_class=words())  # none was saved
    words(swap=True).save_pretrained(tmp_path / 'saved')
    with pytest.raises(ConfigError, match="differ in 2 tokens: 'word7'"):
        trainer(tmp_path, teachers=teacher, processing_class=words())
