"""MiniLLM on TRL's DistillationTrainer: policy gradient of a sequence-level reverse KL."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from shd_vit.distillation.step import refuse_non_finite
from shd_vit.errors import ConfigError
from shd_vit.hosts.transformers.batch import give_positions
from shd_vit.hosts.transformers.minillm.checks import check_rollouts, fit_vocabulary, prompt_limit
from shd_vit.hosts.transformers.minillm.config import MiniLLMConfig
from shd_vit.hosts.transformers.minillm.corpus import Corpus
from shd_vit.hosts.transformers.minillm.heads import Head, divergence
from shd_vit.hosts.transformers.minillm.objective import surrogate
from shd_vit.hosts.transformers.minillm.rollouts import RolloutTrainer
from shd_vit.hosts.transformers.minillm.scoring import ADVANTAGES, OLD, RATIO, STATE
from shd_vit.hosts.transformers.teachers import saved_tokenizer


class MiniLLMTrainer(RolloutTrainer):
    """Minimises KL(student || teacher) of whole responses, on responses that the student draws.

    MiniLLM (arXiv 2306.08543). The loss is a mean over the tokens of a step's responses of

    - the reverse KL over the vocabulary (``single_step``): alone, this is TRL's
      ``DistillationTrainer(beta=1)``;
    - PPO's surrogate of the rewards log p_teacher - log p_student of the tokens that follow
      (``long_term``);

    and, with ``lm_dataset``, ``lm_weight`` times a mean over the tokens of plain text of
    (1 - kd_ratio) cross-entropy + kd_ratio KL(teacher || student). Evaluation has the first alone,
    on responses of the student alone. Generation, vLLM, logging and saving are TRL's.

    Args:
        model: The student, as TRL takes it.
        teacher_model: The same. Padding of a larger vocabulary is cut off a model in place, where
            the tokenizers are the same.
        args: With all settings.
        lm_dataset: Plain text: rows with ``input_ids``, of one length. None: no such term.
        teacher_tokenizer: To hold against ``processing_class``. None: what the teacher was saved
            with, where that is on this machine.
        kwargs: Of ``DistillationTrainer``; ``train_dataset`` has a column ``prompt``.

    Raises:
        ConfigError: If the pair, or the data, cannot be trained so.
    """

    _tag_names = ['trl', 'minillm']
    _name = 'MiniLLM'
    _paper = dict(title='MiniLLM: On-Policy Distillation of Large Language Models', id='2306.08543')

    def __init__(
        self,
        model: Any,
        teacher_model: Any = None,
        args: MiniLLMConfig | None = None,
        *,
        lm_dataset: Any = None,
        teacher_tokenizer: Any = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(args, MiniLLMConfig) or teacher_model is None:
            raise ConfigError(
                f'{type(self).__name__} needs a teacher_model, and args: MiniLLMConfig'
            )
        theirs = teacher_tokenizer or saved_tokenizer(teacher_model)
        fit_vocabulary(model, teacher_model, kwargs.get('processing_class'), theirs)
        super().__init__(model=model, teacher_model=teacher_model, args=args, **kwargs)
        teacher = self.teacher_inside()
        teacher.requires_grad_(False)
        for each in (self.model, teacher):
            give_positions(each)
        self.prompt_limit = prompt_limit(args, self.model, teacher)
        check_rollouts(self, teacher)
        self.corpus = None
        if lm_dataset is not None:
            processes = self.accelerator.process_index, self.accelerator.num_processes
            size = args.per_device_train_batch_size
            self.corpus = Corpus(lm_dataset, size, *processes, args.seed)
        self._sums: dict[str, Tensor] = {}

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """TRL's, and in training each term in the log.

        Raises:
            NonFiniteLoss: Naming the terms that are not finite.
        """
        self._sums = {}
        result = super().compute_loss(model, inputs, *args, **kwargs)
        if self._sums:
            refuse_non_finite(torch.stack([*self._sums.values()]).sum(), self._sums)
            # A mean over the batches of a step is then that over its tokens.
            share = inputs['num_items_in_batch'] / self.args.gradient_accumulation_steps
            self.log_means(self._sums, share)
        return result

    def _compute_loss(self, unwrapped_student: Any, inputs: Any, num_items_in_batch: Any) -> Any:
        """The loss, the sum of entropies and how many tokens they are of, as TRL's."""
        if not self.model.training:
            return super()._compute_loss(unwrapped_student, inputs, num_items_in_batch)
        is_token = inputs['completion_mask'].bool()
        scores = {n: inputs[n][is_token] for n in (OLD, ADVANTAGES, RATIO, STATE) if n in inputs}
        head, hidden = Head.of(unwrapped_student), self.hidden(unwrapped_student, inputs)[is_token]
        theirs, taught = self._taught(self.hidden, inputs)
        pair = (head, hidden), (theirs, taught[is_token])
        kl, entropy = divergence(*pair, reverse=True, temperature=self.temperature)
        terms = {}
        if self.args.single_step:
            terms['single_step'] = kl * scores.get(STATE, 1)
        if self.args.long_term:
            ids = inputs['completion_ids'][is_token]
            log_probs = head.log_probs(hidden, ids, self.temperature)
            old, advantages, ratio = scores[OLD], scores[ADVANTAGES], scores[RATIO]
            terms['long_term'] = surrogate(log_probs, old, advantages, ratio, self.args.epsilon)
        self._sums = {name: x.detach().sum() for name, x in {**terms, 'token_kl': kl}.items()}
        total: Any = sum(term.sum() for term in terms.values())
        return total / num_items_in_batch, entropy.sum(), is_token.sum()

    def _taught(self, hidden: Any, *args: Any) -> tuple[Head, Tensor]:
        """The teacher's last layer, and what ``hidden`` makes of the teacher."""
        teacher = self.teacher_inside()
        with torch.no_grad():
            found = self._forward_redirection(self.teacher_model, teacher, hidden, teacher, *args)
        return Head.of(teacher), found

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """TRL's, and then one of plain text, with a backward pass of its own."""
        number = self.batch_number
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.corpus is None:
            return loss
        ids = self.corpus.batch(number).to(loss.device)
        student = self.accelerator.unwrap_model(model)
        term = self._forward_redirection(model, student, self._corpus_loss, student, ids)
        self.log_means({'lm_loss': term.detach()}, self.accelerator.num_processes)
        term = self.args.lm_weight * term / self.args.gradient_accumulation_steps
        self.accelerator.backward(term)
        return loss + term.detach()

    def _corpus_loss(self, student: Any, ids: Tensor) -> Tensor:
        """Mean over the tokens of plain text (B, N) that something is before."""
        kd_ratio, inputs = self.args.kd_ratio, (ids, torch.ones_like(ids), ids.shape[1] - 1)
        head = Head.of(student)
        hidden = self._get_last_hidden_state(student, *inputs).flatten(0, 1)
        loss = -(1 - kd_ratio) * head.log_probs(hidden, ids[:, 1:].flatten()).mean()
        if kd_ratio:
            theirs, taught = self._taught(self._get_last_hidden_state, *inputs)
            kl, _ = divergence((head, hidden), (theirs, taught.flatten(0, 1)), reverse=False)
            loss = loss + kd_ratio * kl.mean()
        return loss
