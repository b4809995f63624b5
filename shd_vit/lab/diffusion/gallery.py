"""What a training shows of itself: pictures from fixed noise, their scores, and its curves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shd_vit.errors import check_number
from shd_vit.lab.diffusion.drawing import Drawing, draw, picture
from shd_vit.lab.diffusion.samples import save_samples
from shd_vit.lab.diffusion.scores import Scoring, score_all
from shd_vit.lab.figures import COLORS, pyplot
from shd_vit.lab.settings import build

PICTURES, SAMPLES, CURVES = 'pictures', 'samples.npz', 'log.svg'
NOT_TERMS = ('step', 'lr', 'images_per_second')
# Names in metrics.json, by those in tables.
NAMES = {
    'Frechet': 'frechet', 'IS': 'inception_score', 'KID x 1000': 'kid_x_1000',
    'precision': 'precision', 'recall': 'recall',
}  # fmt: skip


class Gallery:
    """Pictures of a run, in its folder.

    Args:
        folder: Of the run.
        pictures: Fields of :class:`Drawing`, and ``every``: after so many steps, and at the end.
        scores: Fields of :class:`Scoring`; empty scores nothing.
        scheduler: Of the training.
        classes: Names of the labels; empty numbers them.
        teacher: Shown beside the student; None: nothing is.
        device: To draw on.

    Raises:
        ConfigError: Naming the field.
    """

    def __init__(
        self,
        folder: Path,
        pictures: dict[str, Any],
        scores: dict[str, Any],
        scheduler: Any,
        classes: tuple[str, ...],
        teacher: nn.Module | None,
        device: torch.device,
    ) -> None:
        options = dict(pictures)
        self.every = options.pop('every', None)
        check_number('pictures.every', self.every, positive=True, whole=True, optional=True)
        self.how = build(Drawing, options, 'pictures')
        self.scoring = build(Scoring, scores, 'scores') if scores else None
        self.folder, self.scheduler, self.device = folder, scheduler, device
        self.teacher, self.classes = teacher, classes
        self.taught: tuple[Tensor, Tensor] | None = None

    def is_due(self, step: int) -> bool:
        return self.every is not None and step % self.every == 0

    def show(self, model: nn.Module, step: int) -> Tensor:
        """Draw pictures of a model, into ``pictures/STEP.png``, beside the teacher's; the first."""
        if self.teacher is not None and self.taught is None:
            self.taught = self._draw(self.teacher, 'teacher')
        drawn = {} if self.taught is None else {'teacher': self.taught}
        drawn['student' if drawn else 'model'] = images, labels = self._draw(model, f'step {step}')
        (self.folder / PICTURES).mkdir(exist_ok=True)
        classes = self.classes or None
        picture(self.folder / PICTURES / f'{step:06}.png', drawn, classes, self.how.show)
        save_samples(self.folder / SAMPLES, images, labels, classes)
        return images

    def scores(self, images: Tensor) -> dict[str, float]:
        """Scores as metrics.json has them, and with ``real_`` those of real pictures."""
        if self.scoring is None:
            return {}
        rows, _, caption = score_all({'drawn': images}, self.scoring)
        print(caption)
        return {
            f'{prefix}{NAMES[title]}': value
            for prefix, row in (('', 'drawn'), ('real_', 'real'))
            for title, value in rows[row].items()
        }

    def _draw(self, model: nn.Module, name: str) -> tuple[Tensor, Tensor]:
        was_training = model.training
        try:
            return draw(model.eval(), self.scheduler, self.how, self.device, name=name)
        finally:
            model.train(was_training)


def draw_curves(logs: Mapping[str, Path], out: Path) -> None:
    """The terms of runs by step, each term on an axis of its own; nothing of empty logs.

    Args:
        logs: log.jsonl of each run, by its name.
        out: The figure.
    """
    runs = {
        name: [json.loads(line) for line in log.read_text(encoding='utf-8').splitlines()]
        for name, log in logs.items()
    }
    terms = dict.fromkeys(
        term for lines in runs.values() for term in (lines or [{}])[-1] if term not in NOT_TERMS
    )
    if not terms:
        return
    plt = pyplot()
    figure, axes = plt.subplots(
        1, len(terms), figsize=(3 * len(terms), 2.4), squeeze=False, layout='constrained'
    )
    handles = {}
    for number, (axis, term) in enumerate(zip(axes[0], terms, strict=True)):
        found = {
            name: [(line['step'], line[term]) for line in lines if term in line]
            for name, lines in runs.items()
        }
        for place, (name, points) in enumerate(found.items()):
            if points:
                color = COLORS[(place if len(runs) > 1 else number) % len(COLORS)]
                (handles[name],) = axis.plot(*zip(*points, strict=True), color=color)
        axis.set(title=term, xlabel='step')
        if min(value for points in found.values() for _, value in points) > 0:
            axis.set_yscale('log')
    if len(runs) > 1:
        figure.legend(handles.values(), handles, loc='outside lower center', ncols=6)
    figure.savefig(out, format=out.suffix[1:])
    plt.close(figure)
