"""What a GPU would be asked for, on tensors without data."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from shd_vit.losses import ModelOutput, SHDLoss
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
