#!/usr/bin/env bash
# Evaluate on several GPUs, or on several CPU processes where there is no GPU.
#
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]
#
# Several machines: run it on each with NNODES, NODE_RANK (0, 1, ...) and MASTER_ADDR (of node 0)
# set. PORT (29500) must be free on node 0.
source "$(dirname "${BASH_SOURCE[0]}")/launchers.sh"
need 3 "$@"
with_torchrun "$3" test.py "$1" "$2" "${@:4}"
