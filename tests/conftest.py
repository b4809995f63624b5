import pytest
import torch

torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def _seeded():
    """Tests draw their inputs from torch's default generator."""
    torch.manual_seed(0)
