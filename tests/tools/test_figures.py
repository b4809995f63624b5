"""Figures of attention: the numbers behind them, and the files."""

import json
import subprocess
import sys

import fashion
import numpy as np
import pytest
import references
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmpretrain.registry import MODELS
from models import build_distiller, mmpretrain_classifier, timm_classifier
from PIL import Image
from tooling import ROOT, run_tool
from torch.testing import assert_close

from shd_vit.errors import CheckpointError, ConfigError
from shd_vit.lab.alphas import outside, summarise
from shd_vit.lab.figures import check_output
from shd_vit.lab.image_alphas import collect_alphas
from shd_vit.lab.images import image_batches, one_image, shown_image
from shd_vit.lab.maps import layer_maps, merged_heads
from shd_vit.lab.models import record
from shd_vit.lab.query import Query
from shd_vit.taps import AttentionTap

SHD = f'{fashion.CONFIGS}/shd.py'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return fashion.write_images(tmp_path_factory.mktemp('fashion'))


@pytest.fixture
def cfg(data, tmp_path):
    from mmengine.registry import init_default_scope

    init_default_scope('mmpretrain')
    return fashion.config('shd', tmp_path, data)


def tool(name, monkeypatch, *arguments):
    run_tool(f'analysis/{name}', monkeypatch, *arguments)


def options(data, **more):
    own = {**fashion.overrides(data), 'model.teacher.checkpoint': f'{data}/teacher.pth', **more}
    return ['--cfg-options', *(f'{key}={value}' for key, value in own.items())]


def own_qkv(model, run, heads):
    """q, k, v (B, H, N, D) of each layer of an mmpretrain ViT, by hooks of our own."""
    layers = model.backbone.layers
    kept = []
    handles = [
        layer.attn.qkv.register_forward_hook(lambda m, args, out: kept.append(out.detach()))
        for layer in layers
    ]
    run()
    for handle in handles:
        handle.remove()
    return [out.view(*out.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4).double() for out in kept]


# --- Merging weights --------------------------------------------------------------------


def test_pairs_are_named_in_the_order_of_the_passes():
    def names(heads):
        return [head.name for head in heads]

    passes, left = merged_heads(6, 3)
    assert [names(made) for made in passes] == [['1+2', '3+4', '5+6']]
    assert names(left) == ['1+2', '3+4', '5+6']

    passes, left = merged_heads(9, 3)
    assert [names(made) for made in passes] == [
        ['1+2', '3+4', '5+6', '7+8'],
        ['(1+2)+(3+4)', '(5+6)+(7+8)'],
    ]
    assert names(left) == ['(1+2)+(3+4)', '(5+6)+(7+8)', '9']

    passes, left = merged_heads(16, 6)
    assert names(passes[1]) == ['(1+2)+(3+4)', '(5+6)+(7+8)']
    assert names(left)[2:] == ['9+10', '11+12', '13+14', '15+16']
    assert left[0].heads == (1, 2, 3, 4)

    passes, left = merged_heads(3, 1)
    assert [names(made) for made in passes] == [['1+2'], ['(1+2)+3']]
    assert merged_heads(4, 4) == ([], merged_heads(4, 4)[1])


