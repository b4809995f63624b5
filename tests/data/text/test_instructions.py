"""Requests from files of every form that MiniLLM's evaluation reads."""

import json

import pytest

from shd_vit.data.text.instructions import load_rows, template
from shd_vit.errors import DatasetError

ALONE = (
    'Below is an instruction that describes a task. Write a response that appropriately completes '
    'the request.\n\n### Instruction:\nName a fruit.\n\n### Response:\n'
)
PAIRED = (
    'Below is an instruction that describes a task, paired with an input that provides further '
    'context. Write a response that appropriately completes the request.\n\n'
    '### Instruction:\nName it.\n\n### Input:\nIt is red.\n\n### Response:\n'
)


def write(path, *lines):
    path.write_text('\n'.join(json.dumps(line) for line in lines) + '\n')
    return path


def test_the_template_is_the_one_that_minillm_trains_with():
    assert template('Name a fruit.') == template('Name a fruit.', ' ') == ALONE
    assert template('Name it.', 'It is red.') == PAIRED


@pytest.mark.parametrize(
    'line, prompt, references, question',
    [
        # Dolly as it comes, and with an empty context.
        (dict(instruction='Name it.', context='It is red.', response='apple', category='qa'),
         PAIRED, ['apple'], 'It is red.'),
        (dict(instruction='Name a fruit.', context='', response='apple'),
         ALONE, ['apple'], 'Name a fruit.'),
        # MiniLLM's processed files: Dolly, Self-Instruct, Vicuna, S-NI and UnNI.
        (dict(instruction='Name it.', prompt=PAIRED, input='It is red.', output='apple'),
         PAIRED, ['apple'], 'It is red.'),
        (dict(prompt=PAIRED, output=['apple', 'cherry']),
         PAIRED, ['apple', 'cherry'], 'It is red.'),
        (dict(prompt=ALONE.replace('\n', '<n>'), output='apple'),
         ALONE, ['apple'], 'Name a fruit.'),
        (dict(prompt='Q: 2+2?\nA:', output='4'), 'Q: 2+2?\nA:', ['4'], 'Q: 2+2?\nA:'),
        # Alpaca's names, those of Super-Natural and Unnatural Instructions.
        (dict(instruction='Name it.', input='It is red.', output=['apple', 'cherry']),
         PAIRED, ['apple', 'cherry'], 'It is red.'),
        (dict(instruction='Name a fruit.', input=None, output='apple'),
         ALONE, ['apple'], 'Name a fruit.'),
    ],
)  # fmt: skip
def test_every_form_of_a_line(line, prompt, references, question, tmp_path):
    (row,) = load_rows(write(tmp_path / 'a.jsonl', line))
    assert row == dict(prompt=prompt, references=references, question=question)


def test_instances_are_rows_of_their_own(tmp_path):
    given = [dict(input='It is red.', output='apple'), dict(input='', output='pear')]
    rows = load_rows(write(tmp_path / 'a.jsonl', dict(instruction='Name it.', instances=given)))
    assert [row['references'] for row in rows] == [['apple'], ['pear']]
    assert [row['prompt'] for row in rows] == [PAIRED, template('Name it.')]


def test_line_separators_inside_a_text_do_not_end_a_line(tmp_path):
    path = tmp_path / 'a.jsonl'
    path.write_text('{"prompt": "a\u2028b", "output": "c\u0085d"}\n\n', encoding='utf-8')
    assert load_rows(path)[0]['references'] == ['c\x85d']


def test_rows_of_short_responses_are_left_out_by_the_first_reference(tmp_path):
    texts = [['w ' * 11], ['w ' * 10, 'w ' * 11], ['w ' * 12, 'w']]
    path = write(tmp_path / 'a.jsonl', *(dict(prompt='p', output=text) for text in texts))
    assert [row['references'] for row in load_rows(path, min_words=11)] == [texts[0], texts[2]]
    with pytest.raises(DatasetError, match='no row with a response of at least 13 words'):
        load_rows(path, min_words=13)


@pytest.mark.parametrize(
    'text, message',
    [
        ('{"prompt": "a"', 'line 2: no JSON object'),
        ('[1]', 'line 2: no JSON object'),
        ('{"prompt": "a"}', "line 2: expected 'prompt' and 'output'; 'instruction'"),
        ('{"output": "a"}', "line 2: expected 'prompt' and 'output'; 'instruction'"),
        ('{"prompt": "a", "output": ""}', "line 2: 'output' must be a text that is not empty"),
        ('{"prompt": "a", "output": []}', "line 2: 'output' must be a text that is not empty"),
        ('{"prompt": "a", "output": ["b", " "]}', "line 2: 'output' must be a text that is not"),
        ('{"prompt": "a", "response": 3}', "line 2: 'response' must be a text that is not empty"),
        ('{"prompt": 3, "output": "b"}', "line 2: 'prompt' must be a text"),
        ('{"instruction": "a", "instances": 3}', "line 2: 'instances' must be a list of objects"),
    ],
)
def test_what_is_no_row_is_named_in_one_line(text, message, tmp_path):
    path = tmp_path / 'a.jsonl'
    path.write_text('{"prompt": "a", "output": "b"}\n' + text)
    with pytest.raises(DatasetError, match=message) as error:
        load_rows(path)
    assert '\n' not in str(error.value)


def test_files_without_rows_are_refused(tmp_path):
    (tmp_path / 'a.jsonl').write_text('\n')
    with pytest.raises(DatasetError, match=r"a\.jsonl' has no row$"):
        load_rows(tmp_path / 'a.jsonl')
    with pytest.raises(DatasetError, match=r"gone\.jsonl' cannot be read"):
        load_rows(tmp_path / 'gone.jsonl')
    (tmp_path / 'b.jsonl').write_bytes(b'\xff\xfe')
    with pytest.raises(DatasetError, match=r"b\.jsonl' cannot be read"):
        load_rows(tmp_path / 'b.jsonl')
