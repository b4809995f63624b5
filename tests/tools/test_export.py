"""Students and weights that leave, and what they are in the library that reads them."""

import pickle
from argparse import Namespace

import numpy as np
import pytest
import timm
import torch
import transformers
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmpretrain.registry import MODELS
from models import build_distiller, distiller_config, mmpretrain_classifier, timm_classifier
from PIL import Image
from timm.data import ImageDataset, create_transform
from timm.utils import CheckpointSaver, accuracy
from tooling import ROOT, run_tool
from torch import nn
from torch.testing import assert_close

from shd_vit.convert import cli, convert, export_onnx, onnx
from shd_vit.errors import CheckpointError, ConfigError

ARCH = dict(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=10)
# mmpretrain's tiny students have MLPs of twice the width.
FACTS = ('--heads', 3, '--activation', 'gelu', '--pool', 'token', '--image-size', 32)
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
    run_tool(tool, monkeypatch, path, tmp_path / 'a/s.safetensors', '--to', 'timm', *FACTS)
    assert capsys.readouterr().out.endswith('parameters, for VisionTransformer of timm\n')
    model = timm.create_model(**TIMM, checkpoint_path=str(tmp_path / 'a/s.safetensors'))
    assert_close(model.eval()(images), logits)

    run_tool(tool, monkeypatch, path, tmp_path / 'hf', '--to', 'huggingface', *FACTS)
    assert 'for ViTForImageClassification of huggingface' in capsys.readouterr().out
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / 'hf')
    assert_close(model.eval()(images).logits, logits)
    assert model.config.id2label[9] == 'j'

    # A folder is read as well; what comes back is what went in.
    run_tool('convert_weights', monkeypatch, tmp_path / 'hf', tmp_path / 'b.pth', '--to', 'timm')
    timm.create_model(**TIMM, checkpoint_path=str(tmp_path / 'b.pth'))
    run_tool('convert_weights', monkeypatch, tmp_path / 'b.pth', tmp_path / 'c.pth',
             '--to', 'mmpretrain', *FACTS)  # fmt: skip
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
    # Its config, or a distillation's, says what the options do.
    config = f'model = {distiller_config(timm_classifier(3, mlp_ratio=2))!r}'
    (tmp_path / 'config.py').write_text(config)
    for options in (FACTS, ['--config', tmp_path / 'config.py']):
        run_tool('export_student', monkeypatch, path, tmp_path / 's.pth', '--to', 'mmpretrain',
                 *options)  # fmt: skip
    model = MODELS.build(mmpretrain_classifier(3)).eval()
    model.load_state_dict(torch.load(tmp_path / 's.pth')['state_dict'])
    assert_close(model(images), logits)


def timm_student(**kwargs):
    """A timm model whose classifier counts."""
    model = timm.create_model(**{**TIMM, **kwargs}).eval()
    nn.init.normal_(model.head.weight)
    return model


@torch.no_grad()
@pytest.mark.parametrize('key', ['state_dict_ema', 'model_ema'])
def test_the_average_is_taken_as_timm_does(key, tmp_path, monkeypatch, capsys):
    plain, averaged = timm_student(), timm_student()
    path, out, images = (
        tmp_path / 'model_best.pth.tar',
        tmp_path / 's.pth',
        torch.randn(2, 3, 32, 32),
    )
    torch.save({'state_dict': {f'module.{name}': x for name, x in plain.state_dict().items()},
                key: averaged.state_dict()}, path)  # fmt: skip
    assert timm.models.load_state_dict(path).keys() == averaged.state_dict().keys()
    for options, model, said in (
        ((), averaged, f'the averaged weights ({key})'),
        (('--no-ema',), plain, 'the plain weights (state_dict)'),
    ):
        run_tool('convert_weights', monkeypatch, path, out, '--to', 'mmpretrain', *FACTS, *options)
        assert f'{path}: {said}' in capsys.readouterr().out
        theirs = MODELS.build(mmpretrain_classifier(3)).eval()
        theirs.load_state_dict(torch.load(out)['state_dict'])
        assert_close(theirs(images), model(images))
        if not options:  # timm itself reads the average
            read = timm.create_model(**TIMM, checkpoint_path=str(path)).eval()
            assert_close(read(images), theirs(images))


