"""Exports are run beside their source: facts of models, models from facts, and what is refused."""

import json
from functools import partial

import pytest
import timm
import torch
import transformers
from convert.vits import HUGGING_FACE, mmpretrain_model, randomise, timm_model
from mmpretrain.registry import MODELS
from timm.models.vision_transformer import ResPostBlock
from torch import nn
from torch.testing import assert_close

from shd_vit.convert import (
    Facts,
    build_model,
    check_same,
    convert,
    facts_of,
    from_folder,
    hugging_face_config,
    save_folder,
    save_weights,
)
from shd_vit.convert.models import put_in
from shd_vit.errors import CheckpointError, ConfigError

KINDS = list(HUGGING_FACE)
SHAPE = (3, 32, 32)


def facts(**other):
    return Facts(3, 'gelu', 'token', (32, 32))._replace(**other)


@pytest.mark.parametrize('to', ['timm', 'mmpretrain', 'huggingface'])
@pytest.mark.parametrize('kind', KINDS)
def test_facts_there_and_back_and_the_same_logits(kind, to):
    source = timm_model(kind)
    assert facts_of(source) == facts()
    target = build_model(convert(source.state_dict(), to), facts())
    assert facts_of(target) == facts()
    assert check_same(source, target, SHAPE) < 1e-12
    images = torch.randn(2, *SHAPE)
    with torch.no_grad():
        output = target(images)
        assert_close(getattr(output, 'logits', output), source(images))


@pytest.mark.parametrize(
    'other',
    [
        dict(heads=12),
        dict(activation='quick_gelu'),
        dict(activation='gelu_tanh'),
        dict(epsilon=1e-3),
        dict(image_size=(64, 16)),
    ],
    ids=str,
)
@pytest.mark.parametrize('to', ['mmpretrain', 'huggingface'])
def test_every_fact_reaches_the_export_and_counts(other, to):
    """The same weights with one fact that differs: followed by the export, told apart if not."""
    size = other.get('image_size', (32, 32))
    source = timm_model(
        'vit',
        num_heads=other.get('heads', 3),
        act_layer=other.get('activation', 'gelu'),
        norm_layer=partial(nn.LayerNorm, eps=other.get('epsilon', 1e-6)),
        img_size=size,
    )
    assert facts_of(source) == facts(**other)
    state = convert(source.state_dict(), to, image_size=size)
    assert check_same(source, build_model(state, facts(**other)), (3, *size)) < 1e-12
    with pytest.raises(CheckpointError, match=r'would not answer as its source|side by side: '):
        check_same(source, build_model(state, facts()), (3, *size))


def test_facts_of_activations_are_by_what_they_compute():
    arch = dict(embed_dims=24, num_layers=1, num_heads=3, feedforward_channels=48)
    for activation, name in (
        (dict(type='mmpretrain.QuickGELU'), 'quick_gelu'),
        (dict(type='GELU', approximate='tanh'), 'gelu_tanh'),
    ):
        backbone = dict(type='VisionTransformer', arch=arch, layer_cfgs=dict(act_cfg=activation))
        model = MODELS.build(dict(type='ImageClassifier', backbone=backbone))
        assert facts_of(model).activation == name
    config = transformers.ViTConfig(
        hidden_act='gelu_new', image_size=(32, 16), patch_size=8, hidden_size=24,
        num_hidden_layers=1, intermediate_size=8,
    )  # fmt: skip
    assert facts_of(transformers.ViTForImageClassification(config)) == Facts(
        12, 'gelu_tanh', 'token', (32, 16), 1e-12
    )
    with pytest.raises(ConfigError, match="ReLU must compute one of \\('gelu'"):
        facts_of(timm_model('vit', act_layer='relu'))
    with pytest.raises(ConfigError, match="pool='map' of VisionTransformer must be one of"):
        facts_of(timm_model('vit', global_pool='map', class_token=False))
    with pytest.raises(ConfigError, match='Linear is no vision transformer of timm'):
        facts_of(nn.Linear(2, 2))


def test_what_no_class_computes_is_refused_by_name(tmp_path):
    mean = timm_model('vit', global_pool='avg', fc_norm=False)
    assert facts_of(mean) == facts(pool='avg')
    assert check_same(mean, build_model(mean.state_dict(), facts(pool='avg')), SHAPE) == 0
    for to, message in (
        ('mmpretrain', "mmpretrain has no class for pool='avg' without a norm"),
        ('huggingface', "ViTForImageClassification .* reads the class token, not pool='avg'"),
    ):
        with pytest.raises(CheckpointError, match=message):
            build_model(convert(mean.state_dict(), to), facts(pool='avg'))
    size = (64, 16)
    wide = timm_model('deit3', img_size=size)
    state = convert(wide.state_dict(), 'huggingface', image_size=size)
    with pytest.raises(CheckpointError, match=r'takes square images alone: image_size=\(64, 16\)'):
        save_folder(state, tmp_path / 'hf', heads=3, image_size=size)
    with pytest.raises(CheckpointError, match='expected square patches, and 4 x 2 of embeddings'):
        convert(wide.state_dict(), 'timm', image_size=(32, 16))
    with pytest.raises(ConfigError, match="activation='relu' must be one of"):
        hugging_face_config(state, heads=3, activation='relu')
    assert not list(tmp_path.iterdir())


