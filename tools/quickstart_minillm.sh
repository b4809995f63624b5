#!/usr/bin/env bash
# Instruction tuning by MiniLLM on two cores, from nothing: sets up .venv, prepares a text and
# instructions about words, trains a GPT-2 and a LLaMA on the text and then on the instructions, lets
# the second learn from the first on responses of its own, with SHD and without, and prints ROUGE-L of
# all beside two baselines. Finished steps are not repeated; what was pre-trained by
# tools/quickstart_lm.sh is taken from there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash tools/setup_env.sh
source .venv/bin/activate
started=$SECONDS
text=data/text_small words=data/words runs=work_dirs/minillm/small

if [ ! -e "$text/text.json" ]; then
    printf '\n== Text\n'
    python tools/data/prepare_text.py "$text" --without dictionary --vocabulary 2048 --share 0.01
fi
if [ ! -e "$words/unseen.jsonl" ]; then
    printf '\n== Instructions about words\n'
    python tools/data/prepare_instructions.py --plain --tasks define use topic --out "$words"
fi
train() { # CONFIG TITLE
    local dir=work_dirs/$1
    [ ! -e "${dir/lm\/mini/mini}/metrics.json" ] || return 0
    printf '\n== %s\n' "$2"
    if ! python tools/lm_train.py "configs/$1.yaml" --resume; then
        echo "Failed: $1 (the same command goes on from its last checkpoint, if it has one)" >&2
        exit 1
    fi
}
train lm/small/gpt2_teacher '1/6 Pre-training of the teacher: GPT-2, 8 heads'
train lm/small/student '2/6 Pre-training of the student: LLaMA, 4 heads'
train lm/minillm/small/teacher '3/6 The teacher learns from references'
train lm/minillm/small/start '4/6 The student starts on references'
train lm/minillm/small/minillm '5/6 MiniLLM: the student learns from the teacher'
train lm/minillm/small/minillm_shd '6/6 MiniLLM + SHD'

models=("teacher=$runs/teacher" "start=$runs/start" "MiniLLM=$runs/minillm"
    "MiniLLM + SHD=$runs/minillm_shd")
for set in test unseen; do
    printf '\n== Evaluation: %s\n' "$set"
    python tools/lm_eval.py generate "${models[@]}" --data "$words/$set.jsonl" \
        --prompt-length 96 --new-tokens 32 --batch 100 --json "$runs/results.json"
done
printf 'All of it took %d min %02d s.\n' $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60))
