#!/usr/bin/env bash
# Set up .venv if needed, then lint and test. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash tools/setup_env.sh
source .venv/bin/activate
ruff check .
ruff format --check .
exec python -m pytest "$@"
