import subprocess
import sys

CODE = """
import resource, sys, torch
from shd_vit.hosts.mmpretrain.memory import keep_freed_memory
if sys.argv[1] == 'keep':
    assert keep_freed_memory()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for megabytes in (5, 40, 100, 3):
        torch.ones(megabytes * 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(min(faults() for _ in range(3)))
"""


def test_freed_pages_are_used_again():
    keep, default = (
        int(subprocess.check_output([sys.executable, '-c', CODE, mode])) for mode in ('keep', 'no')
    )
    assert keep < 10 < default
