#!/usr/bin/env bash
# Check this clone on one GPU; arguments as of tools/gpu_check.py. The report goes to gpu.md, or to
# the file that REPORT names. Ends with code 1 if anything is wrong.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" tools/gpu_check.py --markdown "${REPORT:-gpu.md}" "$@"
