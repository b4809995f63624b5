"""The evaluation images of our configs and of timm, on photographs."""

import pytest
import timm.data
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmpretrain.registry import MODELS, TRANSFORMS
from PIL import Image
from timm.data import create_transform
from tooling import ROOT
from torch.testing import assert_close

data = pytest.importorskip('skimage.data')
DATA = Config.fromfile(ROOT / 'configs/_base_/datasets/imagenet_folder.py')
NAMES = ('astronaut', 'chelsea', 'coffee')  # 512 x 512, 300 x 451, 400 x 600


def pipeline(path, load=(), **resize):
    """What the test pipeline packs: RGB, (3, 224, 224) in 0 ... 255; and all of it."""
    first, edge, *rest = DATA.test_pipeline
    steps = [{**first, **dict(load)}, {**edge, **resize}, *rest]
    packed = Compose([TRANSFORMS.build(step) for step in steps])(dict(img_path=str(path)))
    return packed['inputs'].flip(0), packed


@pytest.fixture(params=NAMES)
def photograph(request, tmp_path):
    path = tmp_path / 'photograph.png'
    Image.fromarray(getattr(data, request.param)()).save(path)
    return path


def test_pixels_equal_timms_to_the_bit(photograph):
    with_crop = dict(input_size=224, interpolation='bicubic', crop_pct=224 / 256)
    image = Image.open(photograph)
    pixels, packed = pipeline(photograph)
    assert torch.equal(pixels, create_transform(**with_crop, normalize=False)(image))
    # timm divides by 255 first.
    preprocess = MODELS.build(dict(type='ClsDataPreprocessor', **DATA.data_preprocessor))
    ours = preprocess(dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']]))
    assert_close(ours['inputs'][0], create_transform(**with_crop)(image), rtol=0, atol=1e-6)

    # What timm's DeiT asks for by itself is another crop.
    default = timm.data.resolve_data_config({}, model=timm.create_model('deit_tiny_patch16_224'))
    assert default['crop_pct'] == 0.9
    theirs = create_transform(**default, normalize=False)(image)
    assert torch.equal(pipeline(photograph, scale=int(224 / 0.9))[0], theirs)
    assert not torch.equal(pixels, theirs)


def test_opencv_gives_other_pixels(photograph):
    pixels, opencv = (pipeline(photograph, backend=b)[0].int() for b in ('pillow', 'cv2'))
    assert (pixels - opencv).abs().max() > 10


def test_mmpretrain_turns_what_the_camera_turned(tmp_path):
    path, exif = tmp_path / 'photograph.jpg', Image.Exif()
    exif[0x0112] = 6  # by 90 degrees
    Image.fromarray(data.coffee()).save(path, exif=exif)
    theirs = create_transform(224, interpolation='bicubic', normalize=False)(Image.open(path))
    assert not torch.equal(pipeline(path)[0], theirs)
    assert torch.equal(pipeline(path, dict(color_type='color_ignore_orientation'))[0], theirs)