@torch.no_grad()
@pytest.mark.parametrize('tool', ['export_student', 'convert_weights'])
def test_the_average_of_mmengine_is_taken(tool, tmp_path, monkeypatch, capsys):
    """EMAHook itself writes what the tools read."""
    distiller, hook = build_distiller(mmpretrain_classifier(3)), EMAHook(momentum=0.5)
    hook.before_run(Namespace(model=distiller))
    for weight in distiller.student.parameters():
        weight.add_(0.1 * torch.randn_like(weight))
    hook.ema_model.update_parameters(distiller)  # the first time copies
    for weight in distiller.student.parameters():
        weight.add_(0.1 * torch.randn_like(weight))
    hook.ema_model.update_parameters(distiller)
    images = torch.randn(2, 3, 32, 32)
    plain, averaged = (model.eval()(images) for model in (distiller, hook.ema_model.module))
    assert not torch.allclose(plain, averaged)
    checkpoint = dict(state_dict=distiller.state_dict(), meta={})
    hook.before_save_checkpoint(None, checkpoint)
    path, out = tmp_path / 'epoch_1.pth', tmp_path / 's.pth'
    torch.save(checkpoint, path)
    for options, logits, said in (
        ((), averaged, 'the averaged weights (state_dict)'),
        (('--no-ema',), plain, 'the plain weights (ema_state_dict)'),
    ):
        run_tool(tool, monkeypatch, path, out, '--to', 'timm', *FACTS, *options)
        assert f'{path}: {said}' in capsys.readouterr().out
        model = timm.create_model(**TIMM, checkpoint_path=str(out)).eval()
        assert_close(model(images), logits)


def test_no_average_and_no_weights_are_said(trained, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match='--no-ema: the checkpoint has no averaged weights'):
        run_tool('export_student', monkeypatch, trained[0], tmp_path / 's.pth', '--no-ema')
    for content, message in (
        (dict(state_dict=None), "state_dict of checkpoint '.*odd.pth' is None"),
        (dict(model=[]), "model of checkpoint '.*odd.pth' is a list"),
        (dict(state_dict={}), 'no dict of weights: it is empty'),
        (dict(state_dict=dict(blocks=3)), "'blocks' is a int, expected a tensor"),
        (dict(epoch=3), "odd.pth' is no dict of weights: 'epoch' is a int"),
        ([torch.ones(1)], '(is|holds) a list'),
    ):
        torch.save(content, tmp_path / 'odd.pth')
        for tool in ('export_student', 'convert_weights'):
            with pytest.raises(CheckpointError, match=message):
                run_tool(
                    tool, monkeypatch, tmp_path / 'odd.pth', tmp_path / 's.pth', '--to', 'timm'
                )
    assert not (tmp_path / 's.pth').exists()


