"""What is installed, and the commands that it brings."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import fashion
import pytest

from shd_vit import __main__ as commands

ROOT = Path(__file__).parents[1]
OF_A_CLONE = {
    *(f'tools/{name}.sh' for name in ('run_tests', 'setup_env')),
    *(
        f'tools/{name}.sh'
        for name in ('quickstart', 'quickstart_lm', 'quickstart_minillm', 'quickstart_dit')
    ),
}


def files(folder):
    return {p.relative_to(ROOT).as_posix() for p in (ROOT / folder).rglob('*') if p.is_file()}


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The wheel, unpacked; built from the sdist of a tree in which things lie about."""
    tree = tmp_path_factory.mktemp('tree')
    shutil.copytree(
        ROOT, tree, dirs_exist_ok=True,
        ignore=lambda folder, names: {
            name for name in names if (name in ('data', 'work_dirs', 'build', 'dist', 'site')
            and Path(folder) == ROOT) or name.startswith('.venv') or name in ('.git', '__pycache__')
            or (name.startswith('.') and name.endswith('_cache')) or name.endswith('.egg-info')
        },
    )  # fmt: skip
    cache = tree / 'configs/__pycache__'
    cache.mkdir()
    (cache / 'deit.pyc').touch()
    build = 'from setuptools import build_meta as b; import sys; print(b.build_{}(sys.argv[1]))'

    def run(kind, folder):
        command = [sys.executable, '-W', 'ignore', '-c', build.format(kind), str(tree)]
        output = subprocess.check_output(command, cwd=folder, text=True, stderr=subprocess.STDOUT)
        return tree / output.split()[-1]

    shutil.unpack_archive(run('sdist', tree), tree / 'sdist', filter='data')
    (source,) = (tree / 'sdist').iterdir()
    stale = source / 'build/lib/shd_vit/.mim/tools/gone.py'
    stale.parent.mkdir(parents=True)
    stale.touch()
    unpacked = tmp_path_factory.mktemp('installed')
    with zipfile.ZipFile(run('wheel', source)) as archive:
        archive.extractall(unpacked)
    return unpacked


def test_wheel_holds_the_package_its_configs_and_tools_and_nothing_else(wheel):
    code = {name for name in files('shd_vit') if name.endswith(('.py', '.cpp', 'py.typed'))}
    recipes = {name for name in files('configs') | files('tools') if '__pycache__' not in name}
    found = {p.relative_to(wheel).as_posix() for p in wheel.rglob('*') if p.is_file()}
    about = {name for name in found if name.split('/')[0].endswith('.dist-info')}
    assert found - about == code | {f'shd_vit/.mim/{name}' for name in recipes - OF_A_CLONE}
    (points,) = (wheel / name for name in about if name.endswith('entry_points.txt'))
    assert 'shd_vit = shd_vit.__main__:main' in points.read_text()


@pytest.mark.slow
def test_training_from_the_wheel(wheel, tmp_path):
    """In an empty folder, with a config over one that the wheel brings."""
    data = fashion.write_images(tmp_path / 'data')
    here = tmp_path / 'empty'
    here.mkdir()
    (here / 'mine.py').write_text("_base_ = 'shd_vit::fashion_mnist/shd.py'\n")
    options = {'model.teacher.checkpoint': f'{data}/teacher.pth', **fashion.overrides(data)}
    options['train_cfg.max_epochs'] = 1
    output = subprocess.run(
        [sys.executable, '-m', 'shd_vit', 'train', 'mine.py', '--no-validate',
         '--work-dir', 'runs', '--cfg-options',
         *(f'{key}={value}' for key, value in options.items())],
        cwd=here, env={**os.environ, 'PYTHONPATH': str(wheel)}, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert output.returncode == 0, output.stdout[-3000:]
    assert (here / 'runs/epoch_1.pth').is_file()
    for folder in ('shd_vit', 'configs', 'tools'):
        assert f'{ROOT / folder}/' not in output.stdout, 'all is read from the wheel'


CORE = """
import sys
for name in ('mmengine', 'mmpretrain', 'mmcv', 'timm', 'transformers', 'diffusers', 'torchvision',
             'rich', 'scipy', 'matplotlib', 'numba', 'ffcv', 'safetensors', 'PIL', 'yaml'):
    sys.modules[name] = None
import torch
from torch import nn
import shd_vit
before = set(sys.modules)
student, teacher = (nn.TransformerEncoderLayer(4 * n, n, 8, batch_first=True) for n in (2, 4))
losses = dict(shd=shd_vit.SHDLoss(compile=False))
d = shd_vit.Distillation(losses, student, teacher)
taught = d.record_teacher(teacher, torch.randn(3, 5, 16))
learned = d.record_student(student, torch.randn(3, 5, 8))
d.terms(learned, taught, None)['shd'].backward()
assert student.self_attn.in_proj_weight.grad.any()
"""
CUSTOM_IMPORTS = """
import sys
from mmengine.config import Config
if {first}:
    import shd_vit.hosts.mmpretrain
Config.fromfile(sys.argv[1])
from mmpretrain.models.backbones.deit3 import DeiT3TransformerEncoderLayer
from mmpretrain.registry import MODELS, RUNNERS
assert MODELS.get('ViTDistiller') and MODELS.get('SHDLoss') and RUNNERS.get('DistillRunner')
assert hasattr(DeiT3TransformerEncoderLayer.forward, '__wrapped__')
"""
ALONE = """
import sys
import shd_vit
others = ('mmengine', 'mmpretrain', 'mmcv', 'timm', 'transformers', 'diffusers', 'torchvision',
          'numba')
assert not [name for name in others if name in sys.modules]
import mmpretrain.registry
assert mmpretrain.registry.MODELS.get('ViTDistiller') is None
"""


@pytest.mark.slow
@pytest.mark.parametrize('first', [False, True])
def test_custom_imports_of_a_config_register_with_mmpretrain(first, tmp_path):
    (tmp_path / 'mine.py').write_text("custom_imports = dict(imports=['shd_vit'])")
    code = CUSTOM_IMPORTS.format(first=first)
    subprocess.run([sys.executable, '-c', code, tmp_path / 'mine.py'], check=True)


@pytest.mark.slow
@pytest.mark.parametrize('code', [CORE, ALONE], ids=['needs torch alone', 'touches no host'])
def test_the_core(code):
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code], check=True)


