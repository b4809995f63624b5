#!/usr/bin/env bash
# From nothing to a distilled student: sets up .venv, gets Fashion-MNIST, trains a 6-head teacher,
# trains a 3-head student alone and from the teacher (ViTKD + NKD + SHD), and compares them.
# Finished steps are not repeated; an interrupted training goes on from its last epoch.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash tools/setup_env.sh
source .venv/bin/activate
bash tools/data/prepare_fashion_mnist.sh
from_ffcv=()
if python -c 'import ffcv.reader' 2>/dev/null; then
    beton=data/fashion_mnist/train.beton
    echo "Training images are read by FFCV, from $beton"
    [ -e "$beton" ] || python tools/data/write_ffcv.py "$beton" --fashion-mnist data/fashion_mnist
    from_ffcv=(--ffcv "$beton")
else
    echo 'FFCV is not installed: training images are read by mmpretrain'
fi
started=$SECONDS
runs=work_dirs/fashion_mnist

run() { # LOG COMMAND...: all output to LOG, progress to the terminal
    local log=$1
    shift
    if ! "$@" 2>&1 | tee "$log" | { grep --line-buffered -oE 'Epoch\((train|val|test)\).*' || true; } \
        | sed -u -E 's/ (base_lr|data_time|grad_norm|time): [^ ]+//g'; then
        tail -n 20 "$log" >&2
        echo "Failed: $* (all output: $log)" >&2
        exit 1
    fi
}
train_and_test() { # ROW TITLE
    local row=$1 config=configs/fashion_mnist/$1.py dir=$runs/$1
    mkdir -p "$dir"
    if [ ! -e "$dir/metrics.json" ]; then
        printf '\n== %s\n' "$2"
        run "$dir/train.txt" python tools/train.py "$config" --resume "${from_ffcv[@]}"
        run "$dir/test.txt" python tools/test.py "$config" "$(cat "$dir/last_checkpoint")" \
            --work-dir "$dir/test" --out "$dir/metrics.json"
    fi
}
train_and_test teacher '1/3 Teacher: DeiT3, 6 heads'
train_and_test baseline '2/3 Student alone: DeiT, 3 heads'
train_and_test shd '3/3 Student distilled: ViTKD + NKD + SHD'

printf '\n'
python tools/compare.py "teacher (6 heads)=$runs/teacher/metrics.json" \
    "student from scratch (3 heads)=$runs/baseline/metrics.json" \
    "student, ViTKD + NKD + SHD=$runs/shd/metrics.json"
printf 'Training and testing took %d min %02d s.\n' $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60))
