"""Who may import whom, read from the sources with `ast`, and the limits of the house rules."""
from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import paddleseg_ext

PACKAGE = Path(paddleseg_ext.__file__).parent
FILES = sorted(PACKAGE.rglob('*.py'))

# For each part of the package, the other parts that it may import. The package itself (`__version__`) is everybody's.
MAY_IMPORT = {
    '__init__': {'components'},  # create_classifier, when it is asked for
    '__main__': {'cli'},
    'errors': set(),
    'files': set(),
    'metrics': {'errors'},
    'environment': {'errors'},
    'registry': set(),
    'compat': {'environment'},
    'layers': set(),
    'checkpoints': {'errors', 'files'},
    'models': {'layers', 'registry', 'checkpoints', 'errors'},
    'backbones': {'layers', 'registry', 'checkpoints', 'errors'},
    'data': {'errors', 'files', 'registry'},
    'components': {'compat', 'data', 'models', 'backbones'},
    'config': {'components', 'registry', 'errors', 'files'},
    'inference': {'errors', 'files', 'metrics', 'data', 'environment'},
    'engine': {'errors', 'files', 'metrics', 'environment', 'registry', 'components', 'config', 'layers', 'models',
               'backbones', 'checkpoints', 'data'},
    'export': {'errors', 'files', 'environment', 'registry', 'components', 'config', 'layers', 'models', 'backbones',
               'checkpoints', 'data', 'engine', 'inference'},
    'cli': {'errors', 'files', 'metrics', 'environment', 'registry', 'components', 'config', 'models', 'backbones',
            'checkpoints', 'data', 'engine', 'export', 'inference', 'compat'},
}

# Parts that a `--help` imports: no Paddle, PaddleSeg, NumPy or OpenCV outside functions.
LIGHT = {'__init__', '__main__', 'errors', 'files', 'environment', 'cli'}
HEAVY = {'paddle', 'paddleseg', 'numpy', 'cv2', 'matplotlib', 'torch'}

# Frameworks that a part may import, within functions too; parts that are not listed may import any but torch.
FRAMEWORKS = {
    'errors': set(), 'files': set(), 'metrics': {'numpy'}, 'registry': {'paddleseg'}, 'layers': {'paddle'},
    'models': {'paddle'}, 'backbones': {'paddle'},
    'checkpoints': {'paddle', 'numpy', 'torch'},
}
TORCH_FILE = 'checkpoints/reading.py'

LONGEST_FILE, LONGEST_FUNCTION = 400, 60


