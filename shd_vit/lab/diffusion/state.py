"""Where a training stands, in a folder that is written whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from accelerate import Accelerator

from shd_vit.errors import CheckpointError
from shd_vit.files import write_whole

STATE, OLD, PART = 'state', '.state.old', '.state.part'


def save_state(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Save weights, averages, optimiser and random numbers after ``step`` steps."""
    part = folder / PART
    accelerator.save_state(str(part))
    if accelerator.is_main_process:
        (part / 'step.json').write_text(json.dumps(dict(step=step)))
        shutil.rmtree(folder / OLD, ignore_errors=True)
        if (folder / STATE).exists():
            (folder / STATE).rename(folder / OLD)
        part.rename(folder / STATE)
        shutil.rmtree(folder / OLD, ignore_errors=True)
    accelerator.wait_for_everyone()


def load_state(accelerator: Accelerator, folder: Path) -> int:
    """Take up what :func:`save_state` saved last, if anything; the step it stands at, or 0.

    Raises:
        CheckpointError: If it is of another model.
    """
    # A kill may have come while names were exchanged.
    found = [place for place in (folder / STATE, folder / OLD) if (place / 'step.json').is_file()]
    if not found:
        return 0
    try:
        accelerator.load_state(str(found[0]))
        step: int = json.loads((found[0] / 'step.json').read_text())['step']
    except Exception as error:
        line = str(error).split('\n', 1)[0]
        raise CheckpointError(
            f'{found[0]} does not fit this recipe ({line}): remove it to train anew'
        ) from None
    return step


def forget_state(folder: Path) -> None:
    """Remove it: the training is done."""
    for name in (STATE, OLD, PART):
        shutil.rmtree(folder / name, ignore_errors=True)


def cut_log(path: Path, step: int) -> None:
    """Leave out lines of steps that are done again, and one that a kill cut short."""
    if not path.is_file():
        return
    lines = path.read_text(encoding='utf-8').splitlines(keepends=True)
    whole = [line for line in lines if line.endswith('}\n')]
    with write_whole(path) as part:
        part.write_text(''.join(x for x in whole if json.loads(x)['step'] <= step), 'utf-8')
