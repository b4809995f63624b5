import pytest
import references
import torch
from torch.testing import assert_close

from shd_vit.errors import ConfigError
from shd_vit.functional import kd_loss
from shd_vit.losses import KDLoss, ModelOutput, NKDLoss


def test_weights_and_mixed_targets():
    s, t = (ModelOutput(torch.randn(4, 6), {}, {}) for _ in range(2))
    mixed = torch.rand(4, 6).softmax(1)
    expected = 0.3 * references.nkd(s.logits, t.logits, mixed.argmax(1), 1.2, 2.0)
    value = NKDLoss(gamma=1.2, temperature=2.0, weight=0.3)(s, t, mixed)
    assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    value = KDLoss(weight=0.3, temperature=2.0)(s, t, mixed)
    assert_close(value, 0.3 * kd_loss(s.logits, t.logits, 2.0))


@pytest.mark.parametrize('cls', [KDLoss, NKDLoss])
def test_temperature_must_be_positive(cls):
    with pytest.raises(ConfigError, match=f'{cls.__name__}.temperature=0'):
        cls(temperature=0)
