"""Weights of vision transformers between timm, mmpretrain and Hugging Face transformers.

Needs torch alone; writing ``.safetensors`` also needs safetensors, and ONNX its own packages. What
runs models to compare them needs their libraries.
"""

from shd_vit.convert.architecture import LIBRARIES, Architecture
from shd_vit.convert.facts import Facts, facts_of
from shd_vit.convert.files import save_weights
from shd_vit.convert.huggingface import hugging_face_config, save_folder
from shd_vit.convert.models import build_model, check_same, from_folder
from shd_vit.convert.onnx import export_onnx
from shd_vit.convert.weights import convert, recognise, to_timm
from shd_vit.image_input import image_shape

__all__ = [
    'LIBRARIES',
    'Architecture',
    'Facts',
    'build_model',
    'check_same',
    'convert',
    'export_onnx',
    'facts_of',
    'from_folder',
    'hugging_face_config',
    'image_shape',
    'recognise',
    'save_folder',
    'save_weights',
    'to_timm',
]
