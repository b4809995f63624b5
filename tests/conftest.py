import gc
import os
import sys
from pathlib import Path

# The launchers that tests start call `python`: this one, also where its folder is not activated.
os.environ['PATH'] = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
# One thread a process: the models are tiny and pytest runs a worker a core.
os.environ['OMP_NUM_THREADS'] = '1'
# Compiling takes longer than what it would speed up here. Tests of it switch it on.
os.environ['TORCHDYNAMO_DISABLE'] = '1'

import pytest
import torch

torch.set_num_threads(1)
if not torch.cuda.is_available():
    # Triton's kernels run in its interpreter, if this is said before anything imports it.
    os.environ['TRITON_INTERPRET'] = '1'


def pytest_collection_finish():
    """What takes mmengine longer than all else in runs as small as ours.

    It collects garbage with every data set, which is to pass over what libraries have made, and
    has a config's text laid out by yapf seven times a run.
    """
    gc.collect()
    gc.freeze()
    config = sys.modules.get('mmengine.config.config')
    if config is not None:
        config.FormatCode = lambda text, **options: (text, True)


@pytest.fixture(autouse=True)
def _seeded():
    """Tests draw their inputs from torch's default generator."""
    torch.manual_seed(0)


@pytest.fixture
def dynamo(monkeypatch):
    """torch.compile, which the suite switches off, works in this test, and is used."""
    from torch._dynamo.utils import counters

    from shd_vit.functional import compiler

    monkeypatch.delenv('TORCHDYNAMO_DISABLE')
    for cached in (compiler._compiled, compiler.compiler_error):
        cached.cache_clear()
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(disable=False):
        yield
    assert counters['stats']['unique_graphs'] > 0
    for cached in (compiler._compiled, compiler.compiler_error):
        cached.cache_clear()


@pytest.fixture(autouse=True)
def _marked_for_a_gpu(request):
    if request.node.get_closest_marker('gpu') and not torch.cuda.is_available():
        pytest.skip('there is no CUDA GPU here')
