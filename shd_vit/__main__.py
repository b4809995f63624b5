"""Runs the tools, from a clone or an installed package: ``python -m shd_vit COMMAND ...``."""

from __future__ import annotations

import ast
import sys
from difflib import get_close_matches
from types import ModuleType

from shd_vit.shipped import shipped
from shd_vit.version import __version__

COMMANDS = {
    'train': 'train.py',
    'test': 'test.py',
    'timm-train': 'timm_train.py',
    'export': 'export_student.py',
    'convert': 'convert_weights.py',
    'compare': 'compare.py',
    'study': 'study.py',
    'write-ffcv': 'data/write_ffcv.py',
    'verify-ffcv': 'data/verify_ffcv.py',
    'training-curves': 'analysis/training_curves.py',
    'attention-maps': 'analysis/attention_maps.py',
    'alpha-distribution': 'analysis/alpha_distribution.py',
    'pairs': 'analysis/pairs.py',
    'parity': 'analysis/parity.py',
    'reconstruction': 'analysis/reconstruction.py',
    'step-time': 'analysis/step_time.py',
    'benchmark': 'benchmark.py',
    'benchmark-loader': 'benchmark_loader.py',
}
USAGE = """\
usage: python -m shd_vit COMMAND ...

{commands}

python -m shd_vit COMMAND --help says what a command takes. Several processes:
torchrun --nproc_per_node 8 -m shd_vit train CONFIG --launcher pytorch
CONFIG is a file, or the name of one that comes with the package: shd_vit::deit_tiny_shd.py"""


def main() -> None:
    command, *arguments = sys.argv[1:] or ['--help']
    if command in ('-h', '--help'):
        print(usage())
    elif command == '--version':
        print(__version__)
    elif command in COMMANDS:
        run(command, arguments)
    else:
        closest = get_close_matches(command, COMMANDS, 1)
        hint = f'did you mean {closest[0]!r}?' if closest else f'allowed: {", ".join(COMMANDS)}'
        print(f'shd_vit: unknown command {command!r}; {hint}', file=sys.stderr)
        sys.exit(2)


def run(command: str, arguments: list[str]) -> None:
    """Run a tool in this process, as ``python TOOL.py arguments`` would.

    runpy would put the file's name into argv, with which usage messages open.
    """
    tool = shipped('tools') / COMMANDS[command]
    sys.argv = [f'python -m shd_vit {command}', *arguments]
    sys.path.insert(0, str(tool.parent))  # tools import their neighbours
    main_module = sys.modules['__main__'] = ModuleType('__main__')
    main_module.__file__ = str(tool)
    try:
        exec(compile(tool.read_bytes(), tool, 'exec'), vars(main_module))
    except ModuleNotFoundError as missing:
        if missing.name not in ('mmcv', 'mmengine', 'mmpretrain'):
            raise
        sys.exit(
            f'shd_vit: {command} needs {missing.name}, which is not installed: '
            'pip install mmengine mmpretrain mmcv-lite'
        )


def usage() -> str:
    """All commands with the first line of their tool's docstring, read without running it."""
    folder = shipped('tools')
    lines = []
    for command, file in COMMANDS.items():
        docstring = ast.get_docstring(ast.parse((folder / file).read_text(encoding='utf-8'))) or ''
        lines.append(f'  {command:<20}{docstring.partition(chr(10))[0]}')
    return USAGE.format(commands='\n'.join(lines))


if __name__ == '__main__':
    main()
