"""Tasks made of small archives of the packages' own layout."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from tooling import run_tool

from shd_vit.data.text import task_sources
from shd_vit.data.text.task_sources import (
    SOURCES,
    joined,
    letters,
    sentiment,
    similarity,
    spam,
    split_by_group,
)
from shd_vit.data.text.task_writer import write_task
from shd_vit.data.text.tasks import load_task
from shd_vit.errors import ConfigError, DatasetError


def archive(path, files):
    with tarfile.open(path, 'w:gz') as tar:
        for name, data in files.items():
            data = data if isinstance(data, bytes) else data.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def vader(tmp_path, films, shifted=('1_1\t2.0\tNice!',)):
    files = {'movieReviewSnippets': films}
    files |= dict.fromkeys(task_sources.SHIFTED.values(), shifted)
    inner = archive(
        tmp_path / 'inner.tar.gz',
        {f'hutto_ICWSM_2014/{k}_GroundTruth.txt': '\r\n'.join(v) for k, v in files.items()},
    )
    name = 'vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz'
    return archive(tmp_path / 'vader.tar.gz', {name: inner.read_bytes()})


FILMS = [
    f'{n}\t{(1 if n < 200 else -1) * (n % 4 + 1)}\tFilm {chr(97 + n % 26)}{chr(97 + n // 26)}'
    for n in range(400)
]


def test_signs_are_labels_and_ratings_are_scores(tmp_path):
    films = [*FILMS, '9\t0\tNeither.', '8\t2\tFILM AA!', '7\t-1\tFilm aa']
    path = vader(tmp_path, films, ['1_1\t2.0\tNice,  this.', '1_2\t-3\tFilm: aa', '1_3\t0\tSo.'])
    labels, scores = sentiment(path), similarity(path)
    assert list(labels) == ['train', 'validation', 'test', 'amazon', 'tweets', 'nyt']
    assert labels['amazon'] == [('Nice, this.', '1')], 'what is in the films is left out'
    assert scores['amazon'] == [('Nice, this.', '2.000'), ('So.', '0.000')]
    kept = {name: {text for text, _ in rows} for name, rows in scores.items()}
    for name in ('train', 'validation', 'test'):
        assert {text for text, _ in labels[name]} == kept[name] - {'Neither.'}
        for text, label in labels[name]:
            rating = dict(scores[name])[text]
            assert label == str(int(float(rating) > 0))
    every = [text for name in ('train', 'validation', 'test') for text in kept[name]]
    assert len(every) == len(set(every)) == 402
    (home,) = (name for name in ('train', 'validation', 'test') if 'Film aa' in kept[name])
    assert 'FILM AA!' in kept[home], 'the same but for marks'
    assert 20 < len(kept['validation']) < 60 and 20 < len(kept['test']) < 60


def test_splits_do_not_depend_on_what_else_is_there():
    examples = [(f'text {n}', '1') for n in range(300)]
    whole = split_by_group(examples, [text for text, _ in examples])
    half = split_by_group(examples[::2], [text for text, _ in examples[::2]])
    for name, rows in half.items():
        assert set(rows) <= set(whole[name])


def test_items_that_share_a_key_through_others_are_joined():
    names = joined([['a', 'b'], ['c'], ['b', 'd'], [], ['d'], ['e', 'c'], []])
    assert names[0] == names[2] == names[4] and names[1] == names[5]
    assert len(set(names)) == 4, 'items without keys are alone'
    assert letters('Re: A-1 b!') == 'reab'


MAIL = 'From a@b Thu Aug 22\nReceived: from secret (host)\nSubject: {}\n{}\n\n{}'


def test_mails_lose_headers_and_markup_and_stay_with_their_thread(tmp_path):
    html = 'Content-Type: text/html\nContent-Transfer-Encoding: quoted-printable'
    both = 'Content-Type: multipart/alternative; boundary=X'
    parts = (
        '--X\nContent-Type: text/plain\n\nplain words\n--X\nContent-Type: text/html\n\n<b>no</b>'
        '\n--X--\n'
    )
    markup = '<style>x</style><p>Buy=20it</p>&nbsp;<!-- c -->now'
    mails = {
        'spam-1/1.txt': MAIL.format('Buy', html, markup),
        'easy-ham-1/1.txt': MAIL.format('Hello', both, parts),
        'easy-ham-1/2.json': '{}',
        'hard-ham-1/1.txt': MAIL.format('Nothing', 'X: y', '  '),
    }
    for n in range(30):
        mails[f'easy-ham-2/{n}.txt'] = MAIL.format('Re: Re: Hello', 'X: y', f'answer {n}')
    files = {f'package/spam-assassin/data/{name}': mail for name, mail in mails.items()}
    sets = spam(archive(tmp_path / 'a.tgz', files))
    every = {text: (name, label) for name, rows in sets.items() for text, label in rows}
    assert every['Buy it now'][1] == '1'
    assert len(every) == 32 and 'secret' not in ' '.join(every)
    thread = {name for text, (name, _) in every.items() if text != 'Buy it now'}
    assert every['plain words'][1] == '0' and len(thread) == 1


def test_tasks_are_written_whole_and_read_again(tmp_path, monkeypatch):
    package = vader(tmp_path, FILMS)
    monkeypatch.setattr(task_sources.Package, 'fetch', lambda self, cache: package)
    out = tmp_path / 'tasks'
    run_tool('data/prepare_tasks', monkeypatch, 'sentiment', 'similarity', '--out', out)
    task = load_task(out / 'sentiment')
    assert list(task.sets) == ['validation', 'test', 'amazon', 'nyt', 'tweets']
    assert load_task(out / 'similarity').is_regression
    assert 0.3 < sum(task.train.targets[:100]) / 100 < 0.7, 'labels are mixed'
    about = json.loads((out / 'sentiment/task.json').read_text())
    assert about['licence'] == 'MIT' and about['rows']['train'] == len(task.train.texts)

    def broken(archive: Path):
        raise DatasetError('damaged')

    with pytest.raises(DatasetError, match='damaged'):
        write_task('sentiment', SOURCES['sentiment']._replace(make=broken), out, '')
    assert load_task(out / 'sentiment') == task
    with pytest.raises(ConfigError, match="no task 'cola': allowed are sentiment"):
        run_tool('data/prepare_tasks', monkeypatch, 'cola', '--out', out)


def test_ratings_that_are_none_are_named(tmp_path):
    with pytest.raises(DatasetError, match='movieReviewSnippets, line 2: expected id, rating'):
        sentiment(vader(tmp_path, ['1\t1\tFine.', '2\tFine.']))
