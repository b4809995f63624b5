"""Where a classifier's first weights come from, and how it wants its images."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.logging import print_log
from mmpretrain.models import HuggingFaceClassifier, TimmClassifier

from shd_vit.hosts.images import Normalisation
from shd_vit.hosts.mmpretrain.checkpoint import load_weights, mmengine_loads_safely
from shd_vit.hosts.mmpretrain.model_config import MISSING, ModelConfig
from shd_vit.hosts.timm.pretrained import refuse_head_without_weights


def initialise(model: Any, config: ModelConfig) -> str:
    """Give a classifier its first weights.

    Args:
        model: Built from ``config``.
        config: Its ``checkpoint`` is loaded if there is one.

    Returns:
        Where they come from, for the log.

    Raises:
        CheckpointError: If the checkpoint cannot be loaded, or does not fit.
    """
    if config.checkpoint not in (MISSING, None):
        load_weights(model, config.checkpoint)
        return config.checkpoint
    if has_weights(model):
        return _library_source(model, config)
    with mmengine_loads_safely():
        model.init_weights()
    return f'init_cfg {model.init_cfg}' if model.init_cfg else 'random'


def has_weights(model: Any) -> bool:
    """Whether a classifier was built with its weights: timm and transformers initialise their
    models, or load them, and mmengine's ``init_weights`` would overwrite them."""
    return isinstance(model, (TimmClassifier, HuggingFaceClassifier)) and not model.init_cfg


def normalisations(
    student: dict, teacher: ModelConfig, model: Any
) -> tuple[Normalisation, Normalisation]:
    """How images are normalised for the student, and how the teacher wants them.

    The teacher's are those of its config; where that says nothing, those that its library states;
    else the student's.

    Args:
        student: The data_preprocessor that prepares batches.
        teacher: The teacher's config.
        model: The teacher.
    """
    of_student = _normalisation(student)
    if teacher.data_preprocessor:
        return of_student, _normalisation(teacher.data_preprocessor)
    stated = _library_normalisation(model, teacher) if student.get('mean') is not None else None
    return of_student, stated or of_student


def refuse_random_head(model: Any, config: ModelConfig, field: str) -> None:
    """Refuse a teacher whose classifier timm has made anew, for a loss on logits.

    Raises:
        ConfigError: Naming both numbers of classes.
    """
    is_timms = isinstance(model, TimmClassifier) and config.model.get('pretrained')
    if is_timms and config.checkpoint is None:
        refuse_head_without_weights(model.model, field)


def _normalisation(preprocessor: dict) -> Normalisation:
    mean, std = preprocessor.get('mean'), preprocessor.get('std')
    return Normalisation(
        [0.0] if mean is None else mean,
        [1.0] if std is None else std,
        bool(preprocessor.get('to_rgb', False)),
    )


def _library_source(model: Any, config: ModelConfig) -> str:
    library = 'timm' if isinstance(model, TimmClassifier) else 'transformers'
    if config.model.get('checkpoint_path'):
        return f'{config.model.checkpoint_path}, by {library}'
    return f'pretrained, by {library}' if config.model.get('pretrained') else 'random'


def _library_normalisation(model: Any, config: ModelConfig) -> Normalisation | None:
    """What timm's pretrained_cfg or transformers' processor states, in levels from 0 to 255."""
    if isinstance(model, TimmClassifier):
        stated = model.model.pretrained_cfg
        mean, std, unit = stated.get('mean'), stated.get('std'), 255.0
    elif isinstance(model, HuggingFaceClassifier):
        stated = _processor(config.model.model_name)
        mean, std = stated.get('image_mean'), stated.get('image_std')
        unit = 1 / stated.get('rescale_factor', 1 / 255)
    else:
        return None
    if mean is None or std is None:
        print_log(
            f'{type(model).__name__} of the teacher states no mean and std: its images are '
            "normalised as the student's",
            logger='current',
            level=logging.WARNING,
        )
        return None
    return Normalisation([unit * m for m in mean], [unit * s for s in std], is_rgb=True)


def _processor(name: str) -> dict:
    """The content of a model's preprocessor_config.json; empty if there is none."""
    from transformers.image_processing_utils import BaseImageProcessor

    try:
        return BaseImageProcessor.get_image_processor_dict(name)[0]
    except OSError:
        return {}
