#!/usr/bin/env bash
# Diffusion transformers on Fashion-MNIST, from nothing: trains a teacher of 6 heads, a student of 3
# alone and from the teacher (SHD and its output), draws 10 pictures of each class from each, from the
# same noise, and prints Frechet distances with that of real pictures.
# Finished steps are not repeated; a training that was stopped goes on from its last 200 steps.
#
#   tools/quickstart_dit.sh [FIELD=VALUE...]      # such as training.steps=20, for a first look
#
# OUT is the folder of all that is written; PER_CLASS pictures of each class are scored.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if ! python -c 'import diffusers, torch_fidelity, timm, shd_vit' 2>/dev/null; then
    bash tools/setup_env.sh
    source .venv/bin/activate
fi
data=data/fashion_mnist
bash tools/data/prepare_fashion_mnist.sh "$data"
out=${OUT:-work_dirs/dit/fashion_mnist}
started=$SECONDS

train() { # NAME TITLE [OPTIONS...]
    local name=$1 title=$2
    shift 2
    printf '\n== %s\n' "$title"
    python tools/dit_train.py "configs/dit/fashion_mnist/$name.yaml" "$out/$name" --options \
        "data.root=$data" training.save_every=200 "$@"
}
train teacher '1/4 Teacher: DiT, 6 heads' "$@"
train student '2/4 Student alone: DiT, 3 heads' "$@"
train shd '3/4 Student distilled: SHD and output' "teacher=$out/teacher" "$@"

printf '\n== 4/4 Pictures and scores\n'
python tools/dit_sample.py "$out/samples" "teacher=$out/teacher" "student=$out/student" \
    "shd=$out/shd" --per-class "${PER_CLASS:-100}" --sampler ddim --steps 25 --show 10
python tools/dit_evaluate.py "$out"/samples/{teacher,student,shd}.npz --fashion-mnist "$data" \
    --classifier "$out/classifier.safetensors" --out "$out/scores.json"
printf '\nPictures of all three: %s\n' "$out/samples/pictures.png"
printf 'Took %d min %02d s.\n' $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60))
