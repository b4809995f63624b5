"""What may import what: read from the sources, nothing is run."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'shd_vit'
TOOLS = PACKAGE.parent / 'tools'
HOSTS = {
    'accelerate', 'diffusers', 'mmcv', 'mmengine', 'mmpretrain', 'timm', 'transformers', 'trl',
}  # fmt: skip
CORE = ('checkpoint', 'functional', 'taps', 'pairing', 'merging', 'losses', 'distillation')
# Found and not yet mended: to be emptied, never added to.
HOSTS_IN_THE_CORE: set = set()


def modules(folder):
    """Sources under a folder of the package, or one file of that name."""
    return sorted((PACKAGE / folder).rglob('*.py'))


def imports(path):
    """Full names of all that a source imports, wherever in it; relative ones are resolved."""
    package = path.relative_to(PACKAGE.parent).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = '.'.join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f'{module}.{alias.name}' for alias in node.names)


def is_within(name, package):
    return name == package or name.startswith(f'{package}.')


def label(path):
    return path.relative_to(PACKAGE).as_posix()


def test_imports_are_found_in_all_their_forms(monkeypatch, tmp_path):
    monkeypatch.setitem(globals(), 'PACKAGE', tmp_path / 'shd_vit')
    path = tmp_path / 'shd_vit/taps/mine.py'
    path.parent.mkdir(parents=True)
    path.write_text(
        'import timm.data\nfrom ..lab import study\nfrom . import tap\n'
        'def f():\n    if True:\n        from mmengine import Config as C\n'
    )
    found = set(imports(path))
    assert {'timm.data', 'shd_vit.lab', 'shd_vit.lab.study', 'shd_vit.taps.tap'} <= found
    assert 'mmengine' in found


def test_no_host_is_imported_in_the_core():
    """What a host brings is in hosts/, and what is known of its layers in taps/families/."""
    found = {
        (label(path), name.partition('.')[0])
        for folder in CORE
        for path in modules(folder)
        if not label(path).startswith('taps/families/')
        for name in imports(path)
        if name.partition('.')[0] in HOSTS or is_within(name, 'shd_vit.hosts')
    }
    assert found == HOSTS_IN_THE_CORE


@pytest.mark.parametrize('host', ['timm', 'transformers'])
def test_hosts_import_no_library_of_another_one(host):
    """mmpretrain has classifiers of other libraries' models; these two are at home alone."""
    own = {'timm': {'timm'}, 'transformers': {'transformers', 'trl', 'accelerate'}}[host]
    assert [
        (label(path), name)
        for path in (*modules(f'hosts/{host}'), PACKAGE / 'hosts/images.py')
        for name in imports(path)
        if name.partition('.')[0] in HOSTS - own or is_within(name, 'shd_vit.hosts.mmpretrain')
    ] == []


def test_nothing_in_the_package_imports_the_laboratory():
    assert [
        (label(path), name)
        for path in modules('.')
        if not label(path).startswith('lab/')
        for name in imports(path)
        if is_within(name, 'shd_vit.lab')
    ] == []


@pytest.mark.parametrize(
    'folder', ['lab/study', 'lab/records.py', 'lab/report.py', 'lab/reconstruction.py']
)
def test_these_rooms_of_the_laboratory_need_no_host(folder):
    """But for what a study of mmengine's configs needs, when there is one."""
    paths = [PACKAGE / folder] if folder.endswith('.py') else modules(folder)
    assert {
        (path.name, name.partition('.')[0])
        for path in paths
        for name in imports(path)
        if name.partition('.')[0] in HOSTS
    } <= {('configs.py', 'mmengine')}


def test_tools_import_installed_packages_alone():
    """Neither each other nor tests, with no paths of their own and nothing executed."""
    own = {path.stem for path in TOOLS.rglob('*.py')} | {'tests', 'references', 'tooling'}
    for path in sorted(TOOLS.rglob('*.py')):
        text = path.read_text(encoding='utf-8')
        names = {name.partition('.')[0] for name in _absolute(text)}
        assert not names & own, path
        for way in ('sys.path', 'importlib', 'exec(', 'from_tests'):
            assert way not in text, f'{path}: {way}'


def _absolute(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level
            yield node.module
