"""The tools as a user starts them: other processes, real configs, few images."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import fashion
import numpy as np
import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmpretrain.registry import MODELS
from PIL import Image
from torch.testing import assert_close

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return fashion.write_images(tmp_path_factory.mktemp('fashion'))


def start(*command, **env):
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **env},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def run(*command, fails=False, **env):
    """Output of a command that is to succeed, or is to fail without a traceback."""
    process = start(*command, **env)
    output = process.communicate(timeout=900)[0]
    assert (process.returncode != 0) == fails, output[-3000:]
    if fails:
        assert 'Traceback' not in output
    return output


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


def options(data, **kwargs):
    own = {'model.teacher.checkpoint': f'{data}/teacher.pth'} if kwargs.pop('teacher', True) else {}
    own.update(fashion.overrides(data, **kwargs))
    return ['--cfg-options', *(f'{key}={value}' for key, value in own.items())]


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory):
    """Work dir of configs/fashion_mnist/shd.py, four epochs through tools/train.py."""
    work = tmp_path_factory.mktemp('work')
    output = run(
        sys.executable, 'tools/train.py', f'{fashion.CONFIGS}/shd.py', '--work-dir', work,
        *options(data, epochs=4),
    )  # fmt: skip
    return work, output


def test_a_killed_run_resumed_ends_like_one_that_was_not_killed(data, tmp_path):
    def command(work, *more):
        changes = options(data, epochs=3, workers=1)
        config = f'{fashion.CONFIGS}/shd.py'
        return sys.executable, 'tools/train.py', config, '--work-dir', work, *more, *changes

    process = start(*command(tmp_path / 'killed'))
    for line in process.stdout:
        if 'Epoch(train) [2][2/4]' in line or 'Epoch(train) [2][  2/4]' in line:
            process.kill()
            break
    process.wait()
    process.stdout.close()
    assert process.returncode == -9, 'killed in the middle of the second epoch'
    assert not (tmp_path / 'killed/epoch_3.pth').exists()
    output = run(*command(tmp_path / 'killed', '--resume'))
    assert 'resumed epoch: 1, iter: 4' in output
    run(*command(tmp_path / 'whole'))
    killed, whole = (
        torch.load(tmp_path / name / 'epoch_3.pth')['state_dict'] for name in ('killed', 'whole')
    )
    assert all(torch.equal(killed[name], weight) for name, weight in whole.items())


def accuracy(config, checkpoint, out, data, *arguments):
    run(
        sys.executable, 'tools/test.py', config, checkpoint, '--out', out,
        '--work-dir', out.parent, *arguments, *options(data, teacher=False),
    )  # fmt: skip
    return json.loads(out.read_text())


def test_training_opens_with_the_table_and_logs_every_loss(trained):
    work, output = trained
    for part in ('Distillation', 'ImageClassifier(DeiT3)', 'loss_shd', '4<-4', 'weight=1.0'):
        assert part in output
    line = next(line for line in output.splitlines() if 'Epoch(train)' in line)
    for name in ('loss', 'loss_cls', 'loss_vitkd', 'loss_nkd', 'loss_shd', 'eta'):
        assert re.search(rf'\b{name}: ', line), line
    assert (work / 'epoch_4.pth').exists()
    assert (work / 'last_checkpoint').read_text() == str(work / 'epoch_4.pth')


def test_losses_fall(trained):
    history = torch.load(trained[0] / 'epoch_4.pth')['message_hub']['log_scalars']
    for name in ('loss_nkd', 'loss_vitkd', 'loss_shd'):  # the teacher knows nothing of classes
        values = history[f'train/{name}']['log_history']
        assert values[-1] < values[0], name


def test_a_distiller_checkpoint_and_its_exported_student_score_alike(trained, data, tmp_path):
    work, config = trained[0], f'{fashion.CONFIGS}/shd.py'
    exported = tmp_path / 'out/student.pth'
    output = run(sys.executable, 'tools/export_student.py', work / 'epoch_4.pth', exported)
    student = MODELS.build(Config.fromfile(config).model.student)
    count = sum(p.numel() for p in student.parameters())
    assert f'{count:,} parameters' in output

    distilled, alone, plain = (
        accuracy(cfg, checkpoint, tmp_path / f'{name}.json', data)
        for name, cfg, checkpoint in (
            ('distilled', config, work / 'epoch_4.pth'),
            ('alone', config, exported),
            ('plain', f'{fashion.CONFIGS}/baseline.py', exported),
        )
    )
    assert distilled == alone == plain
    assert distilled['parameters'] == count
    assert distilled['accuracy/top5'] >= distilled['accuracy/top1']

    content = torch.load(exported)
    assert content.keys() == {'state_dict', 'meta'}
    assert 'shd_vit' not in str(content['meta']) and 'Distiller' not in str(content['meta'])
    student.load_state_dict(content['state_dict'])


def test_test_needs_no_teacher(trained, data, tmp_path):
    """Neither its config nor its checkpoint: only the student is built."""
    run(
        sys.executable, 'tools/test.py', f'{fashion.CONFIGS}/shd.py', trained[0] / 'epoch_4.pth',
        '--work-dir', tmp_path, *options(data), 'model.teacher.config=gone.py',
    )  # fmt: skip


def test_predictions_can_be_kept(trained, data, tmp_path):
    import pickle

    out = tmp_path / 'predictions.pkl'
    run(
        sys.executable, 'tools/test.py', f'{fashion.CONFIGS}/shd.py', trained[0] / 'epoch_4.pth',
        '--work-dir', tmp_path, '--out', out, '--out-item', 'pred', *options(data),
    )  # fmt: skip
    assert len(pickle.loads(out.read_bytes())) == fashion.TEST


def test_exported_timm_student_loads_in_timm(tmp_path):
    from models import build_distiller, timm_classifier

    distiller = build_distiller(timm_classifier(3))
    torch.save(dict(state_dict=distiller.state_dict(), meta={}), tmp_path / 'epoch_1.pth')
    run(sys.executable, 'tools/export_student.py', tmp_path / 'epoch_1.pth', tmp_path / 's.pth')
    arch = {k: v for k, v in timm_classifier(3).items() if k not in ('type', 'model_name')}
    model = timm.create_model(
        'vit_tiny_patch16_224', checkpoint_path=str(tmp_path / 's.pth'), **arch
    ).eval()
    distiller.eval()
    images = torch.randn(2, 3, 32, 32)
    assert_close(model(images), distiller(images))


def test_two_processes_train_and_count_every_test_image_once(data, tmp_path):
    output = run(
        'bash', 'tools/dist_train.sh', f'{fashion.CONFIGS}/shd.py', '2', '--work-dir', tmp_path,
        *options(data, batch_size=8), PORT=free_port(),
    )  # fmt: skip
    assert '[1][4/4]' in output  # 64 images, 2 processes x 8 a step
    checkpoint = tmp_path / 'epoch_2.pth'
    single = accuracy(f'{fashion.CONFIGS}/shd.py', checkpoint, tmp_path / 'one.json', data)
    run(
        'bash', 'tools/dist_test.sh', f'{fashion.CONFIGS}/shd.py', checkpoint, '2',
        '--work-dir', tmp_path, '--out', tmp_path / 'two.json', *options(data), PORT=free_port(),
    )  # fmt: skip
    double = json.loads((tmp_path / 'two.json').read_text())
    assert single == double


def test_two_nodes_as_two_launches(data, tmp_path):
    port = free_port()
    launches = [
        start(
            'bash', 'tools/dist_train.sh', f'{fashion.CONFIGS}/baseline.py', '1',
            '--work-dir', tmp_path, *options(data, batch_size=8, epochs=1, teacher=False),
            NNODES='2', NODE_RANK=str(rank), MASTER_ADDR='127.0.0.1', PORT=port,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [launch.communicate(timeout=900)[0] for launch in launches]
    assert [launch.returncode for launch in launches] == [0, 0], outputs[0][-3000:]
    assert '[1][4/4]' in outputs[0]
    assert (tmp_path / 'epoch_1.pth').exists()


FAKE_SRUN = """#!/usr/bin/env bash
# Stands for srun: starts --ntasks processes with Slurm's variables.
while [ "${1#-}" != "$1" ]; do
    [ "$1" = --ntasks ] && tasks=$2
    case $1 in --kill*) shift ;; *) shift 2 ;; esac
