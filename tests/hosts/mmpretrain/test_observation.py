"""Losses that see the training images before training."""

import fashion
import pytest
import torch
from torch.testing import assert_close

from shd_vit.functional import attention_maps
from shd_vit.merging.matching import match_heads

MATCHED = {'model.losses.shd.strategy': 'head_matching'}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return fashion.write_images(tmp_path_factory.mktemp('data') / 'fashion_mnist')


def orders(runner):
    return dict(runner.model.losses['shd'].strategy.named_buffers())


def test_heads_are_matched_on_all_training_images(data, tmp_path):
    """The order is that of the maps of all 64 images, by plain means over the whole set."""
    # Without random flips, a second pass sees the images that the first one saw.
    options = {**MATCHED, 'train_dataloader.dataset.pipeline': [dict(type='PackInputs')]}
    runner = fashion.runner('shd_only', tmp_path, data, options, epochs=1)
    runner.train()
    images = []
    for batch in runner.train_dataloader:
        batch = runner.model.data_preprocessor(batch, training=False)
        images.append(batch['inputs'])
    taps = runner.model.teacher_output(torch.cat(images)).attention
    for n, tap in taps.items():
        maps = attention_maps(tap.q, tap.k, tap.scale).flatten(2).double()
        similarity = torch.cosine_similarity(maps[:, :, None], maps[:, None], dim=-1).mean(0)
        assert orders(runner)[f'order_{n}_{n}'].tolist() == match_heads(similarity, 3)


def test_an_interrupted_run_goes_on_with_its_order(data, tmp_path):
    """Resumed, it looks at no image again, and ends like a run that was not interrupted."""
    whole = fashion.runner('shd_only', tmp_path / 'whole', data, MATCHED)
    whole.train()
    stopped = fashion.runner('shd_only', tmp_path / 'part', data, MATCHED)
    stopped.register_hook(fashion.StopAt(6))
    with pytest.raises(fashion.Interrupted):
        stopped.train()
    resumed = fashion.runner('shd_only', tmp_path / 'part', data, {**MATCHED, 'resume': True})
    resumed.model.losses['shd'].observe = None
    resumed.train()
    assert_close(orders(resumed), orders(whole), rtol=0, atol=0)
    state, expected = resumed.model.state_dict(), whole.model.state_dict()
    assert_close(state, expected, rtol=0, atol=0)


def test_matching_changes_nothing_else(data, tmp_path):
    """Batches and first weights are those of a run that looks at no image before."""
    seen = []
    for name, options in (('linear', {}), ('matched', MATCHED)):
        runner = fashion.runner('shd_only', tmp_path / name, data, options, epochs=1)
        first = {}

        def keep(inputs, *args, first=first, forward=runner.model.forward, **kwargs):
            first.setdefault('images', inputs.clone())
            return forward(inputs, *args, **kwargs)

        runner.model.forward = keep
        runner.train()
        seen.append(first['images'])
    assert torch.equal(*seen)
