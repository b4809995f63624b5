"""docs/losses.md lists every loss, and what it says of them is so."""

import inspect
import re
from pathlib import Path

import pytest
from mmpretrain.registry import MODELS
from models import mmpretrain_classifier

from shd_vit.distillation.registry import LOSSES
from shd_vit.losses import DistillationLoss
from shd_vit.merging import MERGING_STRATEGIES
from shd_vit.taps import Anatomy

PAGE = (Path(__file__).parents[2] / 'docs/losses.md').read_text()
JOINED = ' '.join(PAGE.split())
SHOWN = re.findall(r'^dict\(type=.*?\)$', PAGE, re.MULTILINE)
ROWS = dict(re.findall(r'^\| `(\w+)` \| (\w+ \| \w+) \|', PAGE, re.MULTILINE))


def registered():
    return {
        name
        for name, cls in MODELS.module_dict.items()
        if isinstance(cls, type)
        and issubclass(cls, DistillationLoss)
        and cls.__module__.startswith('shd_vit.')
    }


def test_mmpretrain_has_the_losses_of_the_registry():
    ours = {name: c for name, c in LOSSES.classes.items() if c.__module__.startswith('shd_vit.')}
    assert registered() == set(ours)
    assert all(MODELS.get(name) is cls for name, cls in ours.items())
    for short, name in LOSSES.short.items():
        assert f'`{short}`' in PAGE and (short in name.lower() or f'`{short}` ({name})' in JOINED)


def test_the_page_lists_every_loss_once():
    shown = [eval(line)['type'] for line in SHOWN]
    assert len(shown) == len(set(shown)) == PAGE.count('dict(type=')
    assert set(shown) == set(ROWS) == registered()


@pytest.mark.parametrize('line', SHOWN)
def test_what_is_shown_builds_and_shows_the_defaults(line):
    shown = eval(line)
    loss = MODELS.build(dict(shown))
    defaults = inspect.signature(type(loss).__init__).parameters
    for name, value in shown.items():
        if name != 'type' and defaults[name].default is not None:
            assert value == defaults[name].default, name
    assert repr(loss) == repr(type(loss)())


@pytest.mark.parametrize('line', SHOWN)
def test_what_it_reads_and_learns_is_as_the_table_says(line):
    cfg = eval(line)
    loss = MODELS.build(cfg)
    student, teacher = (MODELS.build(mmpretrain_classifier(heads)) for heads in (3, 6))
    needs = loss.bind(Anatomy(student, 'student'), Anatomy(teacher, 'teacher'))
    for need in needs:
        reads = ''.join(field for field in need._fields if getattr(need, field))
        learns = 'yes' if list(loss.parameters()) else 'no'
        assert f'{reads} | {learns}' == ROWS[cfg['type']]


def test_the_page_lists_every_merging_strategy():
    shown = re.findall(r"^\| `'(\w+)'` \|", PAGE, re.MULTILINE)
    assert sorted(shown) == sorted(MERGING_STRATEGIES.strategies)
