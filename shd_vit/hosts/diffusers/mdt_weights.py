"""Weights of MDTv2 as its authors' code saves them.

https://github.com/sail-sg/MDT/blob/7d26c21162b462ed0e1fed9b31a74e5d73d4d51f/masked_diffusion/models.py
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from shd_vit.errors import CheckpointError
from shd_vit.hosts.diffusers.mdt import MDTv2Model

# Theirs to ours, in order; what is left has the same name in both.
_NAMES = (
    (r'^x_embedder\.proj\.', 'patches.'),
    (r'^pos_embed$', 'position'),
    (r'^decoder_pos_embed$', 'decoder_position'),
    (r'^t_embedder\.mlp\.0\.', 'time.linear_1.'),
    (r'^t_embedder\.mlp\.2\.', 'time.linear_2.'),
    (r'^y_embedder\.', 'label.'),
    (r'^en_inblocks\.', 'encoder_in.'),
    (r'^en_outblocks\.', 'encoder_out.'),
    (r'^de_blocks\.', 'decoder.'),
    (r'^sideblocks\.', 'side.'),
    (r'^final_layer\.linear\.', 'head.'),
    (r'^final_layer\.adaLN_modulation\.1\.', 'modulation.'),
    (r'\.adaLN_modulation\.1\.', '.modulation.'),
    (r'\.attn\.rel_pos_bias\.relative_position_bias_table$', '.attn.table'),
    (r'\.mlp\.fc1\.', '.mlp.0.'),
    (r'\.mlp\.fc2\.', '.mlp.2.'),
    (r'\.skip_linear\.', '.merge.'),
)


def load_authors_weights(model: MDTv2Model, weights: Mapping[str, Tensor]) -> None:
    """Load a state dict of the authors' ``MDTv2``, trained with label dropout and masking.

    Raises:
        CheckpointError: If it has other weights than ``model``, or of other shapes.
    """
    renamed = {}
    for theirs, weight in weights.items():
        if theirs.endswith('.relative_position_index'):
            continue
        ours = theirs
        for pattern, name in _NAMES:
            ours = re.sub(pattern, name, ours)
        # Three rows more than there are offsets, for a class token that MDT does not have.
        renamed[ours] = weight[:-3] if ours.endswith('.attn.table') else weight
    wanted = model.state_dict()
    for name in sorted(wanted.keys() | renamed.keys()):
        shapes = [tuple(has[name].shape) if name in has else None for has in (wanted, renamed)]
        if shapes[0] != shapes[1]:
            raise CheckpointError(
                f'{name}: the model has {shapes[0] or "none"}, the weights have '
                f'{shapes[1] or "none"}; sizes, decoder_layers and classes must be the same'
            )
    model.load_state_dict(renamed)
