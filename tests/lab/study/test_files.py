"""Studies of the repository whose rows are commands: each cell is a training that can be."""

import pytest
from tooling import ROOT

from shd_vit.hosts.transformers.trainer import build_loss
from shd_vit.lab.diffusion.recipe import read_recipe
from shd_vit.lab.language.settings import read_settings
from shd_vit.lab.study.jobs import make_cells
from shd_vit.lab.study.launch import Launcher
from shd_vit.lab.study.plan import read_study


def of_language(words, cell):
    settings = read_settings(ROOT / words[2], [word for word in words[3:] if word != '--resume'])
    assert settings.arguments.pop('output_dir') == str(cell.folder)
    assert settings.arguments.pop('seed') == cell.seed
    return settings


def of_diffusion(words, cell):
    assert words[3:5] == [str(cell.folder), '--options']
    recipe = read_recipe(ROOT / words[2], words[5:])
    assert recipe.seed == cell.seed and recipe.pictures and recipe.scores
    recipe.seed = 0
    return recipe


READERS = {'tools/lm_train.py': of_language, 'tools/dit_train.py': of_diffusion}


@pytest.mark.parametrize(
    'name, count',
    [
        ('lm/small/study', 9 * 3 + 6),
        ('lm/minillm/small/study', 13 * 3),
        ('lm/minillm/small/tuning', 22),
        ('dit/fashion_mnist/study/study', 9 * 3 + 8),
    ],
)
def test_every_cell_is_a_training_and_every_row_another(name, count, tmp_path):
    path = ROOT / f'configs/{name}.yaml'
    assert f'configs/{name}.yaml' in path.read_text(), 'its command'
    study, launcher = read_study(path), Launcher('none', 1, tmp_path)
    cells = make_cells(study, tmp_path, launcher)
    assert len(cells) == count
    trainings = set()
    for cell in cells:
        words = cell.job.command(cell.folder, cell.seed, launcher)
        training = READERS[words[1]](words, cell)
        for loss, options in training.losses.items():
            build_loss(loss, options)
        trainings.add(str(training))
    assert len(trainings) == len(study.rows)
