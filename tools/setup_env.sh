#!/usr/bin/env bash
# Virtual environment with shd_vit, mmpretrain and all that the tests need, in .venv of the
# repository; with FFCV where it can be built. Does nothing if setup.py has not changed since.
# PYTHON picks the interpreter. FORK=onedl installs the maintained forks of mmengine, mmpretrain and
# mmcv instead of the upstream ones, in .venv-onedl: they have the same import names.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
fork=${FORK:-}
if [ -n "$fork" ] && [ "$fork" != onedl ]; then
    echo "FORK=$fork: allowed is onedl, or nothing for the upstream packages" >&2
    exit 1
fi
venv=.venv${fork:+-$fork}
stamp=$venv/installed-$(sha256sum setup.py | cut -c1-16)
[ -e "$stamp" ] && exit 0

if ! "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))'; then
    echo "$("$python" --version) found; shd_vit needs Python 3.10 to 3.12. Set PYTHON to one." >&2
    exit 1
fi
debian_packages() { # PACKAGES...: install what the step before found missing
    local as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo -n)
    if command -v apt-get >/dev/null && "${as_root[@]}" true 2>/dev/null; then
        echo "Installing Debian packages: $*"
        "${as_root[@]}" apt-get update -qq
        "${as_root[@]}" apt-get install -y -qq "$@" >/dev/null
    else
        echo "Needed, and only root can install it here: apt-get install $*" >&2
        exit 1
    fi
}
"$python" -c 'import ensurepip, venv' 2>/dev/null || debian_packages python3-venv
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
echo "Installing shd_vit and what it needs into $venv (a few minutes, several GB with CUDA)"
quiet=()
[ -t 1 ] || quiet=(--quiet) # progress bars are for people
install() { "$venv/bin/pip" install "${quiet[@]}" --disable-pip-version-check "$@"; }
requirements() { # EXTRA: what setup.py lists under it and for everyone, but for OpenMMLab's
    "$venv/bin/python" - "$1" <<'END'
import sys
from importlib.metadata import requires

for name, _, marker in (line.partition(';') for line in requires('shd_vit')):
    if not name.startswith('mm') and marker.strip() in ('', f'extra == "{sys.argv[1]}"'):
        print(name.strip())
END
}
if [ "$fork" ]; then
    install --no-deps -e .
    mapfile -t needed < <(requirements dev)
    install "${needed[@]}" onedl-mmengine onedl-mmpretrain onedl-mmcv
else
    install -e '.[lite,dev]'
fi
# OpenCV's wheel leaves two shared libraries to the system.
"$venv/bin/python" -c 'import cv2' 2>/dev/null || debian_packages libgl1 libglib2.0-0
# FFCV is compiled against these two; who has neither them nor root goes without.
if ! "$venv/bin/python" -c 'import ffcv.reader' 2>/dev/null; then
    pkg-config --exists libturbojpeg opencv4 2>/dev/null \
        || (debian_packages g++ pkg-config python3-dev libturbojpeg0-dev libopencv-dev) || true
    mapfile -t needed < <(requirements ffcv)
    install "${needed[@]}" \
        || echo 'FFCV could not be built: its loaders, and the tests of them, are left out' >&2
fi
rm -f "$venv"/installed-*
touch "$stamp"
