"""Students and weights that leave, and what they are in the library that reads them."""

import pickle

import numpy as np
import pytest
import timm
import torch
import transformers
from mmengine.config import Config
from mmpretrain.registry import MODELS
from models import build_distiller, mmpretrain_classifier, timm_classifier
from PIL import Image
from timm.data import ImageDataset, create_transform
from timm.utils import accuracy
from tooling import ROOT, run_tool
from torch import nn
from torch.testing import assert_close

from shd_vit.convert import convert, export_onnx, onnx
from shd_vit.errors import CheckpointError, ConfigError

ARCH = dict(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=10)
# mmpretrain's tiny students have MLPs of twice the width.
TIMM = dict(ARCH, model_name='vit_tiny_patch16_224', mlp_ratio=2)


@pytest.fixture
def trained(tmp_path):
    """A distillation's checkpoint, images, and its student's logits."""
    return checkpoint(mmpretrain_classifier(3), tmp_path)


def checkpoint(student, folder):
    distiller = build_distiller(student).eval()
    meta = dict(dataset_meta=dict(classes=list('abcdefghij')), epoch=1)
    torch.save(dict(state_dict=distiller.state_dict(), meta=meta), folder / 'epoch_1.pth')
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        return folder / 'epoch_1.pth', images, distiller(images)


@torch.no_grad()
@pytest.mark.parametrize('tool', ['export_student', 'convert_weights'])
def test_student_in_timm_and_hugging_face(tool, trained, tmp_path, monkeypatch, capsys):
    path, images, logits = trained
    run_tool(tool, monkeypatch, path, tmp_path / 'a/s.safetensors', '--to', 'timm')
    assert capsys.readouterr().out.endswith('parameters, for VisionTransformer of timm\n')
    model = timm.create_model(**TIMM, checkpoint_path=str(tmp_path / 'a/s.safetensors'))
    assert_close(model.eval()(images), logits)

    run_tool(tool, monkeypatch, path, tmp_path / 'hf', '--to', 'huggingface', '--heads', 3)
    assert 'for ViTForImageClassification of huggingface' in capsys.readouterr().out
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / 'hf')
    assert_close(model.eval()(images).logits, logits)
    assert model.config.id2label[9] == 'j'

    # A folder is read as well; what comes back is what went in.
    run_tool('convert_weights', monkeypatch, tmp_path / 'hf', tmp_path / 'b.pth', '--to', 'timm')
    timm.create_model(**TIMM, checkpoint_path=str(tmp_path / 'b.pth'))
    run_tool('convert_weights', monkeypatch, tmp_path / 'b.pth', tmp_path / 'c.pth',
             '--to', 'mmpretrain')  # fmt: skip
    student = {
        name.removeprefix('student.'): weight
        for name, weight in torch.load(path)['state_dict'].items()
        if name.startswith('student.')
    }
    back = torch.load(tmp_path / 'c.pth')['state_dict']
    assert back.keys() == student.keys()
    assert all(torch.equal(back[name], weight) for name, weight in student.items())


@torch.no_grad()
def test_timm_student_in_mmpretrain(tmp_path, monkeypatch):
    path, images, logits = checkpoint(timm_classifier(3, mlp_ratio=2), tmp_path)
    run_tool('export_student', monkeypatch, path, tmp_path / 's.pth', '--to', 'mmpretrain')
    model = MODELS.build(mmpretrain_classifier(3)).eval()
    model.load_state_dict(torch.load(tmp_path / 's.pth')['state_dict'])
    assert_close(model(images), logits)


