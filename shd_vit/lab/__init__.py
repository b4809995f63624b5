"""The numbers behind the figures of tools/analysis: merging weights and attention maps."""

from shd_vit.lab.alphas import collect_alphas, outside, summarise
from shd_vit.lab.config import (
    analysis_parser,
    distiller_config,
    load_distiller,
    student_heads,
    teacher_parser,
)
from shd_vit.lab.images import image_batches, one_image, shown_image
from shd_vit.lab.maps import LayerMaps, layer_maps, squeeze_tap
from shd_vit.lab.merging import Merged, merged_heads
from shd_vit.lab.query import Query

__all__ = [
    'LayerMaps',
    'Merged',
    'Query',
    'analysis_parser',
    'collect_alphas',
    'distiller_config',
    'image_batches',
    'layer_maps',
    'load_distiller',
    'merged_heads',
    'one_image',
    'outside',
    'shown_image',
    'squeeze_tap',
    'student_heads',
    'summarise',
    'teacher_parser',
]
