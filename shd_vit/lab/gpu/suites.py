"""The tests that a GPU runs, in a process of their own; and its loader, where FFCV is."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch

from shd_vit.lab.gpu import Outcome
from shd_vit.lab.report import read_json
from shd_vit.shipped import shipped

FOLDERS = 'tests/gpu', 'tests/functional/triton'


def tests(processes: int) -> Outcome:
    """How many passed, failed and were skipped, and the lines of those that did."""
    root = shipped('tools').parent
    missing = [folder for folder in FOLDERS if not (root / folder).is_dir()]
    if missing:
        return Outcome(wrong=(f'{missing[0]} is not there: tests are run from a clone',))
    command = [sys.executable, '-m', 'pytest', *FOLDERS, '-n', str(processes), '-rfEs', '--tb=line']
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    wrong = [line for line in lines if line.startswith(('FAILED', 'ERROR'))]
    if done.returncode and not wrong:
        wrong = [f'pytest ended with code {done.returncode}: {(lines or [""])[-1]}']
    counts = re.findall(r'(\d+) (passed|failed|skipped|errors?)', (lines or [''])[-1])
    rows = [['', 'tests'], *([name, count] for count, name in counts)]
    rows += [[line, ''] for line in lines if line.startswith('SKIPPED')]
    return Outcome((('Tests on this GPU', rows),), (), tuple(wrong))


def loader() -> Outcome:
    """Images a second of FFCVLoader, to be held beside those that a step takes."""
    needed = [name for name in ('ffcv', 'mmpretrain') if find_spec(name) is None]
    if needed:
        rows = [['FFCVLoader'], [f'not measured: {", ".join(needed)} not installed']]
        return Outcome((('Loading images', rows),))
    tool = shipped('tools') / 'benchmark_loader.py'
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / 'loader.json'
        command = [sys.executable, str(tool), 'speed', '--rounds', '3', '--json', str(out)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [''])[-1]
            return Outcome(wrong=(f'{tool.name}: {last}',))
        speeds = read_json(out)['speed']
    rows = [['', 'images/s']]
    rows += [[name, f'{value["images_per_second"]:,.0f}'] for name, value in speeds.items()]
    return Outcome((('Loading images', rows),))


def versions() -> Outcome:
    """The card, its driver, and what is installed."""
    if not torch.cuda.is_available():
        return Outcome(wrong=('torch sees no CUDA GPU',))
    from importlib.metadata import PackageNotFoundError, version

    rows = [['', '']]
    for name in ('torch', 'triton', 'timm', 'transformers', 'mmpretrain', 'ffcv', 'pytest'):
        try:
            rows.append([name, version(name)])
        except PackageNotFoundError:
            rows.append([name, 'not installed'])
    card = torch.cuda.get_device_properties(0)
    rows += [
        ['card', card.name],
        ['memory', f'{card.total_memory / 2**30:.0f} GiB'],
        ['driver', _driver()],
        ['CUDA of torch', str(torch.version.cuda)],
    ]
    return Outcome((('Versions', rows),))


def _driver() -> str:
    try:
        query = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f'unknown: {error}'
    return done.stdout.strip() or f'unknown: {done.stderr.strip()[:80]}'