@pytest.mark.parametrize('heads, pairs', [(6, 3), (7, 4)])  # 7 -> 4 -> 3
@pytest.mark.parametrize('temperature', [1.0, 2.5])
def test_alphas_are_those_of_the_literal_loops(heads, pairs, temperature):
    own = dict(mean=[1.0, 2.0, 3.0], std=[0.5, 0.6, 0.7])  # the teacher sees other images
    teacher = mmpretrain_classifier(heads, backbone='DeiT3', data_preprocessor=own)
    distiller = build_distiller(mmpretrain_classifier(3), teacher, losses={}).eval()
    for layer in distiller.teacher.backbone.layers:
        attn, D = layer.attn, 8
        torch.nn.init.normal_(attn.qkv.weight, std=0.3)
        # Head 2 undoes half of what head 1 adds: S = X_1 / 2, so alpha of 1+2 is 2.
        values = attn.qkv.weight.data[2 * heads * D :]
        values[D : 2 * D] = values[:D]
        attn.proj.weight.data[:, D : 2 * D] = -attn.proj.weight.data[:, :D] / 2
    images = torch.randn(3, 3, 32, 32)

    alphas = collect_alphas(distiller, images.split(2), 3, temperature)
    renormalised = (images - torch.tensor(own['mean']).view(3, 1, 1)) / torch.tensor(
        own['std']
    ).view(3, 1, 1)
    layers = own_qkv(distiller.teacher, lambda: distiller.teacher(renormalised), heads)
    assert list(alphas) == [1, 2]
    for layer, (q, k, v) in enumerate(layers, 1):
        maps = references.softmax_maps(q, k, q.shape[-1] ** -0.5, temperature)
        weight = distiller.teacher.backbone.layers[layer - 1].attn.proj.weight.detach()
        _, passes = references.squeeze_heads(maps, v, weight, 3)
        expected = torch.cat(passes, dim=1).T
        assert len(alphas[layer]) == len(expected) == pairs
        for values, row in zip(alphas[layer].values(), expected, strict=True):
            assert_close(torch.tensor(values).double(), row, rtol=1e-3, atol=1e-4)
        assert_close(torch.tensor(alphas[layer]['1+2']), torch.full((3,), 2.0), rtol=1e-3, atol=0)
    assert not any(len(m._forward_hooks) for m in distiller.teacher.modules()), 'a hook was left'


def test_summary_by_hand():
    values = np.array([-0.5, 0.0, 0.25, 1.0, 1.5])
    summary = summarise(values)
    assert summary['outside'] == outside(values) == 0.4, '0 and 1 are inside'
    assert summary['mean'] == pytest.approx(0.45)
    assert summary['std'] == pytest.approx((2.55 / 4) ** 0.5)
    assert summary['median'] == 0.25
    # Linear between -0.5 and 0, and between 1 and 1.5: a fifth of a gap of four from the ends.
    assert summary['p5'] == pytest.approx(-0.4) and summary['p95'] == pytest.approx(1.4)
    assert summarise(values[:1])['std'] == 0


@pytest.mark.parametrize('heads', [0, 6, 7])
def test_nothing_to_merge_is_refused(heads):
    distiller = build_distiller(losses={})
    with pytest.raises(ConfigError, match=f'--heads {heads} leaves nothing.*has 6 heads'):
        collect_alphas(distiller, [], heads, 1.0)


# --- Images -----------------------------------------------------------------------------


class AsTheyAre(torch.nn.Module):
    def forward(self, data):
        return data


def test_training_images_come_unaugmented_and_drawn(cfg, data):
    raw = (data / 'train-images-idx3-ubyte').read_bytes()[16:]
    raw = np.frombuffer(raw, np.uint8).reshape(-1, 1, 28, 28)
    batches = list(image_batches(cfg, 'train', 100, 10, AsTheyAre()))
    assert [len(batch) for batch in batches] == [10] * 6 + [4]
    images = torch.cat(batches).numpy()
    assert sorted(i.tobytes() for i in images) == sorted(i.tobytes() for i in raw)
    assert not np.array_equal(images, raw), 'drawn, not in the order of the file'
    again = torch.cat(list(image_batches(cfg, 'train', 15, 10, AsTheyAre())))
    assert np.array_equal(again, images[:15])


def test_the_image_is_the_one_of_that_index_or_file(cfg, data, tmp_path):
    raw = (data / 't10k-images-idx3-ubyte').read_bytes()[16:]
    raw = np.frombuffer(raw, np.uint8).reshape(-1, 28, 28)
    assert np.array_equal(one_image(cfg, '7')[0], raw[7])
    Image.fromarray(raw[7]).save(tmp_path / 'image.png')
    assert np.array_equal(one_image(cfg, str(tmp_path / 'image.png'))[0], raw[7])
    Image.new('RGB', (300, 200)).save(tmp_path / 'large.png')
    assert one_image(cfg, str(tmp_path / 'large.png')).shape == (1, 28, 28)


def test_images_that_are_not_there_are_named(cfg, tmp_path):
    for index in ('20', '-1'):
        with pytest.raises(ConfigError, match=f'--image {index}: .* images 0 to 19'):
            one_image(cfg, index)
    with pytest.raises(ConfigError, match=r"'gone\.png' is neither"):
        one_image(cfg, 'gone.png')
    (tmp_path / 'text.png').write_text('no image')
    with pytest.raises(ConfigError, match='cannot be read'):
        one_image(cfg, str(tmp_path / 'text.png'))
    cfg.train_dataloader = None
    with pytest.raises(ConfigError, match='train_dataloader is missing'):
        next(image_batches(cfg, 'train', 1, 1, AsTheyAre()))


