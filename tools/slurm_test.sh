#!/usr/bin/env bash
# Evaluate through Slurm.
#
#   GPUS=8 tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]
#
# GPUS (8), GPUS_PER_NODE (8, at most GPUS), CPUS_PER_TASK (8) and SRUN_ARGS shape the job.
source "$(dirname "${BASH_SOURCE[0]}")/launchers.sh"
need 4 "$@"
with_srun "$1" "$2" test.py "$3" "$4" "${@:5}"