@torch.no_grad()
def test_the_model_that_a_timm_script_notes(tmp_path, monkeypatch, capsys):
    model = timm_student(embed_dim=48, num_heads=12, act_layer='quick_gelu')
    path, out, images = tmp_path / 'last.pth.tar', tmp_path / 'hf', torch.randn(2, 3, 32, 32)
    kwargs = dict(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=12, mlp_ratio=2.0,
                  act_layer='quick_gelu')  # fmt: skip
    args = dict(model='vit_tiny_patch16_224', model_kwargs=kwargs, num_classes=10)

    def convert_it(*options, **noted):
        record = dict(arch=args['model'], state_dict=model.state_dict(), args={**args, **noted})
        torch.save(record, path)
        run_tool('convert_weights', monkeypatch, path, out, '--to', 'huggingface', *options)

    convert_it()
    theirs = transformers.AutoModelForImageClassification.from_pretrained(out).eval()
    assert (theirs.config.num_attention_heads, theirs.config.hidden_act) == (12, 'quick_gelu')
    assert_close(theirs(images).logits, model(images))
    assert '12 heads, quick_gelu, token pooling, 32 x 32 px' in capsys.readouterr().out
    # argparse's own form of the same, as timm's scripts save it.
    args['model_kwargs'] = kwargs
    unset = dict.fromkeys(('config', 'model', 'heads', 'activation', 'pool', 'image_size'))
    options = Namespace(**unset, to='timm', class_head=False, out=str(tmp_path / 's.pth'))
    said = cli.write(model.state_dict(), options, dict(args=Namespace(**args)))
    assert said.endswith('for VisionTransformer of timm')
    kwargs['drop_path_rate'] = 0.1
    # As DeiT's script and timm's own note the size and the pooling.
    del kwargs['img_size']
    convert_it(img_size=None, input_size=32)
    convert_it(img_size=None, input_size=(3, 32, 32))
    with pytest.raises(CheckpointError, match=r'missing \(first: fc_norm\.weight'):
        convert_it(img_size=32, gp='avg')
    kwargs['img_size'] = 32
    # Of a stranger's note only what makes up a plain vision transformer is taken.
    for noted, error, message in (
        (dict(model_kwargs={**kwargs, 'checkpoint_path': '/etc/passwd'}), ConfigError,
         r"notes vit_tiny_patch16_224 with \['checkpoint_path'\]: state --model"),
        (dict(model_kwargs={**kwargs, 'img_size': 64}), CheckpointError, 'and 8 x 8 of embeddings'),
        (dict(model_kwargs={**kwargs, 'img_size': 10**6}), CheckpointError, '125000 x 125000'),
        (dict(model_kwargs={**kwargs, 'img_size': ['a']}), ConfigError, r"img_size=\['a'\]: state"),
        (dict(model_kwargs={**kwargs, 'act_layer': {}}), ConfigError, 'with .*act_layer'),
        (dict(model_kwargs={**kwargs, 'act_layer': 'gone'}), ConfigError, 'cannot be built with'),
        (dict(model='resnet18'), ConfigError, 'cannot be built with'),
        (dict(model_kwargs={**kwargs, 'num_heads': 5}), ConfigError, 'cannot be built with'),
        (dict(model='hf-hub:some/model'), ConfigError, '--heads, --activation'),
        (dict(model=['a']), ConfigError, '--heads, --activation'),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            convert_it(**noted)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('x = (', 'SyntaxError'),
        ("model = dict(type='Gone')", 'Gone'),
        ("model = dict(type='TimmClassifier', model_name='gone')", 'gone'),
        ('x = 1', "has neither 'type' nor 'config'"),
    ],
)
def test_configs_that_cannot_be_built(content, message, trained, tmp_path, monkeypatch):
    config = tmp_path / 'config.py'
    config.write_text(content)
    for options in (('s.pth', '--to', 'timm', '--config'), ('s.onnx', '--onnx')):
        with pytest.raises(ConfigError, match=message) as raised:
            run_tool('export_student', monkeypatch, trained[0], tmp_path / options[0],
                     *options[1:], config)  # fmt: skip
        assert '\n' not in str(raised.value)


@torch.no_grad()
def test_what_timms_saver_writes_is_converted_as_it_is(tmp_path, monkeypatch, capsys):
    """Model, sizes and the average, from a Namespace of a script's options."""
    model, averaged = (timm_student(num_heads=12) for _ in range(2))
    kwargs = dict(patch_size=8, embed_dim=24, depth=2, num_heads=12, mlp_ratio=2.0)
    args = Namespace(model='vit_tiny_patch16_224', img_size=32, model_kwargs=kwargs, lr=1e-3)
    saver = CheckpointSaver(
        model, torch.optim.AdamW(model.parameters()), args, averaged, checkpoint_dir=tmp_path
    )
    saver.save_checkpoint(0, metric=1.0)
    images = torch.randn(2, 3, 32, 32)
    for options, source in (((), averaged), (('--no-ema',), model)):
        run_tool('convert_weights', monkeypatch, tmp_path / 'model_best.pth.tar', tmp_path / 'hf',
                 '--to', 'huggingface', *options)  # fmt: skip
        theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / 'hf')
        assert_close(theirs.eval()(images).logits, source(images))
    assert 'the plain weights (state_dict)' in capsys.readouterr().out


