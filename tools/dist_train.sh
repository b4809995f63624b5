#!/usr/bin/env bash
# Train on several GPUs, or on several CPU processes where there is no GPU.
#
#   tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
#
# Several machines: run it on each with NNODES, NODE_RANK (0, 1, ...) and MASTER_ADDR (of node 0)
# set. PORT (29500) must be free on node 0.
source "$(dirname "${BASH_SOURCE[0]}")/launchers.sh"
need 2 "$@"
with_torchrun "$2" train.py "$1" "${@:3}"
