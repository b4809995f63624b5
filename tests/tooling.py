"""Tools in this process."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def load_tool(name):
    """The module of tools/<name>.py."""
    path = ROOT / 'tools' / f'{name}.py'
    spec = importlib.util.spec_from_file_location(f'{path.stem}_tool', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_tool(tool, monkeypatch, *arguments):
    """Run main() of a module, or of the tool of that name, in the repository's folder."""
    module = load_tool(tool) if isinstance(tool, str) else tool
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, 'argv', [f'{module.__name__}.py', *map(str, arguments)])
    module.main()
