"""A training that takes no time, and studies of it."""

from pathlib import Path

CONFIG = """
behaviour = dict(top1=80.0, fails=[], waits=[], unvalidated=False, in_pairs=False)
randomness = dict(seed=7)
schedulers = [dict(lr=0.1), dict(lr=0.2)]
train_dataloader = dict(batch_size=2)
val_dataloader = dict(batch_size=2)
"""

# Stands for tools/train.py: reads its config, keeps a journal, logs as mmengine does.
TRAIN = """
import json, os, sys, time
from pathlib import Path

config, work = sys.argv[1], Path(sys.argv[sys.argv.index('--work-dir') + 1])
assert '--resume' in sys.argv
values = {}
exec(Path(config).read_text(), values)
behaviour, seed = values['behaviour'], values['randomness']['seed']
with open(Path(__file__).with_name('journal'), 'a') as journal:
    journal.write(f'{work.parent.name} {seed} {os.environ.get("OMP_NUM_THREADS")}\\n')
while behaviour['in_pairs']:
    if len(Path(__file__).with_name('journal').read_text().splitlines()) > seed // 2 * 2 + 1:
        break
    time.sleep(0.02)
if seed in behaviour['waits']:
    time.sleep(600)
if seed in behaviour['fails']:
    print('first line')
    sys.exit('ValueError: the reason')
folder = work / f'run{len(list(work.glob("run*")))}/vis_data'
folder.mkdir(parents=True)
lines = []
for epoch, change in ((1, 9.0), (2, 0.0)):  # the first validation is the best
    for step in range(3):
        lines.append(dict(lr=0.1, loss=1.0, time=0.1 * (1 + step), epoch=epoch, step=step))
    lines.append({'accuracy/top1': behaviour['top1'] + seed + change, 'time': 9.0, 'step': epoch})
if behaviour['unvalidated']:
    lines.pop()
(folder / 'scalars.json').write_text('\\n'.join(map(json.dumps, lines)) + '\\n')
"""


def write_tools(folder):
    """A folder to take for tools/."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'train.py').write_text(TRAIN)
    return folder


def journal(tools):
    """Folder of the row, seed and threads of each training that was started."""
    path = Path(tools) / 'journal'
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def write_study(folder, text):
    """A study's file beside the config base.py, which CONFIG in the text stands for."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'base.py').write_text(CONFIG)
    path = folder / 'mine.yaml'
    path.write_text(text.replace('CONFIG', str(folder / 'base.py')))
    return path
