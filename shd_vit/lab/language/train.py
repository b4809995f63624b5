"""A training from its file to the student, its metrics and a table."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import Any

import yaml
from transformers import set_seed
from transformers.trainer_utils import get_last_checkpoint

from shd_vit.data.text.tokens import TokenFile
from shd_vit.distillation import summary
from shd_vit.errors import ConfigError, NonFiniteLoss
from shd_vit.files import write_whole
from shd_vit.lab.language.models import load_causal, load_tokenizer, parameters
from shd_vit.lab.language.responses import Evaluation, Responses
from shd_vit.lab.language.rows import PLAIN_CHAT, OffsetOfEpoch, plain_text, read_rows
from shd_vit.lab.language.settings import Settings
from shd_vit.lab.language.students import INITIALISE, longest, make_student
from shd_vit.lab.language.tables import training_table
from shd_vit.lab.language.trainers import TrainerKind, kind_of, make_arguments
from shd_vit.lab.report import show, write_json

METRICS = 'metrics.json'
SETTINGS = 'lm_train.yaml'


def train(settings: Settings, resumes: bool) -> dict[str, Any]:
    """Train, validate and save a model, with its metrics beside it.

    In ``arguments.output_dir`` are then the student and its tokenizer, for ``from_pretrained``,
    ``metrics.json`` (:func:`metrics_of`, and with ``responses`` their scores over the seeds, such
    as ``rouge_l``) and ``lm_train.yaml``, all settings of the run.

    Args:
        settings: Of the run.
        resumes: Go on from the last checkpoint there, if there is one.

    Raises:
        ShdVitError: If anything in the settings cannot work; before training, mostly.
    """
    kind = kind_of(settings.trainer)
    # Of batches that a trainer generates itself, transformers cannot tell.
    counted = dict(include_num_input_tokens_seen='all') if kind.rows == 'tokens' else {}
    args = make_arguments(kind, {**counted, **settings.arguments})
    out = Path(args.output_dir)
    checkpoint = get_last_checkpoint(str(out)) if out.is_dir() else None
    if not resumes and (checkpoint or (out / METRICS).exists()):
        raise ConfigError(f'{str(out)!r} has a training in it: go on with --resume, or remove it')
    trainer = make_trainer(settings, kind, args)
    evaluation = _evaluation(settings, trainer)
    if trainer.is_world_process_zero():
        if settings.losses:
            print(summary(trainer.distillation))
        out.mkdir(parents=True, exist_ok=True)
        with write_whole(out / SETTINGS) as part:
            part.write_text(yaml.safe_dump(vars(settings), sort_keys=False))
    if settings.losses and not checkpoint:
        trainer.settle(batch for batch in _later(trainer.get_train_dataloader))
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=checkpoint)
    minutes = (time.perf_counter() - started) / 60
    found = trainer.evaluate() if trainer.eval_dataset is not None else {}
    metrics = metrics_of(trainer, found, minutes)
    if kind.has_teacher:  # its eval_loss is a distance from the teacher
        metrics.pop('perplexity', None)
    trainer.save_model()
    if trainer.is_world_process_zero():
        tables = []
        if evaluation:
            # As it was saved: what is scored is what a user loads.
            found, _ = evaluation.score(load_causal(str(out)), load_tokenizer(str(out)))
            metrics |= {name: scores['mean'] for name, scores in found.items()}
            tables.append(evaluation.table({**evaluation.baselines(), out.name: found}))
        write_json(metrics, out / METRICS)
        show([training_table(settings, metrics), *tables])
    return metrics


def _evaluation(settings: Settings, trainer: Any) -> Evaluation | None:
    """Of responses, if they are to be scored, with all that can be wrong found before training."""
    if not settings.responses:
        return None
    how = Responses(**settings.responses)
    evaluation = Evaluation(how, [trainer.processing_class], 'responses.{}'.format)
    evaluation.check(trainer.accelerator.unwrap_model(trainer.model), 'the model')
    return evaluation


def make_trainer(settings: Settings, kind: TrainerKind, args: Any) -> Any:
    """The trainer of a kind, with student, teachers and rows.

    Raises:
        ShdVitError: If anything cannot work, naming it.
    """
    set_seed(args.seed)
    tokenizer = load_tokenizer(_tokenizer_of(settings))
    if kind.rows == 'messages' and tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_CHAT
    teachers = [load_causal(path) for path in settings.teachers]
    student = make_student(settings.model, tokenizer, teachers)
    rows, validation = read_rows(settings, kind.rows, args.seed, longest(student))
    if validation is None and args.eval_strategy != 'no':
        raise ConfigError('arguments.eval_strategy needs instructions.validation')
    own = _of_distillation(settings, kind, teachers)
    own |= plain_text(settings, kind.rows, kind.text, args.seed, longest(student))
    cls = kind.trainer_class(bool(settings.losses))
    try:
        trainer = cls(
            model=student,
            args=args,
            train_dataset=rows,
            eval_dataset=validation,
            processing_class=tokenizer,
            **own,
        )
    except (ValueError, NotImplementedError) as error:
        if isinstance(error, ConfigError):
            raise
        reason = ' '.join(str(error).split())[:300]
        raise ConfigError(f'trainer={settings.trainer!r}: {reason}') from None
    if kind.rows == 'tokens' and rows.random_offset:
        if args.dataloader_persistent_workers:
            raise ConfigError(
                'arguments.dataloader_persistent_workers keeps copies of the text at the offset '
                'of the first epoch: leave it out, or text.random_offset'
            )
        trainer.add_callback(OffsetOfEpoch(rows))
    return trainer


def metrics_of(trainer: Any, found: dict[str, float], minutes: float) -> dict[str, Any]:
    """Numbers of a trained model, as ``metrics.json`` has them.

    Args:
        trainer: That has trained.
        found: By its evaluation; may be empty.
        minutes: Of training in this process.

    Returns:
        ``eval_loss``, nats a token over the sequences of validation, and ``perplexity``, its exp;
        ``train_loss``, ``steps``, ``minutes``, ``tokens`` of text that were seen, ``parameters``;
        and the last logged value of each term, as ``last_NAME``.

    Raises:
        NonFiniteLoss: If the validation loss is not finite.
    """
    history = trainer.state.log_history
    terms = list(getattr(getattr(trainer, 'distillation', None), 'losses', {}))
    logged = {name: row[name] for row in history for name in ('task_loss', *terms) if name in row}
    is_speed = re.compile('runtime|per_second|num_input')
    values = {n: v for n, v in found.items() if n.startswith('eval_') and not is_speed.search(n)}
    if 'eval_loss' in values:
        if not math.isfinite(values['eval_loss']):
            raise NonFiniteLoss(f'eval_loss={values["eval_loss"]}: the training has diverged')
        values['perplexity'] = math.exp(values['eval_loss'])
    losses = [row['train_loss'] for row in history if 'train_loss' in row]
    values |= dict(train_loss=losses[-1]) if losses else {}
    values |= dict(steps=trainer.state.global_step, minutes=minutes)
    if tokens := trainer.state.num_input_tokens_seen:
        values['tokens'] = tokens
    values['parameters'] = parameters(trainer.accelerator.unwrap_model(trainer.model))
    return values | {f'last_{name}': value for name, value in logged.items()}


def _of_distillation(settings: Settings, kind: TrainerKind, teachers: list[Any]) -> dict[str, Any]:
    """Arguments about teachers and terms.

    Raises:
        ConfigError: If there are more or fewer teachers than are called.
    """
    options: dict[str, Any] = {}
    if settings.losses:
        options |= dict(losses=settings.losses, schedules=settings.schedules)
        for name in ('task_loss_weight', 'attention_teacher', 'rows'):
            if (value := getattr(settings, name)) is not None:
                options[name] = value
    if kind.has_teacher:
        if len(teachers) != 1:
            raise ConfigError(f'trainer={settings.trainer!r} has one teacher, not {len(teachers)}')
        return options | dict(teacher_model=teachers[0])
    if settings.losses:
        if not teachers:
            raise ConfigError('losses need teachers: give at least one path')
        return options | dict(teachers=teachers)
    if teachers and INITIALISE not in settings.model:
        raise ConfigError(f'teachers have no effect without losses or model.{INITIALISE}')
    return options


def _tokenizer_of(settings: Settings) -> str:
    if settings.tokenizer:
        return settings.tokenizer
    if settings.text:
        return str(TokenFile(settings.text['folder'], 'train').tokenizer)
    if isinstance(settings.model, str):
        return settings.model
    raise ConfigError('tokenizer is missing: a model that is made anew has none of its own')


def _later(make: Any) -> Any:
    """Batches of a loader that is not made before the first is asked for."""
    yield from make()
