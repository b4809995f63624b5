"""Runs the tools, from a clone or an installed package: ``python -m shd_vit COMMAND ...``."""

from __future__ import annotations

import ast
import sys
from difflib import get_close_matches
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

from shd_vit.shipped import shipped
from shd_vit.version import __version__

COMMANDS = {
    'train': 'train.py',
    'test': 'test.py',
    'timm-train': 'timm_train.py',
    'dit-train': 'dit_train.py',
    'dit-sample': 'dit_sample.py',
    'dit-evaluate': 'dit_evaluate.py',
    'dit-compare': 'dit_compare.py',
    'dit-latents': 'dit_latents.py',
    'export': 'export_student.py',
    'convert': 'convert_weights.py',
    'compare': 'compare.py',
    'study': 'study.py',
    'write-ffcv': 'data/write_ffcv.py',
    'verify-ffcv': 'data/verify_ffcv.py',
    'lm-train': 'lm_train.py',
    'lm-eval': 'lm_eval.py',
    'lm-compare': 'lm_compare.py',
    'prepare-text': 'data/prepare_text.py',
    'prepare-instructions': 'data/prepare_instructions.py',
    'prepare-emoji': 'data/prepare_emoji.py',
    'prepare-tasks': 'data/prepare_tasks.py',
    'language-maps': 'analysis/language_maps.py',
    'language-alphas': 'analysis/language_alphas.py',
    'training-curves': 'analysis/training_curves.py',
    'attention-maps': 'analysis/attention_maps.py',
    'alpha-distribution': 'analysis/alpha_distribution.py',
    'pairs': 'analysis/pairs.py',
    'parity': 'analysis/parity.py',
    'reconstruction': 'analysis/reconstruction.py',
    'step-time': 'analysis/step_time.py',
    'lm-step-time': 'analysis/lm_step_time.py',
    'benchmark': 'benchmark.py',
    'benchmark-loader': 'benchmark_loader.py',
    'gpu-check': 'gpu_check.py',
}
# What else a tool may need, and how to get it.
MM = 'pip install mmengine mmpretrain mmcv-lite'
LAB = "pip install 'shd_vit[lab]'"
LM = "pip install 'shd_vit[lm]'"
DIT = "pip install 'shd_vit[diffusers]'"
EXTRAS = dict(mmcv=MM, mmengine=MM, mmpretrain=MM, matplotlib=LAB, scipy=LAB)
EXTRAS |= dict.fromkeys(('transformers', 'rouge_score', 'sklearn', 'gguf'), LM)
EXTRAS |= dict(diffusers=DIT, accelerate=DIT, torch_fidelity=DIT)
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
    """Call the ``main`` of a tool, whose usage messages then open with the command."""
    tool = shipped('tools') / COMMANDS[command]
    sys.argv = [f'python -m shd_vit {command}', *arguments]
    name = f'shd_vit_tools_{tool.stem}'
    spec: Any = spec_from_file_location(name, tool)
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as missing:
        extra = EXTRAS.get(missing.name or '')
        if extra is None:
            raise
        sys.exit(f'shd_vit: {command} needs {missing.name}, which is not installed: {extra}')
    from shd_vit.command import run_tool  # imports torch, which --help does without

    run_tool(module.main)


def usage() -> str:
    """All commands with the first line of their tool's docstring, read without running it."""
    folder = shipped('tools')
    lines = []
    for command, file in COMMANDS.items():
        docstring = ast.get_docstring(ast.parse((folder / file).read_text(encoding='utf-8'))) or ''
        lines.append(f'  {command:<22}{docstring.partition(chr(10))[0]}')
    return USAGE.format(commands='\n'.join(lines))


if __name__ == '__main__':
    main()
