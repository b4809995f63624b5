#!/usr/bin/env bash
# Train through Slurm.
#
#   GPUS=16 tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]
#
# GPUS (8), GPUS_PER_NODE (8, at most GPUS), CPUS_PER_TASK (8) and SRUN_ARGS shape the job.
source "$(dirname "${BASH_SOURCE[0]}")/launchers.sh"
need 4 "$@"
with_srun "$1" "$2" train.py "$3" --work-dir "$4" "${@:5}"
