"""The script of docs/language_models.md runs as it is written."""

import re
from pathlib import Path

from hosts.transformers.lm import gpt2, llama
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

PAGE = (Path(__file__).parents[3] / 'docs/language_models.md').read_text()
SCRIPT = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)[0]


def test_the_script_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inside = Tokenizer(models.WordLevel({f'w{n}': n for n in range(50)}, unk_token='w0'))
    inside.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=inside, pad_token='w0', eos_token='w1'
    ).save_pretrained('teacher')
    gpt2().save_pretrained('teacher')
    llama().save_pretrained('start')
    texts = [' '.join(f'w{n * k % 50}' for k in range(1, 4 + n)) for n in range(8)]
    names = dict(TEACHER='teacher', STUDENT='start', texts=texts)
    exec(SCRIPT.replace("'output',", "'output', use_cpu=True,"), names)
    assert AutoModelForCausalLM.from_pretrained('student').config.model_type == 'llama'