def test_image_size_is_the_sources_own():
    """37 px make 4 patches of 8, as 32 px do."""
    source = timm_model('vit', img_size=37)
    config = hugging_face_config(source.state_dict(), heads=3, image_size=(37, 37))
    assert config['image_size'] == 37
    wide = timm_model('vit', img_size=(64, 16))
    config = hugging_face_config(wide.state_dict(), heads=3, image_size=(64, 16))
    assert config['image_size'] == [64, 16]


def test_names_of_another_order_of_events_are_told_apart():
    """Norms behind attention and MLP: the same names and shapes, another function."""
    model = timm.create_model(
        'vit_tiny_patch16_224', img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3,
        num_classes=5, block_fn=ResPostBlock,
    )  # fmt: skip
    source = randomise(model)
    target = build_model(convert(source.state_dict(), 'mmpretrain'), facts_of(source))
    with pytest.raises(CheckpointError, match='would not answer as its source does'):
        check_same(source, target, SHAPE)


def test_nothing_to_compare_is_no_agreement():
    source, target = timm_model('vit'), timm_model('vit')
    with torch.no_grad():
        source.head.weight.zero_()
    with pytest.raises(CheckpointError, match='the same logits for all images'):
        check_same(source, source, SHAPE)
    with torch.no_grad():
        target.norm.bias[3] = float('nan')
    with pytest.raises(CheckpointError, match='differ by nan'):
        check_same(timm_model('vit'), target, SHAPE)
    with pytest.raises(CheckpointError, match=r'shapes \(2, 5\) and \(2, 3\)'):
        check_same(timm_model('vit'), timm_model('vit', num_classes=3), SHAPE)


def refuse(_):
    raise CheckpointError('no')


def test_what_was_there_stays_where_the_check_fails(tmp_path):
    state = convert(timm_model('vit').state_dict(), 'huggingface')
    for name in ('s.pth', 's.safetensors'):
        (tmp_path / name).write_text('old')
        with pytest.raises(CheckpointError):
            save_weights(state, tmp_path / name, check=refuse)
        assert (tmp_path / name).read_text() == 'old'
    save_folder(state, tmp_path / 'hf', heads=3)
    (tmp_path / 'hf/README.md').write_text('mine')
    before = (tmp_path / 'hf/config.json').read_text()
    with pytest.raises(CheckpointError):
        save_folder(state, tmp_path / 'hf', heads=4, check=refuse)
    with pytest.raises(CheckpointError):
        save_folder(state, tmp_path / 'new', heads=4, check=refuse)
    assert (tmp_path / 'hf/config.json').read_text() == before
    save_folder(state, tmp_path / 'hf', heads=4)
    assert json.loads((tmp_path / 'hf/config.json').read_text())['num_attention_heads'] == 4
    assert (tmp_path / 'hf/README.md').read_text() == 'mine'
    assert {path.name for path in tmp_path.iterdir()} == {'s.pth', 's.safetensors', 'hf'}


def test_weights_that_do_not_fit_their_model_are_named():
    model = timm_model('vit')
    state = model.state_dict()
    for weights, message in (
        ({**state, 'a.b': torch.ones(1)}, r'VisionTransformer: 1 left over \(first: a\.b\)'),
        (dict(list(state.items())[:-2]), r'2 missing \(first: head\.weight\)'),
        ({**state, 'head.bias': torch.ones(3)}, 'size mismatch for head.bias'),
    ):
        with pytest.raises(CheckpointError, match=message):
            put_in(model, weights)


def test_folders_that_are_none(tmp_path):
    state = convert(mmpretrain_model('vit').state_dict(), 'huggingface')
    save_folder(state, tmp_path, heads=3)
    assert facts_of(from_folder(tmp_path)) == facts()
    config = tmp_path / 'config.json'
    whole = json.loads(config.read_text())
    for content, message in (
        ('{', 'cannot be read: JSONDecodeError'),
        ('[]', 'cannot be read: TypeError'),
        ('{"architectures": ["CLIPModel"]}', "is of class 'CLIPModel', expected one of .'ViTFor"),
        (json.dumps({**whole, 'hidden_size': 12}), 'cannot be loaded|mismatched'),
        (json.dumps({**whole, 'num_hidden_layers': 3}), 'missing_keys'),
    ):
        config.write_text(content)
        with pytest.raises(CheckpointError, match=message) as raised:
            from_folder(tmp_path)
        assert '\n' not in str(raised.value)
    config.unlink()
    with pytest.raises(CheckpointError, match=r"config\.json' cannot be read: No such file"):
        from_folder(tmp_path)