def test_shown_as_the_eye_expects():
    blue = torch.zeros(3, 2, 2, dtype=torch.uint8)
    blue[0] = 255  # mmpretrain reads BGR
    for to_rgb, channel in ((True, 2), (False, 0)):
        preprocessor = MODELS.build(dict(type='ClsDataPreprocessor', to_rgb=to_rgb))
        assert shown_image(blue, preprocessor)[0, 0].argmax() == channel
    assert shown_image(torch.full((1, 2, 3), 51), preprocessor).shape == (2, 3, 1)


# --- Maps -------------------------------------------------------------------------------


def test_maps_and_their_kl():
    distiller = build_distiller(
        mmpretrain_classifier(3), mmpretrain_classifier(7), losses=dict(shd=dict(type='SHDLoss'))
    ).eval()
    image = 3 * torch.randn(1, 3, 32, 32)
    for model in (distiller.student, distiller.teacher):
        for layer in model.backbone.layers:
            torch.nn.init.normal_(layer.attn.qkv.weight, std=0.3)
    student, teacher = (output.attention[2] for output in record(distiller, image))
    maps = layer_maps((2, 2), teacher, {'it': student}, 3, temperature=1.5)

    own = {}
    for name, model, heads in (('s', distiller.student, 3), ('t', distiller.teacher, 7)):
        q, k, v = own_qkv(model, lambda model=model: model(image), heads)[1]
        own[name] = (q @ k.mT * q.shape[-1] ** -0.5 / 1.5).softmax(-1), v
    weight = distiller.teacher.backbone.layers[1].attn.proj.weight.detach()
    squeezed, passes = references.squeeze_heads(*own['t'], weight, 3)
    close = dict(rtol=1e-3, atol=1e-5)
    assert_close(maps.teacher.double(), own['t'][0][0], **close)
    assert_close(maps.squeezed.double(), squeezed[0], **close)
    assert_close(maps.students['it'].double(), own['s'][0][0], **close)
    # Three of the first pass and one of the second: (1+2)+(3+4), 5+6, 7.
    first, second = passes
    assert [head.name for head in maps.merged] == ['(1+2)+(3+4)', '5+6', '7']
    raws = [[raw for _, raw in alphas] for alphas in maps.alphas]
    assert_close(torch.tensor(raws[0]).double(), torch.cat([first[0, :2], second[0]]), **close)
    assert_close(torch.tensor(raws[1]).double(), first[0, 2:], **close)
    assert raws[2] == []
    assert all(used == min(max(raw, 0), 1) for alphas in maps.alphas for used, raw in alphas)
    for head in range(3):
        expected = F.kl_div(own['s'][0][0, head].log(), squeezed[0, head], reduction='batchmean')
        assert_close(maps.kl['it'][head].double(), expected, rtol=1e-3, atol=1e-5)


def test_keys_without_weight_cost_nothing():
    q = torch.randn(1, 2, 5, 4)
    bias = torch.zeros(5, 5)
    bias[:, 4] = float('-inf')
    tap = AttentionTap(q, q, q, torch.eye(8), 0.5, bias)
    maps = layer_maps((1, 1), tap, {'same': tap}, 2, 1.0)
    assert_close(maps.kl['same'], torch.zeros(2))


def test_layers_that_cannot_be_compared_are_named():
    def tap(images, tokens):
        q = torch.randn(images, 2, tokens, 4)
        return AttentionTap(q, q, q, torch.eye(8), 0.5)

    with pytest.raises(ConfigError, match='student layer 3 sees 9 tokens, teacher layer 4 sees 5'):
        layer_maps((3, 4), tap(1, 5), {'s': tap(1, 9)}, 2, 1.0)
    with pytest.raises(ConfigError, match='layer 4 of the teacher attends within 6 windows'):
        layer_maps((3, 4), tap(6, 5), {}, 2, 1.0)
    with pytest.raises(ConfigError, match='layer 3 of the student attends within 6 windows'):
        layer_maps((3, 4), tap(1, 5), {'s': tap(6, 5)}, 2, 1.0)