done
for rank in $(seq 0 $((tasks - 1))); do
    SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_NTASKS=$tasks SLURM_NODELIST='node[1-2]' "$@" &
done
wait -n && wait -n
"""


def test_slurm_scripts_start_what_they_say(trained, data, tmp_path):
    (tmp_path / 'srun').write_text(FAKE_SRUN)
    (tmp_path / 'scontrol').write_text('#!/usr/bin/env bash\necho localhost\necho elsewhere\n')
    for name in ('srun', 'scontrol'):
        (tmp_path / name).chmod(0o755)
    slurm = dict(GPUS='2', PATH=f'{tmp_path}:{os.environ["PATH"]}', MASTER_PORT=free_port())
    output = run(
        'bash', 'tools/slurm_train.sh', 'gpu', 'job', f'{fashion.CONFIGS}/baseline.py',
        tmp_path / 'work', *options(data, batch_size=8, epochs=1, teacher=False), **slurm,
    )  # fmt: skip
    assert '[1][4/4]' in output
    output = run(
        'bash', 'tools/slurm_test.sh', 'gpu', 'job', f'{fashion.CONFIGS}/baseline.py',
        tmp_path / 'work/epoch_1.pth', '--work-dir', tmp_path / 'test',
        *options(data, teacher=False), **slurm,
    )  # fmt: skip
    assert 'accuracy/top1' in output


@pytest.mark.parametrize(
    'command, message',
    [
        (['tools/train.py', 'no/such.py'], r"ConfigError: config 'no/such.py' does not exist"),
        (
            ['tools/train.py', f'{fashion.CONFIGS}/shd.py', '--cfg-options',
             'model.losses.shd.temperature=0'],
            'ConfigError: SHDLoss.temperature=0 must be a finite number, above 0',
        ),
        (
            ['tools/train.py', f'{fashion.CONFIGS}/baseline.py', '--amp', 'float16'],
            'ConfigError: --amp float16 needs a GPU',
        ),
        (['tools/test.py', f'{fashion.CONFIGS}/baseline.py', 'gone.pth', '--cfg-options',
          'test_dataloader.dataset.data_root=gone'], "ConfigError: dataset.data_root='gone'"),
        (['tools/export_student.py', 'gone.pth', 'x'], "CheckpointError: checkpoint 'gone.pth'"),
        (
            ['tools/benchmark_loader.py', 'fast'],
            "ConfigError: no part 'fast': allowed are speed, start",
        ),
        (['tools/benchmark.py', 'speed'], "ConfigError: no part 'speed': allowed are step, memory"),
        (['tools/benchmark.py', 'memory', '--plot', 'b.svg'], '--plot draws growth and'),
        (['tools/compare.py', 'a=gone.json'], "ConfigError: 'a=gone.json': expected NAME=FILE"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line(command, message, tmp_path):
    work = [] if 'tools/t' not in command[0] else ['--work-dir', tmp_path]
    output = run(sys.executable, *command[:2], *work, *command[2:], fails=True)
    assert re.search(message, output.strip().splitlines()[-1]), output[-2000:]


def test_a_missing_teacher_ends_in_one_line_before_training(data, tmp_path):
    output = run(
        sys.executable, 'tools/train.py', f'{fashion.CONFIGS}/shd.py', '--work-dir', tmp_path,
        *options(data), 'model.teacher.checkpoint=gone.pth', fails=True,
    )  # fmt: skip
    assert (
        output.strip().splitlines()[-1] == "CheckpointError: checkpoint 'gone.pth' does not exist"
    )
    assert 'Epoch(train)' not in output


@pytest.mark.parametrize('script', ['dist_train', 'dist_test', 'slurm_train', 'slurm_test'])
def test_scripts_without_arguments_show_their_usage(script):
    assert f'tools/{script}.sh ' in run('bash', f'tools/{script}.sh', fails=True)


def test_benchmark_measures_agreeing_variants_and_draws(tmp_path):
    files = [tmp_path / name for name in ('b.json', 'b.svg', 'b.md')]
    flags = [
        x for pair in zip(('--json', '--plot', '--markdown'), files, strict=True) for x in pair
    ]
    run(sys.executable, 'tools/benchmark.py', 'step', '--batch', '1', '--rounds', '1', *flags)
    results = json.loads(files[0].read_text())
    assert results['environment']['torch'] == torch.__version__
    for name in ('+ SHD, plain torch', '+ SHD'):
        assert results['step'][name]['loss_difference'] < 1e-5
        assert results['step'][name]['gradient_difference'] < 1e-5
        assert results['step'][name]['seconds'] > 0
        assert f'| {name} |' in files[2].read_text()
    assert '</svg>' in files[1].read_text()


def test_loader_benchmark_gives_all_loaders_the_same_images_and_draws(tmp_path):
    pytest.importorskip('ffcv', reason='FFCV is an optional extra')
    files = [tmp_path / name for name in ('b.json', 'b.svg', 'b.md')]
    flags = [
        x for pair in zip(('--json', '--plot', '--markdown'), files, strict=True) for x in pair
    ]
    run(
        sys.executable, 'tools/benchmark_loader.py', 'speed', '--images', '20', '--batch', '8',
        '--rounds', '1', '--workers', '1', *flags,
    )  # fmt: skip
    results = json.loads(files[0].read_text())
    assert results['environment']['images'].startswith('20, ')
    rates = {name: row['images_per_second'] for name, row in results['speed'].items()}
    assert len(rates) == 7 and all(rate > 0 for rate in rates.values())
    assert results['speed']['turbojpeg decoding alone']['of_ceiling'] == 1
    for name in rates:
        assert f'| {name} |' in files[2].read_text()
    assert '</svg>' in files[1].read_text()


def test_compare_prints_a_row_a_file(tmp_path):
    for name, top1 in (('teacher', 90.125), ('student', 80.0)):
        metrics = {'accuracy/top1': top1, 'accuracy/top5': 99.0, 'parameters': 1234567}
        (tmp_path / f'{name}.json').write_text(json.dumps(metrics))
    output = run(
        sys.executable, 'tools/compare.py', f'big one={tmp_path}/teacher.json',
        f'small={tmp_path}/student.json',
    )  # fmt: skip
    assert re.search(r'big one .*90\.1[23] .*99\.00 .*1,234,567', output)
    assert re.search(r'small .*80\.00', output)


@pytest.mark.parametrize('config', ['deit_tiny_shd', 'deit_tiny_shd_folder'])
def test_the_papers_config_trains_and_tests(config, tmp_path):
    """As it stands, but for sizes: made JPEGs, and DeiT3-Small from a local checkpoint."""
    image = np.random.default_rng(0).integers(0, 255, (80, 100, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / 'image.jpg')
    imagenet = tmp_path / 'imagenet'
    for split in ('train', 'val'):
        for number in range(1000):
            folder = imagenet / split / f'n{number:08}'
            folder.mkdir(parents=True)
            (folder / '0.JPEG').symlink_to(tmp_path / 'image.jpg')
    teacher = MODELS.build(get_config('mmpretrain::deit3/deit3-small-p16_64xb64_in1k.py').model)
    torch.save(dict(state_dict=teacher.state_dict()), tmp_path / 'deit3.pth')
    sizes = {
        'model.teacher.checkpoint': tmp_path / 'deit3.pth',
        'train_dataloader.batch_size': 4,
        'train_dataloader.num_workers': 1,
        'auto_scale_lr.base_batch_size': 4,
        'train_cfg.max_epochs': 1,
        'param_scheduler.1.begin': 0,
        'default_hooks.logger.interval': 1,
    }
    for split in ('val', 'test') if config == 'deit_tiny_shd' else ('train', 'val', 'test'):
        sizes[f'{split}_dataloader.dataset.data_root'] = imagenet
        sizes[f'{split}_dataloader.dataset.indices'] = 8
    for split in ('val', 'test'):
        sizes[f'{split}_dataloader.batch_size'] = 4
        sizes[f'{split}_dataloader.num_workers'] = 1
    if config == 'deit_tiny_shd':
        pytest.importorskip('ffcv', reason='FFCV is an optional extra')
        sizes['train_dataloader.beton'] = imagenet / 'train.beton'
        run(
            sys.executable, 'tools/data/write_ffcv.py', imagenet / 'train.beton',
            '--imagenet-folder', imagenet / 'train', '--limit', '8',
        )  # fmt: skip
    changes = ['--cfg-options', *(f'{key}={value}' for key, value in sizes.items())]
    output = run(
        sys.executable, 'tools/train.py', f'configs/{config}.py',
        '--work-dir', tmp_path / 'work', *changes,
    )  # fmt: skip
    assert '[1][2/2]' in output
    assert '12<-12' in output
    assert re.search(r'5,717,\d+ .* 12 .* 3', output), 'DeiT-Tiny: 5.7 M, 12 layers, 3 heads'
    output = run(
        sys.executable, 'tools/test.py', f'configs/{config}.py',
        tmp_path / 'work/epoch_1.pth', '--work-dir', tmp_path / 'work', *changes,
    )  # fmt: skip
    assert 'accuracy/top5' in output