@torch.no_grad()
@pytest.mark.parametrize('backend, is_same', [('pillow', True), ('cv2', False)])
def test_accuracy_is_that_of_a_plain_timm_loop(backend, is_same, tmp_path, monkeypatch):
    """JPEGs of many sizes through tools/test.py, and through timm's dataset, transform, metric."""
    rng = np.random.default_rng(0)
    for i in range(40):
        height, width = rng.integers(40, 150, 2)
        noise = rng.integers(0, 255, (height // 4, width // 4, 3), dtype=np.uint8)
        path = tmp_path / f'images/{i % 10}/{i:02}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).resize((width, height)).save(path)

    model = timm.create_model(**TIMM).eval()
    nn.init.normal_(model.head.weight)
    # Resizes the shorter edge to floor(32 / 0.875) = 36.
    transform = create_transform(32, interpolation='bicubic', crop_pct=0.875)
    images, labels = zip(*ImageDataset(str(tmp_path / 'images'), transform=transform), strict=True)
    scores = model(torch.stack(images)).softmax(1)
    (top1,) = accuracy(scores, torch.tensor(labels))

    torch.save(dict(state_dict=convert(model.state_dict(), 'mmpretrain')), tmp_path / 'model.pth')
    data = Config.fromfile('configs/_base_/datasets/imagenet_folder.py')
    load, edge, crop, pack = data.test_pipeline
    pipeline = [load, {**edge, 'scale': 36, 'backend': backend}, {**crop, 'crop_size': 32}, pack]
    dataset = dict(
        type='CustomDataset', data_root=f'{tmp_path}/images', pipeline=pipeline, _delete_=True
    )
    (tmp_path / 'config.py').write_text(
        f'_base_ = {str(ROOT / "configs/deit_tiny_baseline.py")!r}\n'
        f'model = dict(_delete_=True, **{mmpretrain_classifier(3)!r})\n'
        'data_preprocessor = dict(num_classes=10)\n'
        f'test_dataloader = dict(batch_size=16, num_workers=0, persistent_workers=False, '
        f'dataset={dataset!r})\n'
    )
    for item in ('metrics', 'pred'):
        run_tool('test', monkeypatch, tmp_path / 'config.py', tmp_path / 'model.pth', '--out',
                 tmp_path / f'{item}.pkl', '--out-item', item, '--work-dir', tmp_path,
                 '--cfg-options', f'experiment_name={backend}_{item}')  # fmt: skip
    metrics, predictions = (
        pickle.loads((tmp_path / f'{item}.pkl').read_bytes()) for item in ('metrics', 'pred')
    )
    theirs = torch.stack([sample['pred_score'] for sample in predictions])
    assert torch.allclose(theirs, scores, rtol=1e-4, atol=1e-6) == is_same
    if is_same:
        assert metrics['accuracy/top1'] == pytest.approx(top1.item())
        assert 0 < top1 < 100


@torch.no_grad()
@pytest.mark.slow
def test_onnx_takes_any_batch_and_agrees_with_torch(trained, tmp_path, monkeypatch, capsys):
    runtime = pytest.importorskip('onnxruntime')
    path, _, _ = trained
    config = tmp_path / 'config.py'
    config.write_text(f'model = {mmpretrain_classifier(3)!r}\n')
    out = tmp_path / 'new/s.onnx'
    run_tool('export_student', monkeypatch, path, out, '--onnx', config)
    assert 'images (batch, 3, 32, 32); largest difference between' in capsys.readouterr().out
    model = MODELS.build(mmpretrain_classifier(3)).eval()
    model.load_state_dict(
        {k[8:]: w for k, w in torch.load(path)['state_dict'].items() if k.startswith('student.')}
    )
    images = torch.randn(5, 3, 32, 32)
    (logits,) = runtime.InferenceSession(out).run(None, {'images': images.numpy()})
    np.testing.assert_allclose(logits, model(images), atol=1e-5)
    model.head.layers.head.bias[3] += 0.01  # what the tool compares with notices a difference
    assert onnx.onnx_difference(model, out, (3, 32, 32)) == pytest.approx(0.01, abs=1e-4)


@pytest.mark.parametrize('difference', [2e-4, float('nan')])
def test_onnx_that_does_not_agree_is_refused_and_removed(difference, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx.importlib.util, 'find_spec', lambda name: name)
    monkeypatch.setattr(torch.onnx, 'export', lambda model, args, out, **_: open(out, 'w').close())
    monkeypatch.setattr(onnx, 'onnx_difference', lambda *_: difference)
    with pytest.raises(CheckpointError, match=r'torch differ by (2\.0e-04|nan), more than 1e-04'):
        export_onnx(nn.Identity(), tmp_path / 's.onnx', (3, 8, 8))
    assert not list(tmp_path.iterdir())


def test_onnx_names_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ConfigError, match=r'needs onnx, onnxruntime, onnxscript: pip install "shd'):
        export_onnx(nn.Identity(), tmp_path / 's.onnx', (3, 8, 8))


@pytest.mark.parametrize(
    ('arguments', 'error', 'message'),
    [
        (['s.bin', '--to', 'timm'], ConfigError, r"out='.*s\.bin' must end in \.pth, \.pt or"),
        (['hf', '--to', 'huggingface'], ConfigError, 'heads must be stated: the width 24'),
        (['s.pth', '--onnx', 'gone.py'], ConfigError, 'gone.py'),
        (['s.pth', '--to', 'timm', '--class-head'], ConfigError, 'no classifier of a distill'),
    ],
)
def test_bad_arguments(arguments, error, message, trained, tmp_path, monkeypatch):
    out, *more = arguments
    with pytest.raises(error, match=message):
        run_tool('export_student', monkeypatch, trained[0], tmp_path / out, *more)
    assert [path.name for path in tmp_path.iterdir()] == ['epoch_1.pth']
