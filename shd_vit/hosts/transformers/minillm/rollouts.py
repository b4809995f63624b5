"""Generation batches: drawn from a student or a mixture, scored, learnt from several times."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from trl import DistillationTrainer
from trl.trainer.utils import RepeatSampler, shuffle_sequence_dict, split_tensor_dict

from shd_vit.errors import ConfigError
from shd_vit.hosts.transformers.minillm.checks import check_prompts
from shd_vit.hosts.transformers.minillm.config import MiniLLMConfig
from shd_vit.hosts.transformers.minillm.heads import Head
from shd_vit.hosts.transformers.minillm.sampling import mixed
from shd_vit.hosts.transformers.minillm.scoring import RATIO, score


class RolloutTrainer(DistillationTrainer):
    """TRL's, which draws larger batches, scores them, and goes through them several times.

    Attributes:
        prompt_limit: How long a prompt may be, in tokens; None for no limit.
    """

    args: MiniLLMConfig
    prompt_limit: int | None
    _buffered_inputs: Any

    def get_train_dataloader(self) -> Any:
        """TRL's, of generation batches."""
        return self._get_dataloader(
            dataset=self.train_dataset,
            description='Training',
            batch_size=self._train_batch_size * self.args.generation_steps,
            sampler_fn=self._get_train_sampler,
            is_training=True,
        )

    def _get_train_sampler(self, dataset: Any = None) -> RepeatSampler:
        args = self.args
        batch = args.per_device_train_batch_size * self.accelerator.num_processes
        return RepeatSampler(
            self.train_dataset if dataset is None else dataset,
            mini_repeat_count=1,
            batch_size=batch * args.generation_steps,
            repeat_count=args.generation_steps * args.num_iterations,
            shuffle=self.shuffle_dataset,
            seed=args.seed,
        )

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """The batch of this step, of a generation batch that is drawn when the last is learnt."""
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        steps, number = self.args.generation_steps, self.batch_number
        if self._buffered_inputs is None or number % (steps * self.args.num_iterations) == 0:
            drawn = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = self._split(shuffle_sequence_dict(drawn))
        return self._buffered_inputs[number % steps]

    def step_batches(self, batches: list[Any]) -> list[Any]:
        """Those of this step, of a generation batch."""
        accumulated = self.args.gradient_accumulation_steps
        start = self.batch_number % self.args.generation_steps // accumulated * accumulated
        return batches[start : start + accumulated]

    @property
    def batch_number(self) -> int:
        """Of this process's batches, from 0; a resumed run counts on."""
        accumulated = self.args.gradient_accumulation_steps
        return self.state.global_step * accumulated + self._step % accumulated

    def _split(self, drawn: dict[str, Any]) -> list[dict[str, Any]]:
        """Batches, each with how many tokens its step has in all processes."""
        batches = split_tensor_dict(drawn, self.args.generation_steps)
        accumulated = self.args.gradient_accumulation_steps
        for start in range(0, len(batches), accumulated):
            step = batches[start : start + accumulated]
            tokens = self.joint_sum(sum(batch['completion_mask'].sum() for batch in step))
            for batch in step:
                batch['num_items_in_batch'] = tokens
        return batches

    def joint_sum(self, x: Any) -> Any:
        """A tensor summed over processes."""
        return self.accelerator.reduce(x, reduction='sum')

    def log_means(self, sums: dict[str, Tensor], count: Any) -> None:
        """Have the log show sums over all processes, divided by a count that is of all."""
        joint = self.joint_sum(torch.stack([*sums.values()]).double()) / (float(count) or 1.0)
        for name, value in zip(sums, joint.tolist(), strict=True):
            self._metrics['train'][name].append(value)

    def _tokenize_prompts(self, prompts: list) -> Any:
        found = super()._tokenize_prompts(prompts)
        check_prompts(found[0], self.prompt_limit, 'row of the batch')
        return found

    def _generate_single_turn(self, prompt_ids: list, *args: Any, **kwargs: Any) -> list:
        """TRL's; in training, with the teacher's share in what is drawn.

        Raises:
            ConfigError: If a response has no token, not even that of its end.
        """
        share = self.args.teacher_mix if self.model.training else 0
        student = self.accelerator.unwrap_model(self.model_wrapped)
        drawing = mixed(student, self.teacher_inside(), share, self.temperature)
        with drawing if share else nullcontext():
            responses = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        for number, response in enumerate(responses):
            if len(response) == 0:
                raise ConfigError(
                    f'response {number} of the batch has no tokens: have generation keep the '
                    'end-of-sequence token, which is one'
                )
        return responses

    def teacher_inside(self) -> Any:
        """The teacher without what it is wrapped into, in eval mode."""
        self.teacher_model.eval()
        return self.accelerator.unwrap_model(self.teacher_model)

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        if self.model.training and (self.args.long_term or self.args.teacher_mix):
            batch.update(self._score(batch))
        return batch

    @torch.no_grad()
    def _score(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Advantages and weights of a generation batch, whose parts are run one by one."""
        parts = split_tensor_dict(batch, self.args.generation_steps)
        models = (
            (self.model_wrapped, self.accelerator.unwrap_model(self.model_wrapped)),
            (self.teacher_model, self.teacher_inside()),
        )
        student, teacher = (
            torch.cat(
                [
                    self._forward_redirection(wrapped, inner, self._token_log_probs, inner, part)
                    for part in parts
                ]
            )
            for wrapped, inner in models
        )
        mask = batch['completion_mask']
        scores = score(student, teacher, mask, self.args, self.joint_sum)
        weight = (scores[RATIO] * mask).sum()
        sums = {'reward': (teacher - student).sum(), 'importance_ratio': weight}
        self.log_means(sums, self.joint_sum(mask.sum()))
        return scores

    def _token_log_probs(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """(B, K) of the tokens drawn, 0 at padding."""
        is_token, ids = inputs['completion_mask'].bool(), inputs['completion_ids']
        hidden = self.hidden(model, inputs)[is_token]
        found = Head.of(model).log_probs(hidden, ids[is_token], self.temperature)
        return found.new_zeros(ids.shape).masked_scatter(is_token, found)

    def hidden(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """(B, K, E) of a model, each before the token of the response that it predicts."""
        ids, mask = (
            torch.cat([inputs[f'prompt_{what}'], inputs[f'completion_{what}']], 1)
            for what in ('ids', 'mask')
        )
        return self._get_last_hidden_state(model, ids, mask, inputs['completion_ids'].shape[1])