@pytest.mark.parametrize('prefix', [(), ('cls',), ('dist', 'cls')])
def test_heat_is_what_the_query_gives_to_each_patch(prefix):
    side, num_prefix = 3, len(prefix)
    maps = torch.rand(2, num_prefix + side**2, num_prefix + side**2)
    patch, mean = (Query.parse(q).heat(maps, prefix) for q in ('2,3', 'mean'))
    for head in range(2):
        for row in range(side):
            for column in range(side):
                key = num_prefix + side * row + column
                assert patch[head, row, column] == maps[head, num_prefix + 5, key]
                expected = sum(maps[head, q, key] for q in range(num_prefix, maps.shape[1])) / 9
                assert_close(mean[head, row, column], expected)
                if prefix:
                    cls = Query.parse('cls').heat(maps, prefix)
                    assert cls[head, row, column] == maps[head, prefix.index('cls'), key]


def test_queries_that_cannot_be_shown_are_refused():
    for text in ('dog', '1', '1,2,3', '1,', '-1,2'):
        with pytest.raises(ConfigError, match=f"--query '{text}'"):
            Query.parse(text)
    for query in (Query.parse('4,1'), Query.parse('cls'), Query.parse('mean')):
        query.check(['cls'], 17)
        with pytest.raises(ConfigError, match='the 8 patches are no square grid'):
            query.check(['cls'], 9)
    for text in ('5,1', '1,5', '0,1'):
        with pytest.raises(ConfigError, match=f'--query {text}: rows and columns are 1 to 4'):
            Query.parse(text).check(['cls'], 17)
    Query.parse('mean').check([], 16)
    with pytest.raises(ConfigError, match='no class token is compared'):
        Query.parse('cls').check([], 16)


# --- The tools --------------------------------------------------------------------------


def test_alpha_distribution_writes_what_it_counted(data, tmp_path, monkeypatch, capsys):
    figure, numbers = tmp_path / 'alpha.png', tmp_path / 'alpha.json'
    tool(
        'alpha_distribution', monkeypatch, SHD, data / 'teacher.pth', '--images', 30, '--batch', 8,
        '--out', figure, '--json', numbers, *options(data, **{'model.teacher.checkpoint': 'gone'}),
    )  # fmt: skip
    results = json.loads(numbers.read_text())
    assert (results['heads'], results['temperature'], results['split']) == (3, 1.0, 'train')
    assert results['checkpoint'] == str(data / 'teacher.pth')
    rows = results['pairs']
    assert [(r['layer'], r['pair'], r['images']) for r in rows] == [
        (layer, pair, 30) for layer in (1, 2, 3, 4) for pair in ('1+2', '3+4', '5+6')
    ]
    assert results['outside'] == pytest.approx(np.mean([r['outside'] for r in rows]))
    output = capsys.readouterr().out
    for row in rows:
        assert f'{row["mean"]:.3f}' in output and f'{row["p95"]:.3f}' in output
    width, height = Image.open(figure).size
    assert 500 < width < 2500 and 500 < height < 2500
    assert len(np.unique(np.asarray(Image.open(figure).convert('L')))) > 20, 'not an empty page'


def test_several_passes_in_one_figure(data, tmp_path, monkeypatch):
    tool(
        'alpha_distribution', monkeypatch, SHD, '--images', 1, '--heads', 2, '--temperature', 2,
        '--split', 'test', '--out', tmp_path / 'alpha.svg', '--json', tmp_path / 'a.json',
        *options(data),
    )  # fmt: skip
    svg = (tmp_path / 'alpha.svg').read_text()
    for text in ('(1+2)+(3+4)', '5+6', 'layer 4', '</svg>'):
        assert text in svg
    assert json.loads((tmp_path / 'a.json').read_text())['temperature'] == 2


def student_file(path, seed, prefix=''):
    torch.manual_seed(seed)
    student = MODELS.build(Config.fromfile(SHD).model.student)
    torch.save(dict(state_dict={f'{prefix}{k}': v for k, v in student.state_dict().items()}), path)
    return path


