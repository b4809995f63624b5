"""Trainings from settings: what is learned, kept and refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from lab.language.text import tokenizer, write_models, write_text
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback

from shd_vit.data.text.tokens import Chunks, TokenFile
from shd_vit.errors import CheckpointError, ConfigError, DatasetError, NonFiniteLoss, ShdVitError
from shd_vit.lab.language import train as training
from shd_vit.lab.language.rows import sequences
from shd_vit.lab.language.settings import Settings
from shd_vit.lab.language.trainers import TRAINERS, kind_of
from shd_vit.lab.settings import merge

LLAMA = dict(
    type='LlamaConfig',
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=32,
)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A text of 203 tokens, models of its vocabulary, and rows of instructions."""
    folder = tmp_path_factory.mktemp('data')
    write_text(folder / 'text', speeches=120, novels=83)
    write_models(folder)
    rows = [dict(prompt=f'w{n} w{n + 1}', output=f'w{n + 2} w4') for n in range(3, 20)]
    (folder / 'rows.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def settings(data, tmp_path):
    def make(**changes):
        values = dict(
            model=LLAMA,
            text=dict(folder=str(data / 'text'), length=8, random_offset=True),
            arguments=dict(
                output_dir=str(tmp_path / 'out'),
                per_device_train_batch_size=4,
                max_steps=4,
                learning_rate=0.01,
                logging_steps=1,
                save_steps=2,
                use_cpu=True,
            ),
        )
        return Settings(**merge(values, changes))

    return make


def distilled(data, **losses):
    return dict(teachers=[str(data / 'gpt2')], losses=losses or dict(shd=dict(backend='torch')))


def weights(folder):
    return load_file(folder / 'model.safetensors')


def test_the_loss_of_validation_is_that_of_a_loop_over_tokens(settings, data, tmp_path):
    metrics = training.train(settings(text=dict(validation=5)), False)
    out = tmp_path / 'out'
    student = AutoModelForCausalLM.from_pretrained(out).double().eval()
    ids = np.fromfile(data / 'text/validation.bin', '<u2').astype(int)
    nats = []
    for number in (0, 6, 12, 18, 24):  # of 25 sequences
        window = torch.tensor(ids[number * 8 : number * 8 + 8])
        chances = student(window[None]).logits[0].softmax(-1)
        nats += [-chances[n, window[n + 1]].log().item() for n in range(7)]
    assert metrics['eval_loss'] == pytest.approx(np.mean(nats), rel=1e-5)
    assert metrics['perplexity'] == pytest.approx(np.exp(np.mean(nats)), rel=1e-5)
    assert metrics['tokens'] == 4 * 4 * 8 and metrics['steps'] == 4
    assert metrics['parameters'] == sum(p.numel() for p in student.parameters())
    assert json.loads((out / 'metrics.json').read_text()) == metrics
    assert (student.config.pad_token_id, student.config.eos_token_id) == (0, 1)
    assert len(tokenizer()) == student.config.vocab_size
    with pytest.raises(ConfigError, match=r'out. has a training in it: go on with --resume'):
        training.train(settings(), False)


def test_every_epoch_is_cut_at_its_own_offset(settings, data, monkeypatch):
    seen = []

    class Watch(TrainerCallback):
        def on_step_begin(self, args, state, control, train_dataloader, **kwargs):
            seen.append((int(state.epoch), train_dataloader.dataset[0]['input_ids'].tolist()))

    make = training.make_trainer

    def watched(*args):
        trainer = make(*args)
        trainer.add_callback(Watch())
        return trainer

    monkeypatch.setattr(training, 'make_trainer', watched)
    training.train(settings(arguments=dict(max_steps=30, seed=5)), False)
    expected = Chunks(TokenFile(data / 'text', 'train').tokens, 8, True, seed=5)
    assert max(epoch for epoch, _ in seen) >= 4
    for epoch, first in seen:
        expected.set_epoch(epoch)
        assert first == expected[0]['input_ids'].tolist()
    assert len({tuple(first) for _, first in seen}) > 2


@pytest.mark.parametrize('step', [2, 8])
def test_a_resumed_training_ends_at_the_same_bits(settings, data, tmp_path, step):
    """Interrupted within the first epoch of 6 steps, and within the second."""
    run = settings(**distilled(data), arguments=dict(max_steps=10, save_total_limit=None))
    whole = training.train(run, False)
    learned = weights(tmp_path / 'out')
    checkpoint = tmp_path / 'out' / f'checkpoint-{step}'
    shutil.move(checkpoint, tmp_path / checkpoint.name)
    shutil.rmtree(tmp_path / 'out')
    (tmp_path / 'out').mkdir()
    shutil.move(tmp_path / checkpoint.name, checkpoint)
    metrics = training.train(run, True)
    again = weights(tmp_path / 'out')
    assert all(torch.equal(again[name], learned[name]) for name in learned)
    assert metrics['eval_loss'] == whole['eval_loss']
    assert metrics['tokens'] == whole['tokens']


def test_terms_change_what_is_learned_and_are_in_the_metrics(settings, data, tmp_path, capsys):
    alone = training.train(settings(arguments=dict(output_dir=str(tmp_path / 'alone'))), False)
    both = distilled(data, kd=dict(temperature=2.0), shd=dict(beta=2.0, backend='torch'))
    metrics = training.train(settings(**both, task_loss_weight=0.5), False)
    assert {'last_kd', 'last_shd', 'last_task_loss'} <= set(metrics)
    assert not any(name.startswith('last_') for name in alone)
    a, b = weights(tmp_path / 'alone'), weights(tmp_path / 'out')
    assert any(not torch.equal(a[name], b[name]) for name in a)
    printed = capsys.readouterr().out
    assert 'teacher  GPT2LMHeadModel' in printed and 'beta' not in printed.split('Training')[0]
    assert 'kd, shd' in printed
    averaged = distilled(data, shd=dict(strategy='head_matching', backend='torch'))
    training.train(settings(**averaged, arguments=dict(output_dir=str(tmp_path / 'c'))), False)


def test_a_student_starts_from_layers_of_the_teacher_of_its_architecture(settings, data):
    run = settings(
        model=dict(num_hidden_layers=1, initialise_from_teacher='last'),
        teachers=[str(data / 'gpt2'), str(data / 'llama')],
    )
    trainer = training.make_trainer(run, kind_of('Trainer'), arguments(run))
    learned = dict(trainer.model.named_parameters())
    teacher = dict(AutoModelForCausalLM.from_pretrained(data / 'llama').named_parameters())
    name = 'model.layers.{}.mlp.up_proj.weight'
    assert torch.equal(learned[name.format(0)], teacher[name.format(1)])
    assert torch.equal(learned['lm_head.weight'], teacher['lm_head.weight'])


def arguments(run):
    return training.make_arguments(kind_of(run.trainer), run.arguments)


def test_validation_takes_sequences_in_equal_steps(data):
    chunks = Chunks(TokenFile(data / 'text', 'validation').tokens, 8)
    assert sequences(25, chunks).indices == list(range(25))
    assert sequences(3, chunks).indices == [0, 12, 24]
    with pytest.raises(ConfigError, match=r'text.validation=26 must be .* at most 25'):
        sequences(26, chunks)


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(model=dict(type='Llama')), r"^model.type='Llama' must be a config of transformers"),
        (dict(model=dict(type='AutoModel')), r"^model.type='AutoModel' must be a config"),
        (
            dict(model=dict(hiden_size=8)),
            r'^model.hiden_size is unknown; .*did you mean hidden_size',
        ),
        (dict(model=dict(vocab_size=8)), r'^model.vocab_size is taken from the tokenizer'),
        (dict(model=dict(hidden_size='a')), r"^model: .*expected int, got str \(value: 'a'\)"),
        (dict(model=dict(num_attention_heads=3)), r'^model: .*multiple'),
        (dict(model='{}/gone'), r"^'.*/gone' is no such model"),
        (dict(model=dict(initialise_from_teacher='last')), r'no teacher is a LlamaForCausalLM'),
        (
            dict(model=dict(initialise_from_teacher=dict(layer='last')), teachers=['{}/llama']),
            r'^model.initialise_from_teacher.layer is unknown; allowed are layers',
        ),
        (dict(teachers=['{}/gone'], losses=dict(kd=True)), r"^'.*gone' is no such model"),
        (dict(losses=dict(kd=True)), r'^losses need teachers: give at least one path'),
        (dict(teachers=['{}/gpt2']), r'^teachers have no effect without losses or model.init'),
        (dict(teachers=['{}/gpt2'], losses=dict(kdd=True)), r"^losses.kdd: type='kdd'; allowed"),
        (dict(teachers=['{}/gpt2'], losses=dict(shd=dict(bta=1))), r'^losses.shd.bta is unknown'),
        (dict(text=dict(folder='gone')), r"^'gone' has no readable text.json"),
        (dict(text=dict(length=33)), r'^text.length=33 must be between 2 and the 32 of the model'),
        (dict(text=dict(length=1)), r'^text.length=1 must be between 2'),
        (dict(text=dict(length=2.5)), r'^text.length=2.5 must be a whole number'),
        (dict(text=dict(random_offset='no')), r"^text.random_offset='no' must be true or false"),
        (dict(text=dict(validation=99)), r'^text.validation=99 must be .* at most 25'),
        (dict(trainer='Trainr'), r"^trainer='Trainr' must be one of Trainer, SFTTrainer"),
        (dict(trainer='SFTTrainer'), r"^trainer='SFTTrainer' is trained on instructions"),
        (dict(arguments=dict(lr=1)), r'^arguments.lr is unknown; allowed are output_dir'),
        (dict(arguments=dict(output_dir=None)), r'^arguments.output_dir is missing'),
        (dict(arguments=dict(lr_scheduler_type='cos')), r'^arguments: .*cos.* is not a valid'),
        (dict(arguments=dict(eval_strategy='no', load_best_model_at_end=True)), r'^arguments: .*'),
        (
            dict(arguments=dict(dataloader_num_workers=1, dataloader_persistent_workers=True)),
            r'^arguments.dataloader_persistent_workers keeps copies',
        ),
    ],
)
def test_mistakes_are_one_line_and_leave_no_folder(settings, data, tmp_path, changes, message):
    changes = json.loads(json.dumps(changes).replace('{}', str(data)))
    with pytest.raises(ShdVitError, match=message) as error:
        training.train(settings(**changes), False)
    assert '\n' not in str(error.value)
    assert isinstance(error.value, (ConfigError, CheckpointError, DatasetError))
    assert not (tmp_path / 'out/metrics.json').exists()


def test_a_training_that_diverges_leaves_no_metrics(settings, tmp_path):
    with pytest.raises(NonFiniteLoss, match='eval_loss=nan: the training has diverged'):
        training.train(settings(arguments=dict(learning_rate=1e30, max_grad_norm=0.0)), False)
    assert not (tmp_path / 'out/metrics.json').exists()


@pytest.mark.slow
@pytest.mark.parametrize('losses', [{}, dict(shd=dict(backend='torch'))])
@pytest.mark.parametrize('name', [name for name in TRAINERS if name != 'Trainer'])
def test_every_trainer_that_can_be_named_runs(settings, data, name, losses):
    writes = TRAINERS[name].rows == 'prompts'
    run = settings(
        model=str(data / 'llama'),
        text=None,
        instructions=dict(train=str(data / 'rows.jsonl')),
        trainer=name,
        losses=losses,
        teachers=[str(data / 'gpt2')] if losses or TRAINERS[name].has_teacher else [],
        arguments=dict(max_steps=1, bf16=False, gradient_checkpointing=False)
        | (dict(max_completion_length=4) if writes else {}),
    )
    metrics = training.train(run, False)
    assert metrics['steps'] == 1
    assert ('last_shd' in metrics) == bool(losses)
