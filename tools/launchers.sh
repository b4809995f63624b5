# Sourced by dist_*.sh and slurm_*.sh: how a tool is started many times.
set -euo pipefail
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"

need() { # COUNT ARGUMENTS...: show the calling script's opening comment if there are fewer
    if [ $# -le "$1" ]; then
        sed -n '2,/^[^#]/s/^# \?//p' "$0" >&2
        exit 2
    fi
}
with_torchrun() { # PROCESSES TOOL ARGUMENTS...
    exec python -m torch.distributed.run \
        --nnodes "${NNODES:-1}" --node_rank "${NODE_RANK:-0}" --nproc_per_node "$1" \
        --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${PORT:-29500}" \
        "$tools/$2" "${@:3}" --launcher pytorch
}
with_srun() { # PARTITION JOB_NAME TOOL ARGUMENTS...
    local gpus=${GPUS:-8}
    local per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
    # SRUN_ARGS is split into words on purpose.
    exec srun --partition "$1" --job-name "$2" --gres "gpu:$per_node" \
        --ntasks "$gpus" --ntasks-per-node "$per_node" --cpus-per-task "${CPUS_PER_TASK:-8}" \
        --kill-on-bad-exit=1 ${SRUN_ARGS:-} python -u "$tools/$3" "${@:4}" --launcher slurm
}