def test_attention_maps_of_every_layer(data, tmp_path, monkeypatch, capsys):
    alone = student_file(tmp_path / 'alone.pth', 1)
    distilled = student_file(tmp_path / 'distilled.pth', 1, 'student.')
    tool(
        'attention_maps', monkeypatch, SHD, 'before=init', f'alone={alone}', f'after={distilled}',
        'again=init', '--image', 3, '--layer', 'all', '--query', '2,3',
        '--out', tmp_path / 'maps.svg', *options(data),
    )  # fmt: skip
    for layer in (1, 2, 3, 4):
        svg = (tmp_path / f'maps_layer{layer}.svg').read_text()
        # matplotlib makes one image of the photo and the heat above it.
        assert svg.count('<image') == 1 + 6 + 3 + 4 * 3 + 6, 'image, heads, colour bars'
        for text in ('teacher', 'squeezed to 3', 'before', 'after', 'KL', 'patch 2,3'):
            assert text in svg, text
    table = capsys.readouterr().out.splitlines()
    rows = [line.split('│')[1:-1] for line in table if '5+6' in line]
    assert len(rows) == 4
    for *_, before, one, other, again in rows:
        assert one == other != before == again, 'the order of students does not matter'


@pytest.mark.parametrize('arguments', [[], ['--query', 'none'], ['--query', 'mean', '--layer', 2]])
def test_a_figure_without_students(arguments, data, tmp_path, monkeypatch):
    out = tmp_path / 'maps.png'
    tool('attention_maps', monkeypatch, SHD, '--out', out, *arguments, *options(data))
    width, height = Image.open(out).size
    assert 800 < width < 2500 and 400 < height < 2500


def test_colour_images_and_timm_models(data, tmp_path, monkeypatch, capsys):
    pipeline = "[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(32, 32)), "
    (tmp_path / 'timm.py').write_text(
        f'student = {timm_classifier(2)!r}\n'
        f'teacher = dict({timm_classifier(5, depth=3)!r}, checkpoint=None)\n'
        "model = dict(type='ViTDistiller', student=student, teacher=teacher, losses=dict())\n"
        'data_preprocessor = dict(mean=[120.0] * 3, std=[60.0] * 3, to_rgb=True)\n'
        f"test_dataloader = dict(dataset=dict(pipeline={pipeline}dict(type='PackInputs')]))\n"
    )
    photo = np.random.default_rng(0).integers(0, 255, (50, 40, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / 'photo.png')
    tool(
        'attention_maps', monkeypatch, tmp_path / 'timm.py', 'student=init', '--image',
        tmp_path / 'photo.png', '--layer', 'all', '--matrix', '--out', tmp_path / 'maps.png',
    )  # fmt: skip
    assert '(1+2)+(3+4)' in capsys.readouterr().out  # 5 -> 3 -> 2
    for name in ('maps_layer1_teacher2', 'maps_layer2_teacher3'):
        assert (tmp_path / f'{name}.png').stat().st_size > 10_000


def test_tokens_that_the_loss_leaves_out_are_left_out(tmp_path, monkeypatch, capsys):
    """A distilled student, whose second token its teacher does not have."""
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / '0.png')
    student = timm_classifier(3, model_name='deit_tiny_distilled_patch16_224')
    teacher = dict(timm_classifier(6), checkpoint=f'{tmp_path}/teacher.pth')
    torch.save(dict(state_dict=MODELS.build(timm_classifier(6)).state_dict()),
               tmp_path / 'teacher.pth')  # fmt: skip
    test = (
        "dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False), "
        f"dataset=dict(type='CustomDataset', data_prefix='{tmp_path}', with_label=False, "
        "pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]))"
    )

    def config(tokens):
        file = tmp_path / f'{tokens}.py'
        file.write_text(
            f'student = {student!r}\nteacher = {teacher!r}\n'
            "model = dict(type='ViTDistiller', student=student, teacher=teacher,\n"
            f"    losses=dict(shd=dict(type='SHDLoss', tokens='{tokens}')))\n"
            'data_preprocessor = dict(mean=[120.0] * 3, std=[60.0] * 3, to_rgb=True)\n'
            f'test_dataloader = {test}\ntrain_dataloader = test_dataloader\n'
        )
        return file

    tables = {}
    for tokens in ('shared', 'patches'):
        maps, numbers = tmp_path / f'{tokens}.svg', tmp_path / f'{tokens}.json'
        tool('attention_maps', monkeypatch, config(tokens), 's=init', '--query', 'mean',
             '--matrix', '--out', maps)  # fmt: skip
        shown = [line for line in capsys.readouterr().out.splitlines() if '+' in line]
        tool('alpha_distribution', monkeypatch, config(tokens), '--images', 1, '--split', 'test',
             '--out', tmp_path / 'alpha.svg', '--json', numbers)  # fmt: skip
        capsys.readouterr()
        pairs = [pair for pair in json.loads(numbers.read_text())['pairs'] if pair['layer'] == 2]
        assert len(shown) == len(pairs) == 3
        for line, pair in zip(shown, pairs, strict=True):
            assert f'{pair["mean"]:.2f}' in line, 'alpha of the figure and of the distribution'
        tables[tokens] = shown
    assert tables['shared'] != tables['patches']
    with pytest.raises(ConfigError, match='no class token is compared'):
        tool('attention_maps', monkeypatch, config('patches'), 's=init', '--out', maps)


