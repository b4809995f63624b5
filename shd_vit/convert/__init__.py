"""Weights of vision transformers between timm, mmpretrain and Hugging Face transformers.

Needs torch alone; writing ``.safetensors`` also needs safetensors, and ONNX its own packages.
"""

from shd_vit.convert.architecture import LIBRARIES, Architecture
from shd_vit.convert.files import save_weights
from shd_vit.convert.huggingface import hugging_face_config, save_folder
from shd_vit.convert.onnx import export_onnx
from shd_vit.convert.weights import convert, recognise, to_timm

__all__ = [
    'LIBRARIES',
    'Architecture',
    'convert',
    'export_onnx',
    'hugging_face_config',
    'recognise',
    'save_folder',
    'save_weights',
    'to_timm',
]
