"""The script of docs/diffusion.md runs as it is written, and its student draws what it learned."""

import re
from pathlib import Path

PAGE = (Path(__file__).parents[3] / 'docs/diffusion.md').read_text()
SCRIPT = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)[0]


def test_the_script_runs(capsys):
    names = {}
    assert SCRIPT.count('steps=150') == 1
    exec(SCRIPT.replace('steps=150', 'steps=60'), names)
    left, right = (names['images'][..., part].mean((1, 2, 3)) for part in (slice(4), slice(4, 8)))
    assert ((left - right).sign() == -(2 * names['labels'] - 1)).all()
    assert ((left - right).abs() > 1).all()
    assert "'shd'" in capsys.readouterr().out
