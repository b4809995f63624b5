"""Scores against their formulas in float64, and the classifier whose features they are in."""

import hashlib

import numpy as np
import pytest
import torch
from lab.diffusion.small import write_idx
from safetensors.torch import save_file
from torch.testing import assert_close

from shd_vit.errors import CheckpointError, ConfigError
from shd_vit.lab.diffusion.data import fashion_mnist
from shd_vit.lab.diffusion.features import (
    NAME,
    Classifier,
    FashionFeatures,
    describe,
    trained_classifier,
)
from shd_vit.lab.diffusion.scores import halves, of_fashion_mnist, score, table


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('classifier') / 'c.safetensors'
    save_file(Classifier().state_dict(), path, dict(accuracy='0.5'))
    return path


def pictures(count, seed, level=0):
    torch.manual_seed(seed)
    noise = torch.randint(0, 200, (count, 28, 28, 1), dtype=torch.uint8)
    return noise + torch.tensor(level, dtype=torch.uint8)


def features_of(images, path):
    extractor = FashionFeatures(NAME, ['features', 'logits'], str(path))
    with torch.no_grad():
        return [x.double().numpy() for x in extractor(images.permute(0, 3, 1, 2))]


def test_the_scores_are_those_of_the_formulas(classifier):
    drawn, real = pictures(60, 0, 40), pictures(80, 1)
    found = score(drawn, real, NAME, classifier)
    (a, logits), (b, _) = features_of(drawn, classifier), features_of(real, classifier)
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.sqrt(np.linalg.eigvals(ca @ cb).real.clip(min=0))  # of the product's root
    frechet = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb) - 2 * root.sum()
    assert found['Frechet'] == pytest.approx(frechet, rel=1e-3)

    def within(points, centres, others):
        """Whether each point is as near to a centre as its third neighbour of its kind (k = 3)."""
        hits = 0
        for point in points:
            for centre in centres:
                radius = sorted(np.linalg.norm(others - centre, axis=1))[3]
                if np.linalg.norm(point - centre) <= radius:
                    hits += 1
                    break
        return hits / len(points)

    assert found['precision'] == pytest.approx(within(a, b, b), abs=0.02)
    assert found['recall'] == pytest.approx(within(b, a, a), abs=0.02)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    whole = np.exp((p * np.log(p / p.mean(0))).sum(1).mean())
    assert found['IS'] == pytest.approx(whole, rel=0.05)  # the library's is a mean of 10 splits


def test_real_pictures_are_nearer_than_others(classifier):
    real = pictures(300, 1)
    same = score(pictures(100, 2), real, NAME, classifier)
    other = score(pictures(100, 2, 55), real, NAME, classifier)
    assert same['Frechet'] < other['Frechet'] and same['precision'] > other['precision']
    assert score(real, real, NAME, classifier)['Frechet'] == pytest.approx(0, abs=1e-3)
    shown = table({'real': same, 'other': other}, 'a caption')
    assert shown.splitlines()[0].split() == [
        'Frechet', 'IS', 'KID', 'x', '1000', 'precision', 'recall',
    ]  # fmt: skip
    assert f'{other["Frechet"]:.3f}' in shown and shown.endswith('a caption')


def test_few_pictures_are_refused(classifier):
    with pytest.raises(ConfigError, match='49 pictures are too few to score: at least 50'):
        score(pictures(49, 0), pictures(100, 1), NAME, classifier)


def test_the_classifier_is_trained_once_and_named(tmp_path):
    data, path = write_idx(tmp_path / 'data'), tmp_path / 'new/c.safetensors'
    name = trained_classifier(path, str(data), epochs=4)
    test = fashion_mnist(str(data), is_training=False)
    logits = features_of(test.samples.permute(0, 2, 3, 1), path)[1]
    accuracy = 100 * (logits.argmax(1) == test.labels.numpy()).mean()
    assert accuracy > 12  # ten classes
    mark = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    assert name == f'{NAME} ({accuracy:.1f} % of the test images, weights {mark})' == describe(path)
    before = path.read_bytes()
    assert trained_classifier(path, str(data)) == name and path.read_bytes() == before
    path.write_bytes(b'nothing')
    with pytest.raises(CheckpointError, match='is no classifier of ours'):
        describe(path)


def test_what_is_real_is_balanced_and_apart(tmp_path):
    data = str(write_idx(tmp_path))
    floor, reference = of_fashion_mnist(data, 50, 100)
    assert floor.shape == (50, 28, 28, 1) and reference.shape == (100, 28, 28, 1)
    levels = (floor.float().mean((1, 2, 3)) // 18).long()
    assert levels.bincount().count_nonzero() == 10
    with pytest.raises(ConfigError, match='200 pictures are scored, and there are 120 real ones'):
        of_fashion_mnist(data, 200, 100)
    images = torch.arange(200, dtype=torch.uint8).view(200, 1, 1, 1)
    some, others = halves(images, 60, 1000)
    assert len(some) == 60 and len(others) == 140
    assert_close(torch.cat([some, others]).flatten().sort().values, images.flatten())
