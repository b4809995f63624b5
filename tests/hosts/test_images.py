"""Images for the teacher, against the libraries that normalise and resize them themselves."""

import numpy as np
import pytest
import timm
import torch
from mmpretrain.models import ClsDataPreprocessor
from PIL import Image
from torch import nn
from torch.testing import assert_close

from shd_vit.errors import ConfigError
from shd_vit.hosts.images import Normalisation, TeacherImages
from shd_vit.image_input import fixed_size

ANY = nn.Identity()  # a teacher that takes all images


def norm(mean, std, to_rgb):
    return Normalisation(mean, std, to_rgb)


@pytest.mark.parametrize('to_rgb', [(False, False), (True, False), (False, True), (True, True)])
def test_the_teacher_gets_what_its_own_preprocessor_would_give(to_rgb):
    raw = torch.randint(256, (2, 3, 6, 5), dtype=torch.uint8)
    settings = [
        dict(mean=[10.0, 20.0, 30.0], std=[2.0, 4.0, 8.0], to_rgb=to_rgb[0]),
        dict(mean=[1.0, 2.0, 3.0], std=[5.0, 6.0, 7.0], to_rgb=to_rgb[1]),
    ]
    given, wanted = (
        ClsDataPreprocessor(**cfg)(dict(inputs=raw), training=True)['inputs'] for cfg in settings
    )
    images = TeacherImages(*(norm(**cfg) for cfg in settings))
    assert_close(images(given, ANY), wanted, rtol=1e-5, atol=1e-4)
    assert images.swaps_channels == (to_rgb[0] != to_rgb[1])


def test_channels_that_are_in_order_stay():
    student = Normalisation([1.0, 2.0, 3.0], [1.0, 1.0, 1.0], False)
    teacher = Normalisation([1.0, 2.0, 3.0], [1.0, 1.0, 1.0], True)
    images = TeacherImages(student, teacher)
    given = torch.randn(1, 3, 2, 2)
    assert not torch.equal(images(given, ANY), given)
    images.keep_channels()
    assert images(given, ANY) is given


@pytest.mark.parametrize('size', [7, (9, 20)])
def test_resized_as_pillow_resizes(size):
    image = torch.randn(1, 1, 14, 15)
    h, w = (size, size) if isinstance(size, int) else size
    pillow = Image.fromarray(image[0, 0].numpy()).resize((w, h), Image.Resampling.BICUBIC)
    ours = TeacherImages(size=size)(image, ANY)[0, 0]
    assert_close(ours.numpy(), np.asarray(pillow), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('size', [0, -3, 2.5, (3,), (3, 4, 5), 'large'])
def test_no_size(size):
    with pytest.raises(ConfigError, match=r'image_size='):
        TeacherImages(size=size)


def vit(**kwargs):
    sizes = dict(img_size=32, patch_size=8, depth=1, embed_dim=12, num_heads=3, num_classes=2)
    return timm.create_model('vit_tiny_patch16_224', **{**sizes, **kwargs})


def hugging_face(name):
    import transformers

    config = getattr(transformers, f'{name}Config')(
        hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=12,
        image_size=32, patch_size=8,
    )  # fmt: skip
    return getattr(transformers, f'{name}Model')(config)


MODELS = {
    'timm': vit,
    'timm, dynamic': lambda: vit(dynamic_img_size=True),
    'timm, not square': lambda: vit(img_size=(32, 16)),
    'a convolution network of timm': lambda: timm.create_model('resnet10t'),
    'ViT of transformers': lambda: hugging_face('ViT'),
    'DINOv2 of transformers': lambda: hugging_face('Dinov2'),
}


@pytest.mark.parametrize('name', MODELS)
def test_a_size_is_fixed_where_the_model_refuses_others(name):
    model = MODELS[name]().eval()
    other = torch.randn(1, 3, 64, 64)
    try:
        model(other)
        takes_others = True
    except (AssertionError, ValueError):
        takes_others = False
    size = fixed_size(model)
    assert (size is None) == takes_others
    if size is not None:
        model(torch.randn(1, 3, *size))
        with pytest.raises(ConfigError, match=rf'teacher takes images of {size[0]} x {size[1]}'):
            TeacherImages()(other, model)
        with pytest.raises(ConfigError, match=r'it would get 32 x 40.*image_size='):
            TeacherImages().check(vit(img_size=(32, 40)), model)
        images = TeacherImages(size=size)
        images.check(vit(img_size=(32, 40)), model)
        model(images(other, model))


def test_other_channels_are_refused():
    with pytest.raises(ConfigError, match=r'student reads images of 1 channels, the teacher of 3'):
        TeacherImages().check(vit(in_chans=1), vit())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
def test_cast_for_a_teacher_in_half_precision(dtype):
    images = TeacherImages()(torch.randn(1, 3, 32, 32), vit().to(dtype))
    assert images.dtype == (dtype if dtype.itemsize == 2 else torch.float32)


def test_what_is_done_is_said():
    assert str(TeacherImages()) == "as the student's"
    both = TeacherImages(Normalisation(), Normalisation([0.5], [0.25], False), 7)
    assert str(both) == 'resized to 7 x 7, red and blue swapped, renormalised to mean 0.5, std 0.25'
