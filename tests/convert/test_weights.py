import re

import pytest
import timm
import torch
import transformers
from convert.vits import HUGGING_FACE, MMPRETRAIN, mmpretrain_model, randomise, timm_model
from mmengine.config import Config
from mmengine.hub import get_config
from mmpretrain.registry import MODELS
from safetensors.torch import load_file
from tooling import ROOT
from torch.testing import assert_close

from shd_vit.convert import convert, hugging_face_config, save_folder
from shd_vit.errors import CheckpointError, ConfigError
from shd_vit.losses import ModelOutput, SHDLoss
from shd_vit.taps import TapBank

KINDS = list(MMPRETRAIN)


def same_bits(state, expected):
    assert state.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(state[name], weight), name
        assert state[name].dtype == weight.dtype


@pytest.mark.parametrize('kind', KINDS)
@torch.no_grad()
def test_three_libraries_give_the_same_logits_and_the_same_bits_back(kind, tmp_path):
    ours, images = timm_model(kind), torch.randn(2, 3, 32, 32)
    state, logits = ours.state_dict(), ours(images)
    assert logits.std() > 0.1

    theirs = mmpretrain_model(kind)
    theirs.load_state_dict(convert(state, 'mmpretrain'))
    assert_close(theirs(images), logits)
    same_bits(convert(theirs.state_dict(), 'timm'), state)

    name = save_folder(convert(state, 'huggingface'), tmp_path / 'ours', heads=3)
    assert name == HUGGING_FACE[kind]
    model, info = getattr(transformers, name).from_pretrained(
        tmp_path / 'ours', output_loading_info=True
    )
    assert not any(info.values()), info
    assert_close(model.eval()(images).logits, logits)
    model.save_pretrained(tmp_path / 'theirs')
    in_files = load_file(tmp_path / 'theirs/model.safetensors')
    same_bits(load_file(tmp_path / 'ours/model.safetensors'), in_files)
    for named in (in_files, model.state_dict()):  # transformers 5 has other names in memory
        same_bits(convert(named, 'timm'), state)
        same_bits(convert(named, 'huggingface'), in_files)
        same_bits(convert(named, 'mmpretrain'), theirs.state_dict())


@torch.no_grad()
def test_class_head_alone_of_a_distilled_deit(tmp_path):
    ours, images = timm_model('distilled'), torch.randn(2, 3, 32, 32)
    state = convert(ours.state_dict(), 'huggingface', class_head=True)
    assert save_folder(state, tmp_path, heads=3) == 'DeiTForImageClassification'
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert type(model).__name__ == 'DeiTForImageClassification'
    expected = ours.head(ours.forward_features(images)[:, 0])
    assert_close(model(images).logits, expected)
    for library in ('timm', 'mmpretrain'):
        with pytest.raises(CheckpointError, match=f"{library} has no .*'distilled, class head"):
            convert(model.state_dict(), library)


def captured(model, images):
    bank = TapBank(model)
    return bank, ModelOutput.of(bank, model, images)


def same_taps_and_loss(students, teachers, images):
    """Logits, taps and loss are the same in two libraries; each argument is a model of each."""
    pairs = [[captured(model, images) for model in models] for models in (students, teachers)]
    for (_, ours), (_, theirs) in pairs:
        assert_close(theirs.logits, ours.logits)
        assert ours.attention.keys() == theirs.attention.keys()
        for layer, tap in ours.attention.items():
            assert_close(theirs.attention[layer]._asdict(), tap._asdict())
    values = []
    for (student_bank, student), (teacher_bank, teacher) in zip(*pairs, strict=True):
        loss = SHDLoss(compile=False)
        loss.bind(student_bank.anatomy, teacher_bank.anatomy)
        values.append(loss(student, teacher, None))
    assert values[0] > 0.01
    assert_close(values[1], values[0])


@torch.no_grad()
@pytest.mark.parametrize('kind', KINDS)
def test_same_taps_and_same_loss(kind):
    students, teachers = (
        [model, mmpretrain_model(kind, heads)]
        for heads in (3, 6)
        for model in [timm_model(kind, heads)]
    )
    for ours, theirs in (students, teachers):
        theirs.load_state_dict(convert(ours.state_dict(), 'mmpretrain'))
    same_taps_and_loss(students, teachers, torch.randn(2, 3, 32, 32))


