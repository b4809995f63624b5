#!/usr/bin/env bash
# Evaluate through Slurm.
#
#   GPUS=8 tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]
#
# GPUS (8), GPUS_PER_NODE (8, at most GPUS), CPUS_PER_TASK (8) and SRUN_ARGS shape the job.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ $# -lt 4 ]; then
    sed -n '2,6s/^# \?//p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi
partition=$1 job_name=$2 config=$3 checkpoint=$4
shift 4
gpus=${GPUS:-8}
per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}"
# SRUN_ARGS is split into words on purpose.
exec srun --partition "$partition" --job-name "$job_name" --gres "gpu:$per_node" \
    --ntasks "$gpus" --ntasks-per-node "$per_node" --cpus-per-task "${CPUS_PER_TASK:-8}" \
    --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    python -u "$here/test.py" "$config" "$checkpoint" --launcher slurm "$@"