def part_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported(path: Path, *, top_level_only: bool = False) -> list[tuple[str, ast.AST]]:
    """Dotted names of everything a file imports, relative imports resolved, each with its node.

    `from a.b import c` gives `a.b.c`, because c may be a module.
    """
    tree = ast.parse(path.read_text())
    nodes = top_level(tree) if top_level_only else ast.walk(tree)
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [(alias.name, node) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                folder = ('paddleseg_ext', *path.relative_to(PACKAGE).parts)[:-node.level]
                base = '.'.join([*folder, base]).rstrip('.')
            found += [(f'{base}.{alias.name}', node) for alias in node.names]
    return found


def top_level(tree: ast.AST):
    """Every node outside functions and outside `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        typing_only = isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.dump(node.test)
        if not typing_only and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield node
            yield from top_level(node)


def own_parts(path: Path) -> set[str]:
    """The parts of the package that a file imports, itself left out."""
    parts = set()
    for name, _ in imported(path):
        pieces = name.split('.')
        if pieces[0] == 'paddleseg_ext' and len(pieces) > 1 and pieces[1] != '__version__':
            parts.add(pieces[1])
    return parts - {part_of(path)}


by_file = pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(PACKAGE)))


def test_every_part_is_in_the_table():
    unknown = {part_of(path) for path in FILES} - set(MAY_IMPORT)
    assert not unknown, f'say in MAY_IMPORT what {sorted(unknown)} may import'


def test_the_table_itself_has_no_circle():
    seen: list[str] = []
    waiting = dict(MAY_IMPORT)
    while waiting:
        free = [part for part, others in waiting.items() if not others & set(waiting)]
        assert free, f'these import each other in a circle: {sorted(waiting)}'
        seen += free
        waiting = {part: others for part, others in waiting.items() if part not in free}
    assert not any('cli' in others for part, others in MAY_IMPORT.items() if part != '__main__')


@by_file
def test_imports_keep_to_the_layers(path):
    part = part_of(path)
    wrong = own_parts(path) - MAY_IMPORT[part]
    assert not wrong, f'{part} may not import {sorted(wrong)}'


@by_file
def test_frameworks_keep_to_their_parts(path):
    part = part_of(path)
    used = {name.split('.')[0] for name, _ in imported(path)} & HEAVY
    allowed = FRAMEWORKS.get(part, HEAVY - {'torch'})
    assert used <= allowed, f'{part} may not import {sorted(used - allowed)}'


@by_file
def test_torch_is_imported_in_one_function_only(path):
    tree = ast.parse(path.read_text())
    holders = [function.name for function in ast.walk(tree) if isinstance(function, ast.FunctionDef)
               for node in ast.walk(function) if isinstance(node, (ast.Import, ast.ImportFrom))
               and 'torch' in ast.unparse(node).replace('.', ' ').split()]
    everywhere = [name for name, _ in imported(path) if name.split('.')[0] == 'torch']
    assert len(holders) == len(everywhere) <= 1
    if holders:
        assert str(path.relative_to(PACKAGE)) == TORCH_FILE


@by_file
def test_light_parts_stay_light(path):
    if part_of(path) not in LIGHT:
        return
    heavy = {name.split('.')[0] for name, _ in imported(path, top_level_only=True)} & HEAVY
    assert not heavy, f'--help would import {sorted(heavy)}: import it inside the function that needs it'


def test_the_command_imports_nothing_heavy():
    """The same by running it: light parts may import parts that are not."""
    verbs = sorted(path.stem for path in (PACKAGE / 'cli').glob('*.py') if path.stem != '__init__')
    program = 'import sys\n' + ''.join(f'import paddleseg_ext.cli.{verb}\n' for verb in verbs)
    program += f'print(sorted(set(sys.modules) & {HEAVY!r}))'
    ran = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == '[]'


def test_inference_reaches_no_model_code():
    """Nor through another part: what is exported runs without the sources of its model."""
    reached, waiting = set(), {'inference'}
    while waiting:
        part = waiting.pop()
        reached.add(part)
        waiting |= {other for path in FILES if part_of(path) == part for other in own_parts(path)} - reached
    assert not reached & {'models', 'backbones', 'layers', 'components', 'engine', 'export', 'checkpoints'}, reached


def functions(path: Path):
    return [node for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


@by_file
def test_house_limits(path):
    text = path.read_text()
    length = len(text.splitlines())
    assert length <= LONGEST_FILE, f'{length} lines'
    assert 'TODO' not in text and 'FIXME' not in text
    for function in functions(path):
        length = function.end_lineno - function.lineno + 1
        assert length <= LONGEST_FUNCTION, f'{function.name} has {length} lines'


@by_file
def test_no_mutable_defaults_and_every_module_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text())) or path.name == '__main__.py'
    for function in functions(path):
        defaults = [*function.args.defaults, *filter(None, function.args.kw_defaults)]
        assert not any(isinstance(default, (ast.List, ast.Dict, ast.Set)) for default in defaults), function.name


@by_file
def test_noqa_comes_with_its_reason(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        assert 'noqa' not in line or 'NOTE' in line, f'line {number}: {line.strip()}'


def test_there_is_no_folder_without_a_role():
    assert not [path for path in PACKAGE.rglob('*') if path.stem in ('utils', 'util', 'common', 'misc', 'helpers')]
