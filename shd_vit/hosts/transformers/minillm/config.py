"""What MiniLLM adds to the arguments of TRL's DistillationTrainer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trl import DistillationConfig

from shd_vit.errors import ConfigError, check_number
from shd_vit.hosts.transformers.minillm.objective import IMPORTANCE

RETURNS = ('next', 'own')


def _field(default: Any, text: str) -> Any:
    return field(default=default, metadata=dict(help=text))


@dataclass
class MiniLLMConfig(DistillationConfig):
    """Arguments of :class:`MiniLLMTrainer`: TRL's ``DistillationConfig``, and what follows.

    Names are those of TRL's ``GRPOConfig`` where it has the same. Defaults are those of the
    authors' GPT-2 scripts (microsoft/LMOps at 4f2a9de, minillm/scripts/gpt2/minillm), but for
    ``returns``: theirs is 'own'.

    Raises:
        ConfigError: Naming the field, its value and what is allowed.
    """

    learning_rate: float = _field(5e-6, 'Initial learning rate.')
    disable_dropout: bool = _field(
        True,
        'Needed by the long-term term: the student that drew a response is the one that learns.',
    )
    single_step: bool = _field(
        True, 'Exact reverse KL over the vocabulary at each token, differentiated directly.'
    )
    long_term: bool = _field(
        True, 'Policy gradient of what a token does to the rewards of those after it.'
    )
    returns: str = _field(
        'next',
        "Rewards that a token is answerable for: 'next', of the tokens after it (the paper); "
        "'own', its own too (the authors' code, which counts that twice beside single_step).",
    )
    gamma: float = _field(0.95, 'Discount of rewards per token, from 0 to 1.')
    length_normalisation: bool = _field(
        True, 'Divide the sum of rewards by how many tokens it is over.'
    )
    whiten: bool = _field(
        True, 'Mean 0 and variance 1 of advantages, over all tokens of a generation batch.'
    )
    reward_scale: float = _field(0.5, 'Rewards are divided by it.')
    reward_clip: float | None = _field(
        100.0, 'Largest absolute value of a reward, after scaling. None: no limit.'
    )
    epsilon: float | None = _field(
        0.2, 'How far from 1 the ratio of probabilities counts (PPO). None: no limit.'
    )
    num_iterations: int = _field(4, 'How many times each generation batch is learnt from.')
    steps_per_generation: int | None = _field(
        None,
        'Batches of a generation batch, a multiple of gradient_accumulation_steps. None: those of '
        'one step.',
    )
    teacher_mix: float = _field(
        0.2, 'Share of the teacher in what responses are drawn from, at least 0 and below 1.'
    )
    importance: str = _field(
        'token',
        "Weights of tokens that were not drawn from the student: 'token', of the token alone (the "
        "authors'); 'exact', of all up to it.",
    )
    lm_weight: float = _field(1.0, 'Weight of the language-modelling term on lm_dataset.')
    kd_ratio: float = _field(
        0.5, 'Share of KL(teacher || student) in that term; the rest is cross-entropy.'
    )
    max_prompt_length: int | None = _field(
        None, 'Longest prompt in tokens; longer ones are refused. None: what both models can read.'
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        rules: dict[str, dict[str, Any]] = dict(
            gamma=dict(at_most=1.0),
            reward_scale=dict(positive=True),
            reward_clip=dict(positive=True, optional=True),
            epsilon=dict(positive=True, at_most=1.0, optional=True),
            num_iterations=dict(positive=True, whole=True),
            steps_per_generation=dict(positive=True, whole=True, optional=True),
            teacher_mix=dict(at_most=1.0),
            lm_weight={},
            kd_ratio=dict(at_most=1.0),
            max_prompt_length=dict(positive=True, whole=True, optional=True),
            max_completion_length=dict(positive=True, whole=True),
        )
        for field_name, allowed in rules.items():
            check_number(f'{name}.{field_name}', getattr(self, field_name), **allowed)
        for field_name, words in (('returns', RETURNS), ('importance', IMPORTANCE)):
            if getattr(self, field_name) not in words:
                given = getattr(self, field_name)
                raise ConfigError(f'{name}.{field_name}={given!r} must be one of {words}')
        _check_together(self)

    @property
    def generation_steps(self) -> int:
        """Batches of a generation batch."""
        return self.steps_per_generation or self.gradient_accumulation_steps


def _check_together(args: MiniLLMConfig) -> None:
    """Refuse settings that do not go together.

    Raises:
        ConfigError: Naming them.
    """
    steps, accumulated = args.generation_steps, args.gradient_accumulation_steps
    if steps % accumulated:
        raise ConfigError(
            f'steps_per_generation={steps} must be a multiple of '
            f'gradient_accumulation_steps={accumulated}: a step learns from one generation batch'
        )
    if args.beta != 1:
        raise ConfigError(f'beta={args.beta}: MiniLLM is the reverse KL, which is beta=1')
    if args.teacher_mix == 1:
        raise ConfigError('teacher_mix=1: the student must have a share, give less')
    if not args.single_step and not args.long_term:
        raise ConfigError('single_step=False and long_term=False leave nothing to learn')
    if not args.single_step and args.returns == 'next':
        raise ConfigError(
            "single_step=False needs returns='own': with 'next' the reward of the token itself "
            'would count nowhere'
        )
    if args.teacher_mix and args.use_vllm:
        raise ConfigError(
            'use_vllm=True draws from the student alone: set teacher_mix=0, or use_vllm=False'
        )
    if args.long_term:
        _check_drawing(args)


def _check_drawing(args: MiniLLMConfig) -> None:
    """Refuse ways to draw responses whose probabilities are not the student's.

    Raises:
        ConfigError: Naming the setting.
    """
    plain: dict[str, tuple[Any, ...]] = dict(
        disable_dropout=(True,),
        top_p=(1.0,),
        top_k=(0, None),
        min_p=(None, 0.0),
        repetition_penalty=(1.0,),
        generation_kwargs=(None, {}),
    )
    for name, allowed in plain.items():
        if (given := getattr(args, name)) not in allowed:
            raise ConfigError(
                f'{name}={given!r}: the long-term term needs responses that are drawn from the '
                f'distribution that learns; set {name}={allowed[0]!r}, or long_term=False'
            )
