"""What a run takes from the checkpoint that it is resumed from, and which files it removes."""

import os

import fashion
import pytest
import torch

from shd_vit.errors import CheckpointError


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return fashion.write_images(tmp_path_factory.mktemp('fashion'))


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory):
    """Work dir of a run of two epochs, which kept both checkpoints and the best."""
    folder = tmp_path_factory.mktemp('trained')
    run(data, folder, epochs=2).train()
    return folder


@pytest.fixture
def work(trained, tmp_path):
    """A copy of it under a name of its own."""
    for path in trained.glob('*.pth'):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / 'last_checkpoint').write_text(f'{tmp_path}/epoch_2.pth')
    return tmp_path


def run(data, folder, epochs=3, **options):
    keep = {'default_hooks.checkpoint.max_keep_ckpts': options.pop('keep', -1)}
    return fashion.runner('baseline', folder, data, {**keep, **options}, epochs=epochs)


def change(path, **parts):
    """Rewrite a checkpoint: meta, and the runtime_info of its message_hub."""
    checkpoint = torch.load(path, weights_only=True)
    checkpoint['meta'].update(parts.pop('meta', {}))
    checkpoint['message_hub']['runtime_info'].update(parts)
    torch.save(checkpoint, path)


def test_a_configs_text_stays_text(data, work):
    code = f'import os\nos.mkdir({f"{work}/exploded"!r})\n'
    change(work / 'epoch_2.pth', meta=dict(config=code, cfg=code))
    resumed = run(data, work, resume=True)
    resumed.train()
    assert resumed.epoch == 3
    assert not (work / 'exploded').exists()


@pytest.mark.parametrize('kind', ['file', 'folder', 'of another name', 'link'])
def test_files_of_others_are_not_removed(kind, data, work, tmp_path_factory):
    outside = tmp_path_factory.mktemp('outside') / 'best_accuracy_top1_epoch_1.pth'
    named = outside
    if kind == 'file':
        outside.write_text('precious')
    elif kind == 'folder':
        outside.mkdir()
    elif kind == 'of another name':
        named = outside = work / 'notes.pth'
        outside.write_text('precious')
    else:  # through a link in the work dir
        outside.write_text('precious')
        (work / 'link').symlink_to(outside.parent)
        named = work / 'link' / outside.name
    change(work / 'epoch_2.pth', best_ckpt=str(named), best_score=-1.0)
    resumed = run(data, work, resume=True)
    resumed.train()
    assert outside.exists()
    assert f"best_ckpt='{named}' of the resumed checkpoint is ignored" in log(work)
    assert resumed.message_hub.get_info('best_ckpt') == f'{work}/best_accuracy_top1_epoch_3.pth'


def test_its_own_former_best_is_removed(data, work):
    own = work / 'best_accuracy_top1_epoch_1.pth'
    own.write_text('the former best')
    change(work / 'epoch_2.pth', best_ckpt=str(own), best_score=-1.0)
    run(data, work, resume=True).train()
    assert not own.exists() and (work / 'best_accuracy_top1_epoch_3.pth').exists()
    assert 'is ignored' not in log(work)


def test_numbers_of_old_checkpoints_are_numbers(data, work, tmp_path_factory):
    outside = tmp_path_factory.mktemp('outside') / 'x.pth'
    outside.write_text('precious')
    name = str(outside.with_suffix(''))
    change(work / 'epoch_2.pth', keep_ckpt_ids=[name, name], best_score='high')
    options = {'default_hooks.checkpoint.filename_tmpl': '{}.pth', 'keep': 1, 'resume': True}
    run(data, work, **options).train()
    assert outside.exists()
    assert 'keep_ckpt_ids=' in log(work) and "best_score='high'" in log(work)


@pytest.mark.parametrize('content', ['', 'nowhere/epoch_9.pth', '\0', 'epoch'])
def test_a_damaged_pointer_falls_back_to_the_newest_checkpoint(content, data, work):
    (work / 'last_checkpoint').write_text(content)
    resumed = run(data, work, resume=True)
    resumed.load_or_resume()
    assert resumed.epoch == 2
    assert f'going on from {work}/epoch_2.pth' in log(work)


