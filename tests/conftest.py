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
    """mmengine has a config laid out by yapf seven times a run, which is most of a run here."""
    config = sys.modules.get('mmengine.config.config')
    if config is not None:
        config.FormatCode = lambda text, **options: (text, True)


@pytest.fixture(scope='module', autouse=True)
def _frozen():
    """Collections pass over what libraries have made and modules before this one have left.

    mmengine asks for a full one with every data set, accelerate with every trainer.
    """
    gc.collect()
    gc.freeze()


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