@pytest.mark.parametrize(
    'name, arguments, error, message',
    [
        ('alpha_distribution', ['--images', '0'], ConfigError, '--images 0 must be at least 1'),
        ('alpha_distribution', ['--temperature', '0'], ConfigError, '--temperature 0.0 must be'),
        ('alpha_distribution', ['--heads', '6'], ConfigError, '--heads 6 leaves nothing to merge'),
        ('alpha_distribution', ['gone.pth'], CheckpointError, "'gone.pth' does not exist"),
        ('alpha_distribution', ['--out', 'a.gif'], ConfigError, "'a.gif' must end in one of .png"),
        ('attention_maps', ['--layer', '5'], ConfigError, '--layer 5: .* student layers 1, 2,'),
        ('attention_maps', ['--layer', 'first'], ConfigError, '--layer first'),
        ('attention_maps', ['--image', '20'], ConfigError, 'images 0 to 19'),
        ('attention_maps', ['--query', '5,1'], ConfigError, '--query 5,1: rows and columns'),
        ('attention_maps', ['--query', 'dog'], ConfigError, "--query 'dog'"),
        ('attention_maps', ['a=gone.pth'], CheckpointError, "'gone.pth' does not exist"),
        ('attention_maps', ['gone.pth'], ConfigError, "'gone.pth': expected NAME=FILE"),
        ('attention_maps', ['a=init', 'a=init'], ConfigError, "a student named 'a' already"),
        ('attention_maps', ['--teacher', 'gone.pth'], CheckpointError, "'gone.pth'"),
    ],
)  # fmt: skip
def test_mistakes_are_named(name, arguments, error, message, data, tmp_path, monkeypatch):
    if '--out' not in arguments:
        arguments = [*arguments, '--out', tmp_path / 'figure.png']
    with pytest.raises(error, match=message):
        tool(name, monkeypatch, SHD, *arguments, *options(data))
    assert not (tmp_path / 'figure.png').exists()


BASELINE = f'{fashion.CONFIGS}/baseline.py'


def test_a_config_without_teacher_is_named(monkeypatch):
    with pytest.raises(ConfigError, match="type='ImageClassifier' has no teacher"):
        tool('alpha_distribution', monkeypatch, BASELINE)


def test_mistakes_end_in_one_line():
    done = subprocess.run(
        [sys.executable, 'tools/analysis/attention_maps.py', BASELINE],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert "model.type='ImageClassifier' has no teacher" in done.stderr.strip().splitlines()[-1]


def test_folders_of_figures_must_be_there(tmp_path):
    assert check_output(f'{tmp_path}/a.PNG')
    with pytest.raises(ConfigError, match='there is no folder'):
        check_output(f'{tmp_path}/gone/a.png')


def test_layers_and_temperature_are_those_of_the_configs_loss(data, tmp_path, monkeypatch, capsys):
    def alphas(*arguments, **changes):
        out = tmp_path / 'maps.svg'
        tool(
            'attention_maps', monkeypatch, SHD, '--out', out, *arguments,
            *options(data, **{f'model.losses.shd.{key}': value for key, value in changes.items()}),
        )  # fmt: skip
        assert f'temperature {changes.get("temperature", 1)}' in out.read_text()
        return [line for line in capsys.readouterr().out.splitlines() if '+' in line]

    third = alphas('--layer', '3')
    assert alphas(layers='[(1,2),(2,3)]') == third, 'the last of the pairs'
    assert alphas(layers='[(1,2),(2,3)]', temperature=0.05) != third
