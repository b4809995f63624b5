"""Packages of registries that carry data, got by the registries' own command-line tools."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from shd_vit.errors import DatasetError
from shd_vit.files import write_whole

COMMANDS = dict(
    npm=('npm', 'pack', '--silent', '{name}@{version}'),
    apt=('apt-get', 'download', '-q', '{name}={version}'),
    pip=(
        *(sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', '--no-binary', ':all:'),
        '{name}=={version}',
    ),
)


@dataclass(frozen=True)
class Package:
    """One version of a package, and what its archive must be.

    Attributes:
        kind: A key of :data:`COMMANDS`.
        sha256: Of the archive.
    """

    kind: str
    name: str
    version: str
    sha256: str

    @property
    def source(self) -> str:
        return f'{self.kind} {self.name} {self.version}'

    def fetch(self, cache: str | Path) -> Path:
        """The archive in a folder; got only if it is not there.

        Raises:
            DatasetError: If it cannot be had, or is another.
        """
        path = Path(cache) / f'{self.name.replace("/", "-")}-{self.version.replace(":", "-")}'
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder, write_whole(path) as part:
                shutil.move(self._download(folder), part)
                self._check(part)
        self._check(path)
        return path

    def _download(self, folder: str) -> Path:
        command = [word.format(**vars(self)) for word in COMMANDS[self.kind]]
        if shutil.which(command[0]) is None:
            raise DatasetError(f'{self.source}: {command[0]} is not installed')
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        files = list(Path(folder).iterdir())
        if done.returncode or len(files) != 1:
            lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
            reason = lines[-1][:200] if lines else f'exit status {done.returncode}'
            raise DatasetError(f'{self.source}: {" ".join(command)} failed: {reason}')
        return files[0]

    def _check(self, path: Path) -> None:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != self.sha256:
            raise DatasetError(
                f'{self.source}: the archive has sha256 {found[:12]}..., not '
                f'{self.sha256[:12]}...: it is damaged or another (remove {path})'
            )