@torch.no_grad()
def test_what_the_source_computes_goes_into_the_folder(tmp_path, monkeypatch):
    """Twelve heads, pictures that are not square, another activation: by name and by config."""
    sizes = dict(img_size=(64, 16), embed_dim=48, num_heads=12)
    model = timm_student(**sizes, act_layer='quick_gelu')
    torch.save(model.state_dict(), tmp_path / 'timm.pth')
    kwargs = ['img_size=(64,16)', 'patch_size=8', 'embed_dim=48', 'depth=2', 'num_heads=12',
              'mlp_ratio=2', 'act_layer=quick_gelu']  # fmt: skip
    by_name = ['--model', 'vit_tiny_patch16_224', '--model-kwargs', *kwargs]
    run_tool('convert_weights', monkeypatch, tmp_path / 'timm.pth', tmp_path / 'mm.pth',
             '--to', 'mmpretrain', *by_name)  # fmt: skip
    config = mmpretrain_classifier(3)
    config['backbone'].update(
        arch=dict(embed_dims=48, num_layers=2, num_heads=12, feedforward_channels=96),
        img_size=(64, 16),
        layer_cfgs=dict(act_cfg=dict(type='mmpretrain.QuickGELU')),
    )
    config['head']['in_channels'] = 48
    (tmp_path / 'config.py').write_text(f'model = {config!r}\n')
    images = torch.randn(2, 3, 64, 16)
    for source, options in (
        ('timm.pth', by_name),
        ('mm.pth', ['--config', tmp_path / 'config.py']),
    ):
        out = tmp_path / f'hf of {source.partition(".")[0]}'
        run_tool('convert_weights', monkeypatch, tmp_path / source, out, '--to', 'huggingface',
                 *options)  # fmt: skip
        theirs = transformers.AutoModelForImageClassification.from_pretrained(out).eval()
        assert_close(theirs(images).logits, model(images))
        assert theirs.config.image_size == [64, 16]
    # Back, by what the folder's own config says.
    run_tool('convert_weights', monkeypatch, out, tmp_path / 'back.pth', '--to', 'timm')
    back = torch.load(tmp_path / 'back.pth')['state_dict']
    assert all(torch.equal(back[name], weight) for name, weight in model.state_dict().items())
    # A fact that is stated must be the model's.
    with pytest.raises(ConfigError, match=r'--heads=3 differs from 12, which the model of these'):
        run_tool('convert_weights', monkeypatch, out, tmp_path / 'b.pth', '--to', 'timm',
                 '--heads', 3)  # fmt: skip


@torch.no_grad()
def test_the_class_head_alone_is_compared_with_the_sources(tmp_path, monkeypatch):
    arch = {**TIMM, 'model_name': 'deit_tiny_distilled_patch16_224'}
    model = timm.create_model(**arch).eval()
    nn.init.normal_(model.head.weight)
    nn.init.normal_(model.head_dist.weight)
    torch.save(model.state_dict(), tmp_path / 'timm.pth')
    images = torch.randn(2, 3, 32, 32)
    for options, expected in (
        ((), model(images)),
        (('--class-head',), model.head(model.forward_features(images)[:, 0])),
    ):
        run_tool('convert_weights', monkeypatch, tmp_path / 'timm.pth', tmp_path / 'hf', '--to',
                 'huggingface', *FACTS, *options)  # fmt: skip
        theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / 'hf')
        assert_close(theirs.eval()(images).logits, expected)


@torch.no_grad()
@pytest.mark.parametrize('to', ['mmpretrain', 'huggingface'])
def test_mean_pooling_without_a_norm_is_refused(to, tmp_path, monkeypatch):
    model = timm_student(global_pool='avg', fc_norm=False)
    torch.save(model.state_dict(), tmp_path / 'timm.pth')
    by_name = ['--model', 'vit_tiny_patch16_224', '--model-kwargs', 'global_pool=avg',
               'fc_norm=False', 'img_size=32', 'patch_size=8', 'embed_dim=24', 'depth=2',
               'num_heads=3', 'mlp_ratio=2']  # fmt: skip
    for options in ([*FACTS, '--pool', 'avg'], by_name):
        with pytest.raises(CheckpointError, match="pool='avg'"):
            run_tool('convert_weights', monkeypatch, tmp_path / 'timm.pth', tmp_path / 'out.pth',
                     '--to', to, *options)  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ['timm.pth']