@torch.no_grad()
@pytest.mark.slow
def test_the_papers_pair(tmp_path):
    student = Config.fromfile(ROOT / 'configs/_base_/models/deit_tiny.py').student
    pair = Config.fromfile(ROOT / 'configs/_base_/models/deit_tiny_from_deit3_small.py')
    teacher = get_config(pair.model.teacher.config).model
    images = torch.randn(1, 3, 224, 224)
    pairs = []
    for name, config in (
        ('deit_tiny_patch16_224', student),
        ('deit3_small_patch16_224', teacher),
    ):
        ours = randomise(timm.create_model(name), std=0.05)
        theirs = MODELS.build(config).eval()
        theirs.load_state_dict(convert(ours.state_dict(), 'mmpretrain'))
        heads = ours.blocks[0].attn.num_heads
        save_folder(convert(theirs.state_dict(), 'huggingface'), tmp_path / name, heads=heads)
        model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / name)
        assert_close(model.eval()(images).logits, ours(images))
        pairs.append((ours, theirs))
    same_taps_and_loss(*pairs, images)


def edited(kind='vit', drop=None, **more):
    state = {n: w for n, w in timm_model(kind).state_dict().items() if n != drop}
    return {**state, **{name.replace('__', '.'): weight for name, weight in more.items()}}


@pytest.mark.parametrize(
    ('state', 'to', 'message'),
    [
        (dict(drop='blocks.1.norm2.bias'), 'mmpretrain', '1 missing (blocks.1.norm2.bias)'),
        (dict(drop='head.bias'), 'timm', '1 missing (head.bias)'),
        (dict(drop='blocks.0.attn.qkv.bias'), 'timm', '1 missing (blocks.0.attn.qkv.bias)'),
        (dict(kind='deit3', drop='blocks.1.ls2.gamma'), 'timm', '1 missing (blocks.1.ls2.gamma)'),
        (dict(kind='distilled', drop='dist_token'), 'timm', '1 missing (dist_token)'),
        (dict(fc_norm__weight=torch.ones(24)), 'timm', '1 left over (fc_norm.weight)'),
        (dict(blocks__9__q__w=torch.ones(1)), 'timm', 'blocks.9.q.w'),
        (dict(pos_embed=torch.ones(1, 19, 24)), 'timm', '8 x 8 patches and 19 position embeddings'),
        (dict(patch_embed__proj__weight=torch.ones(24, 3, 8, 4)), 'timm', '8 x 4 patches'),
    ],
)
def test_weights_that_do_not_fit_are_named(state, to, message):
    with pytest.raises(CheckpointError, match=re.escape(message)):
        convert(edited(**state), to)


def test_other_refusals():
    state = edited()
    with pytest.raises(ConfigError, match=r"to='onnx' must be one of \('timm'"):
        convert(state, 'onnx')
    with pytest.raises(CheckpointError, match=r"begin with \['fc', 'layer1'\]\): expected"):
        convert({'layer1.0.conv.weight': torch.ones(1), 'fc.weight': torch.ones(1)}, 'timm')
    with pytest.raises(ConfigError, match='class_head: the weights have no classifier of a dist'):
        convert(state, 'huggingface', class_head=True)

    scale = {f'blocks.{i}.ls{j}.gamma': torch.ones(24) for i in (0, 1) for j in (1, 2)}
    with_scale = {**state, **scale}  # and a position for the class token, as DINOv2 has
    with pytest.raises(CheckpointError, match=r"mmpretrain has no class.*'layer scale'"):
        convert(with_scale, 'mmpretrain')
    dinov2 = convert(with_scale, 'huggingface')
    same_bits(convert(dinov2, 'timm'), with_scale)
    dinov2['classifier.weight'][:, 30] = 1
    with pytest.raises(CheckpointError, match='also reads the mean of the patches'):
        convert(dinov2, 'timm')

    parts = convert(state, 'huggingface')
    del parts['vit.encoder.layer.1.attention.attention.key.weight']
    with pytest.raises(CheckpointError, match=r'1 missing \(vit.*layer\.1\..*\.key\.weight\)'):
        convert(parts, 'timm')


def test_config_says_what_shapes_cannot():
    state = timm_model('vit').state_dict()
    with pytest.raises(ConfigError, match='heads must be stated: the width 24'):
        hugging_face_config(state)
    with pytest.raises(ConfigError, match='heads=5 must be a divisor of the width 24'):
        hugging_face_config(state, heads=5)
    labels = list('abcde')
    config = hugging_face_config(state, heads=3, labels=labels)
    assert config['id2label'] == dict(enumerate(labels))
    odd = timm_model('deit3', mlp_ratio=2.5).state_dict()
    with pytest.raises(CheckpointError, match='the MLP is 60 wide: DINOv2'):
        hugging_face_config(odd, heads=3)


@torch.no_grad()
def test_no_bias_of_q_k_v(tmp_path):
    ours, images = timm_model('vit', qkv_bias=False), torch.randn(1, 3, 32, 32)
    save_folder(convert(ours.state_dict(), 'huggingface'), tmp_path, heads=3)
    model = transformers.ViTForImageClassification.from_pretrained(tmp_path).eval()
    assert_close(model(images).logits, ours(images))
    same_bits(convert(model.state_dict(), 'timm'), ours.state_dict())
