"""The terms that a Trainer adds are the losses of the same maps and logits, computed apart."""

import pytest
import references
import torch
from hosts.transformers.lm import Texts, gpt2, llama, trainer
from taps.zoo import actual_maps
from torch.testing import assert_close
from transformers import Trainer

from shd_vit.errors import ConfigError, NonFiniteLoss
from shd_vit.losses import KDLoss, SHDLoss


def log_of(trained):
    return [row for row in trained.state.log_history if 'loss' in row]