@torch.no_grad()
@pytest.mark.parametrize('to', ['timm', 'mmpretrain', 'huggingface'])
def test_an_export_that_differs_is_not_kept(to, trained, tmp_path, monkeypatch):
    """As if the table of names had two norms the wrong way round."""

    def wrong(state, to, **options):
        names = list(convert(state, to, **options))
        norms = [name for name in names if 'norm1.weight' in name or 'ln1.weight' in name
                 or 'layernorm_before.weight' in name][:2]  # fmt: skip
        state = convert(state, to, **options)
        state[norms[0]], state[norms[1]] = 1.5 * state[norms[1]], state[norms[0]]
        return state

    monkeypatch.setattr(cli, 'convert', wrong)
    (tmp_path / 'out.pth').write_text('old')
    for out in ('out.pth', 'new.safetensors', *(['folder'] if to == 'huggingface' else [])):
        with pytest.raises(CheckpointError, match='would not answer as its source does'):
            run_tool('export_student', monkeypatch, trained[0], tmp_path / out, '--to', to, *FACTS)
    assert (tmp_path / 'out.pth').read_text() == 'old'
    assert {path.name for path in tmp_path.iterdir()} == {'epoch_1.pth', 'out.pth'}


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
    (tmp_path / 'file').touch()
    for out in ('file/s.onnx', 'folder.onnx'):
        (tmp_path / 'folder.onnx').mkdir(exist_ok=True)
        with pytest.raises(ConfigError, match=rf"{out}' cannot be written: "):
            export_onnx(nn.Identity(), tmp_path / out, (3, 8, 8))


def test_onnx_names_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ConfigError, match=r'needs onnx, onnxruntime, onnxscript: pip install "shd'):
        export_onnx(nn.Identity(), tmp_path / 's.onnx', (3, 8, 8))


@pytest.mark.parametrize(
    ('arguments', 'error', 'message'),
    [
        (
            ['s.bin', '--to', 'timm', *FACTS],
            ConfigError,
            r"out='.*s\.bin' must end in \.pth, \.pt or",
        ),
        (
            ['hf', '--to', 'huggingface', *FACTS[2:]],
            ConfigError,
            '--heads must be stated, weights do',
        ),
        (
            ['hf', '--to', 'huggingface', '--heads', 3],
            ConfigError,
            '--activation, --pool, --image-',
        ),
        (['s.pth', '--to', 'timm', '--config', 'gone.py'], ConfigError, 'gone.py'),
        (['s.pth', '--to', 'timm', '--model', 'gone'], ConfigError, "'gone' is of timm, the weigh"),
        (['s.pth', '--to', 'timm', '--model', 'a', '--config', 'b'], ConfigError, 'state one'),
        (['s.pth', '--to', 'timm', *FACTS, '--heads', 5], ConfigError, 'heads=5 must be a divisor'),
        (['s.pth', '--to', 'timm', *FACTS, 1, 2], ConfigError, '--image-size=.* must be a side'),
        (['s.pth', '--to', 'timm', *FACTS, 16], CheckpointError, '4 x 2 of embeddings plus 0 or'),
        (['.', '--to', 'timm', *FACTS], ConfigError, 'must end in'),
        (['epoch_1.pth/s.pth'], ConfigError, r's\.pth. cannot be written: File exists'),
        (['epoch_1.pth/hf', '--to', 'huggingface', *FACTS], ConfigError, 'cannot be written: '),
        (['/proc/s.pth'], ConfigError, r's\.pth. cannot be written: '),
        (['s.onnx', '--onnx', 'BASE'], CheckpointError, 'size mismatch for backbone.cls_'),
        (['s.pth', '--onnx', 'gone.py'], ConfigError, 'gone.py'),
        (
            ['s.pth', '--to', 'timm', '--class-head', *FACTS],
            ConfigError,
            'no classifier of a distill',
        ),
    ],
)
def test_bad_arguments(arguments, error, message, trained, tmp_path, monkeypatch):
    out, *more = arguments
    more = ['configs/fashion_mnist/baseline.py' if x == 'BASE' else x for x in more]
    with pytest.raises(error, match=message) as raised:
        run_tool('export_student', monkeypatch, trained[0], tmp_path / out, *more)
    assert '\n' not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ['epoch_1.pth']