def test_a_damaged_checkpoint_falls_back_to_the_newest_whole_one(data, work):
    whole = (work / 'epoch_2.pth').read_bytes()
    (work / 'epoch_2.pth').write_bytes(whole[: len(whole) // 2])
    resumed = run(data, work, resume=True)
    resumed.load_or_resume()
    assert resumed.epoch == 1


def test_nothing_to_resume_begins_anew(data, tmp_path):
    (tmp_path / 'last_checkpoint').touch()
    resumed = run(data, tmp_path, epochs=1, resume=True)
    resumed.train()
    assert resumed.epoch == 1 and (tmp_path / 'epoch_1.pth').exists()


def test_the_pointer_is_written_whole_or_not_at_all(data, work, monkeypatch):
    """A kill at the moment at which it would be half written: what is there is the old one."""
    before = (work / 'last_checkpoint').read_text()
    replace = os.replace

    def killed(source, target):
        if str(target).endswith('last_checkpoint'):
            assert open(source).read().endswith('epoch_3.pth')  # noqa: SIM115
            raise fashion.Interrupted
        replace(source, target)

    monkeypatch.setattr(os, 'replace', killed)
    with pytest.raises(fashion.Interrupted):
        run(data, work, resume=True).train()
    assert (work / 'last_checkpoint').read_text() == before
    monkeypatch.undo()
    run(data, work, resume=True).train()
    assert (work / 'last_checkpoint').read_text() == f'{work}/epoch_3.pth'
    assert not list(work.glob('.*part'))


@pytest.mark.parametrize(
    'remove, message',
    [
        ('meta', 'meta is missing, expected a dict'),
        ('message_hub', 'message_hub is missing, expected a dict'),
    ],
)
def test_resuming_says_what_a_checkpoint_lacks(remove, message, data, work):
    checkpoint = torch.load(work / 'epoch_2.pth', weights_only=True)
    del checkpoint[remove]
    torch.save(checkpoint, work / 'epoch_2.pth')
    with pytest.raises(CheckpointError, match=rf"epoch_2.pth' cannot be resumed: {message}"):
        run(data, work, resume=True).train()


@pytest.mark.parametrize(
    'meta, message',
    [(dict(epoch='1'), 'meta.epoch is a str, expected an int'), (dict(seed=[1]), 'seed is a list')],
)
def test_resuming_says_what_has_another_type(meta, message, data, work):
    change(work / 'epoch_2.pth', meta=meta)
    with pytest.raises(CheckpointError, match=message):
        run(data, work, resume=True).train()


@pytest.mark.parametrize('part', ['optimizer', 'param_schedulers'])
def test_resuming_says_that_the_optimiser_does_not_fit(part, data, work):
    checkpoint = torch.load(work / 'epoch_2.pth', weights_only=True)
    wrong = dict(optimizer=dict(state={}, param_groups=[dict(params=[0])]), param_schedulers=[1, 2])
    checkpoint[part] = wrong[part]
    torch.save(checkpoint, work / 'epoch_2.pth')
    with pytest.raises(CheckpointError, match=r"epoch_2.pth' cannot be resumed: ") as caught:
        run(data, work, resume=True).train()
    assert '\n' not in str(caught.value)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    'config, content, message',
    [
        ('baseline', None, 'does not exist'),
        ('baseline', b'version https://git-lfs.github.com/spec/v1', 'is a Git LFS pointer'),
        ('baseline', 'bomb', 'may run code'),
        ('shd', 'bomb', 'may run code'),
    ],
)
def test_pretrained_initial_weights_are_refused_in_one_line(
    config, content, message, data, tmp_path, monkeypatch
):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')  # as torch before 2.6
    path = tmp_path / 'x.pth'
    if content == 'bomb':
        torch.save(dict(state_dict={}, meta=Bomb(f'{tmp_path}/exploded')), path)
    elif content is not None:
        path.write_bytes(content)
    model = 'model.student' if config == 'shd' else 'model'
    init = {f'{model}.init_cfg': dict(type='Pretrained', checkpoint=str(path))}
    with pytest.raises(CheckpointError, match=message) as caught:
        fashion.runner(config, tmp_path / 'work', data, init)._init_model_weights()
    assert '\n' not in str(caught.value)
    assert not (tmp_path / 'exploded').exists()


def test_pretrained_initial_weights_are_taken(data, trained, tmp_path):
    init = {'model.init_cfg': dict(type='Pretrained', checkpoint=f'{trained}/epoch_2.pth')}
    begun = fashion.runner('baseline', tmp_path, data, init, epochs=1)
    begun._init_model_weights()
    expected = torch.load(trained / 'epoch_2.pth', weights_only=True)['state_dict']
    for name, weight in begun.model.state_dict().items():
        assert torch.equal(weight, expected[name]), name


def log(folder):
    return ''.join(path.read_text() for path in sorted(folder.glob('*/*.log')))
