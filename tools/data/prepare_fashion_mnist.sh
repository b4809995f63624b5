#!/usr/bin/env bash
# Put Fashion-MNIST's four files into a folder (default: data/fashion_mnist).
#
#   tools/data/prepare_fashion_mnist.sh [FOLDER]
#
# From Debian's package dataset-fashion-mnist where that is installed or can be, else by download.
set -euo pipefail
folder=${1:-data/fashion_mnist}
package=/usr/share/datasets/fashion-mnist
mkdir -p "$folder"

complete() {
    local name
    for name in {train,t10k}-{images-idx3,labels-idx1}-ubyte; do
        [ -s "$folder/$name" ] || return 1
    done
}
complete && exit 0

as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo -n)
if [ ! -d "$package" ] && command -v apt-get >/dev/null && "${as_root[@]}" true 2>/dev/null; then
    echo 'Installing the Debian package dataset-fashion-mnist'
    "${as_root[@]}" apt-get update -qq && "${as_root[@]}" apt-get install -y -qq \
        dataset-fashion-mnist >/dev/null || echo 'That failed; trying a download' >&2
fi
if [ -d "$package" ]; then
    for archive in "$package"/*-ubyte.gz; do
        name=$(basename "$archive" .gz)
        gunzip -c "$archive" > "$folder/.$name.part"
        mv "$folder/.$name.part" "$folder/$name"
    done
else
    python - "$folder" <<'PY'
import shutil, sys
from pathlib import Path
from torchvision.datasets import FashionMNIST

folder = Path(sys.argv[1])
FashionMNIST(folder / '.download', download=True)
for file in (folder / '.download/FashionMNIST/raw').glob('*-ubyte'):
    shutil.move(file, folder / file.name)
shutil.rmtree(folder / '.download')
PY
fi
complete || {
    echo "Fashion-MNIST could not be had: install Debian's dataset-fashion-mnist as root, or put" \
        "the four *-ubyte files of https://github.com/zalandoresearch/fashion-mnist into $folder" >&2
    exit 1
}
