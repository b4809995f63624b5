import subprocess
import sys

CODE = """
import resource, runpy, torch

# The file alone: its package imports mmengine.
keep_freed_memory = runpy.run_path('shd_vit/hosts/mmpretrain/memory.py')['keep_freed_memory']

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for megabytes in (5, 40, 100, 3):
        torch.ones(megabytes * 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for keeps in (False, True):
    assert not keeps or keep_freed_memory()
    faults()
    print(min(faults() for _ in range(3)))
"""


def test_freed_pages_are_used_again():
    default, keep = map(int, subprocess.check_output([sys.executable, '-c', CODE]).split())
    assert keep < 10 < default
