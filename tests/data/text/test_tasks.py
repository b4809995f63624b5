"""Tasks in the files that GLUE and SuperGLUE have."""

import json

import pytest

from shd_vit.data.text.tasks import load_task
from shd_vit.errors import DatasetError


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, lines in files.items():
        is_json = isinstance(lines[0], dict)
        rows = [json.dumps(row) if is_json else '\t'.join(row) for row in lines]
        (folder / f'{name}.{"jsonl" if is_json else "tsv"}').write_text('\n'.join(rows) + '\n')
    return folder


HEADS = {
    'SST-2': ('sentence', 'label'),
    'MRPC': ('Quality', '#1 ID', '#2 ID', '#1 String', '#2 String'),
    'QQP': ('id', 'qid1', 'qid2', 'question1', 'question2', 'is_duplicate'),
    'MNLI': ('index', 'promptID', 'sentence1', 'sentence2', 'label1', 'gold_label'),
    'QNLI': ('index', 'question', 'sentence', 'label'),
    'RTE': ('index', 'sentence1', 'sentence2', 'label'),
    'STS-B': ('index', 'genre', 'sentence1', 'sentence2', 'score'),
}
SENTENCES = ('sentence', 'sentence1', 'question', 'question1', '#1 String'), (
    'sentence2', 'question2', '#2 String',
)  # fmt: skip
LABEL = ('label', 'gold_label', 'is_duplicate', 'Quality', 'score')


def line(head, first, second, label):
    values = []
    for name in head:
        is_second = name in SENTENCES[1] or (name == 'sentence' and 'question' in head)
        text = second if is_second else first if name in SENTENCES[0] else 'x'
        values.append(label if name in LABEL else text)
    return values


@pytest.mark.parametrize('name', HEADS)
def test_files_of_glue(name, tmp_path):
    head = HEADS[name]
    labels = {'MNLI': ('neutral', 'entailment'), 'STS-B': ('3.5', '0')}.get(name, ('1', '0'))
    train = [head, *(line(head, f'a "{n}', f'b {n}', labels[n % 2]) for n in range(3))]
    dev = [head, line(head, 'c', 'd', labels[0])]
    unlabelled = [n for n in head if n not in LABEL]
    task = load_task(
        write(tmp_path / name, train=train, dev=dev, test=[unlabelled, ['y'] * len(unlabelled)])
    )
    alone = name == 'SST-2'
    assert task.train.texts[0] == ('a "0' if alone else 'a "0\nb 0'), 'quotes are text'
    assert task.sets['dev'].texts == ['c' if alone else 'c\nd']
    assert (task.name, task.unlabelled, list(task.sets)) == (name, ['test'], ['dev'])
    if name == 'STS-B':
        assert task.is_regression and task.train.targets == [3.5, 0.0, 3.5]
    else:
        assert task.classes == sorted(labels) and task.sets['dev'].targets == [1]
        assert task.train.targets == [1, 0, 1]


def test_cola_has_no_headings_and_boolq_is_json(tmp_path):
    cola = [['gj04', '1', '', 'They drank.'], ['gj04', '0', '*', 'They drank the.']]
    task = load_task(write(tmp_path / 'CoLA', train=cola, dev=cola[:1]))
    assert task.train.texts == ['They drank.', 'They drank the.'] and task.train.targets == [1, 0]
    rows = [dict(question='q', passage='p', idx=0, label=True), dict(question='r', passage='s',
            idx=1, label=False)]  # fmt: skip
    task = load_task(write(tmp_path / 'BoolQ', train=rows, val=rows[:1]))
    assert task.classes == ['False', 'True'] and task.sets['val'].targets == [1]
    assert task.train.texts[0] == 'q\np'


def test_labels_that_are_numbers_are_sorted_by_value(tmp_path):
    head = ('sentence', 'label')
    rows = [head, *(('a', label) for label in ('10', '9', '-1'))]
    assert load_task(write(tmp_path / 'a', train=rows, dev=rows)).classes == ['-1', '9', '10']


HEAD = ('sentence', 'label')


@pytest.mark.parametrize(
    'files, message',
    [
        (dict(dev=[HEAD, ('a', '1')]), r'has no train\.tsv or train\.jsonl to learn from'),
        (dict(train=[HEAD, ('a', '1'), ('a', '0')]), 'has no file with labels beside train'),
        (dict(train=[('sentence',), ('a',)], dev=[HEAD, ('a', '1')]), 'has no label in train'),
        (dict(train=[HEAD, ('a', '1')], dev=[HEAD, ('a', '1')]), "has one label alone, '1'"),
        (dict(train=[HEAD, ('a', '1'), ('a', '0')], dev=[HEAD, ('a', '2')]),
         r"dev\.tsv' has the label '2', train has 0, 1"),
        (dict(train=[HEAD, ('a', '1', 'x')]), r"train\.tsv', line 2: 3 columns, expected 2"),
        (dict(train=[HEAD]), r"train\.tsv' has no rows"),
        (dict(train=[('text', 'label'), ('a', '1')]), 'no column of sentences, but text, label'),
        (dict(train=[('sentence', 'score'), ('a', '1'), ('b', 'x')]), "the score 'x', which is no"),
        (dict(train=[('sentence', 'score'), ('a', 'nan')]), "the score 'nan', which is no number"),
        (dict(train=[dict(sentence='a', label=1), dict(sentence='a')]), 'line 2: no object, or'),
    ],
)  # fmt: skip
def test_what_is_no_task_is_named_in_one_line(files, message, tmp_path):
    if 'dev' not in files and 'beside' not in message:
        files = dict(files, dev=[('sentence', 'score'), ('a', '1')])
    with pytest.raises(DatasetError, match=message) as error:
        load_task(write(tmp_path / 'task', **files))
    assert '\n' not in str(error.value)