@pytest.mark.slow
def test_every_command_of_the_wheel_says_what_it_takes(wheel, tmp_path):
    """In an empty folder: nothing of a clone is needed, its tests included."""
    script = (
        'import sys\nfrom shd_vit import __main__ as commands\n'
        'for command in commands.COMMANDS:\n'
        '    sys.argv = ["shd_vit", command, "--help"]\n'
        '    try:\n        commands.main()\n'
        '    except SystemExit as left:\n        assert not left.code, command\n'
        'print([m.__file__ for m in list(sys.modules.values()) if getattr(m, "__file__", None)])'
    )
    output = subprocess.check_output(
        [sys.executable, '-c', script], cwd=tmp_path, text=True,
        env={**os.environ, 'PYTHONPATH': str(wheel)},
    )  # fmt: skip
    for command in commands.COMMANDS:
        assert f'usage: python -m shd_vit {command} ' in output
    for folder in ('shd_vit', 'tests', 'tools'):
        assert f'{ROOT / folder}/' not in output, 'all is read from the wheel'


@pytest.fixture
def call(monkeypatch):
    """main() with a command line."""

    def call(*arguments):
        monkeypatch.setattr(sys, 'argv', ['shd_vit', *arguments])
        commands.main()

    return call


def test_every_tool_is_a_command():
    tools = [ROOT / name for name in files('tools') if name.endswith('.py')]
    mains = [tool for tool in tools if "__name__ == '__main__'" in tool.read_text()]
    found = {tool.relative_to(ROOT / 'tools').as_posix() for tool in mains}
    assert found == set(commands.COMMANDS.values())


def test_help_lists_the_commands_and_what_they_are_for(call, capsys):
    call()
    shown = capsys.readouterr().out
    for command, tool in commands.COMMANDS.items():
        (first,) = re.findall(r'\A"""(.*?)(?:"""|\n)', (ROOT / 'tools' / tool).read_text())
        assert re.search(rf'^  {command} +{re.escape(first)}$', shown, re.MULTILINE)


def test_a_tool_names_its_command(call, capsys):
    with pytest.raises(SystemExit) as left:
        call('study', '--help')
    assert left.value.code in (0, None)
    assert capsys.readouterr().out.startswith('usage: python -m shd_vit study [-h]')


@pytest.mark.parametrize('typed, hint', [('trian', "mean 'train'?"), ('#', 'allowed: train, test')])
def test_unknown_command(call, capsys, typed, hint):
    with pytest.raises(SystemExit) as left:
        call(typed)
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert repr(typed) in line and hint in line


def test_what_is_not_installed(call, monkeypatch, tmp_path):
    """OpenMMLab's packages are named with the way to get them; another error is left alone."""
    monkeypatch.setattr(commands, 'shipped', lambda folder: tmp_path)
    monkeypatch.setitem(sys.modules, 'mmcv', None)
    (tmp_path / 'train.py').write_text('import mmcv')
    with pytest.raises(SystemExit, match=r'^shd_vit: train needs mmcv, .*: pip install .*mmcv'):
        call('train')
    (tmp_path / 'train.py').write_text('import no_such_module')
    with pytest.raises(ModuleNotFoundError, match='no_such_module'):
        call('train')
