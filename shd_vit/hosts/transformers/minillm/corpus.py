"""Plain text for the language-modelling term, batch by batch, by the number of the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shd_vit.errors import ConfigError


class Corpus:
    """Batches of rows of one length, endlessly: an order of its own each time through the rows.

    A batch is known by its number, so that a resumed run goes on where it was.

    Args:
        rows: With a length; each has ``input_ids``, of one length, without padding.
        batch_size: Of this process.
        process: Number of this process, from 0.
        processes: How many there are.
        seed: Of the orders.

    Raises:
        ConfigError: If there are fewer rows than one batch of all processes.
    """

    def __init__(
        self, rows: Any, batch_size: int, process: int = 0, processes: int = 1, seed: int = 0
    ) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.process, self.joint_size = process, batch_size * processes
        if len(rows) < self.joint_size:
            raise ConfigError(
                f'lm_dataset has {len(rows)} rows, a batch of all processes {self.joint_size}'
            )
        self._epoch, self._order = -1, torch.empty(0)

    def batch(self, number: int) -> Tensor:
        """(B, N) tokens of the batch of that number, from 0.

        Raises:
            ConfigError: If a row has no tokens, or another length.
        """
        epoch, place = divmod(number, len(self.rows) // self.joint_size)
        if epoch != self._epoch:
            draw = torch.Generator().manual_seed(self.seed + epoch)
            self._epoch, self._order = epoch, torch.randperm(len(self.rows), generator=draw)
        start = place * self.joint_size + self.process * self.batch_size
        numbers = self._order[start : start + self.batch_size].tolist()
        read = [torch.as_tensor(self.rows[n]['input_ids']) for n in numbers]
        lengths = sorted({row.numel() for row in read})
        if len(lengths) > 1 or lengths[0] < 2:
            raise ConfigError(
                f'rows of lm_dataset have {" and ".join(map(str, lengths))} tokens: cut them to '
                'one length, of 2 at least'
            )
        return torch.stack(read)
