"""What a GPU would be asked for, on tensors without data."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from shd_vit.errors import ConfigError
from shd_vit.losses import KDLoss, ModelOutput, NKDLoss, SHDLoss
from shd_vit.taps import AttentionTap


class Products(TorchDispatchMode):
    """The dtypes of all batched products: (operands, result)."""

    def __init__(self):
        super().__init__()
        self.dtypes = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.aten.bmm:
            self.dtypes.add((args[0].dtype, args[1].dtype, result.dtype))
        return result


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_is_multiplied_as_such_and_summed_in_float32(dtype):
    with FakeTensorMode(), Products() as products:
        student, teacher = (
            AttentionTap(
                *torch.empty(3, 2, H, 197, 64, device='cuda', dtype=dtype).unbind(0),
                torch.empty(64 * H, 64 * H, device='cuda', dtype=dtype),
                0.125,
            )
            for H in (3, 6)
        )
        loss = SHDLoss(compile=False)
        loss.pairs = [(1, 1)]
        value = loss(*(ModelOutput(None, {1: tap}, {}) for tap in (student, teacher)), None)
    assert value.dtype == torch.float32 and value.device.type == 'cuda'
    expected = {(dtype, dtype, torch.float32)}
    if dtype == torch.float16:  # the Gram matrix of U, which may leave float16's range
        expected.add((torch.bfloat16, torch.bfloat16, torch.float32))
    assert products.dtypes == expected


@pytest.mark.parametrize('cls', [KDLoss, NKDLoss])
@pytest.mark.parametrize('shape', [(4,), (4, 6)])
def test_targets_are_looked_at_in_the_first_batch_alone(cls, shape):
    """Fake tensors have no values to wait for: looking raises."""
    loss, fake = cls(), FakeTensorMode()
    with fake:
        pair = [ModelOutput(torch.empty(4, 6, device='cuda'), {}, {}) for _ in range(2)]
        target = torch.zeros(shape, device='cuda', dtype=torch.long if len(shape) == 1 else None)
        with pytest.raises(torch._subclasses.fake_tensor.DataDependentOutputException):
            loss(*pair, target)
    labels = torch.arange(4)
    loss(*(ModelOutput(torch.zeros(4, 6), {}, {}) for _ in range(2)), labels)
    with fake:
        assert loss(*pair, target).device.type == 'cuda'
    with pytest.raises(ConfigError, match='label 7 of sample 0'):  # on a CPU, at every batch
        loss(*(ModelOutput(torch.zeros(4, 6), {}, {}) for _ in range(2)), labels + 7)
