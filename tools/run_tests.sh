#!/usr/bin/env bash
# Set up .venv if needed, then lint, check types, build the docs and test. Arguments go to pytest.
# FORK=onedl tests with the maintained forks of mmengine, mmpretrain and mmcv, in .venv-onedl.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash tools/setup_env.sh
source ".venv${FORK:+-$FORK}/bin/activate"
ruff check .
ruff format --check .
mypy
NO_MKDOCS_2_WARNING=1 mkdocs build --strict --config-file .mkdocs.yml
exec python -m pytest "$@"
