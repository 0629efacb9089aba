"""Atomic writes: whole, or not at all, whatever happens in the middle."""
from __future__ import annotations

import os
import stat

import pytest

from paddleseg_ext.files import (
    atomic_folder,
    atomic_path,
    atomic_write_bytes,
    atomic_write_text,
    finish_interrupted_writes,
)


@pytest.fixture
def umask():
    previous = os.umask(0o027)
    yield
    os.umask(previous)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_text_and_bytes(tmp_path):
    atomic_write_text(tmp_path / 'deep' / 'er' / 'a.txt', 'grün\n')
    assert (tmp_path / 'deep' / 'er' / 'a.txt').read_text(encoding='utf-8') == 'grün\n'
    atomic_write_bytes(str(tmp_path / 'b'), b'1')
    atomic_write_bytes(tmp_path / 'b', b'22')
    assert (tmp_path / 'b').read_bytes() == b'22'
    assert names(tmp_path) == ['b', 'deep']


def test_a_path_keeps_its_suffix_and_folder_until_it_is_whole(tmp_path):
    target = tmp_path / 'curve.png'
    with atomic_path(target) as temporary:
        assert (temporary.suffix, temporary.parent) == ('.png', tmp_path)
        temporary.write_bytes(b'x')
        assert not target.exists()
    assert names(tmp_path) == ['curve.png']


def test_a_failure_leaves_the_old_file(tmp_path):
    target = tmp_path / 'a.txt'
    target.write_text('old')
    with pytest.raises(RuntimeError, match='disk on fire'), atomic_path(target) as temporary:
        temporary.write_text('new')
        raise RuntimeError('disk on fire')
    assert target.read_text() == 'old' and names(tmp_path) == ['a.txt']


def test_rights_are_those_of_the_umask(tmp_path, umask):
    atomic_write_text(tmp_path / 'a.txt', '')
    with atomic_folder(tmp_path / 'folder') as temporary:
        (temporary / 'b.txt').write_text('')
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ('a.txt', 'folder', 'folder/b.txt')]
    assert modes == [0o640, 0o750, 0o640]


def test_a_folder_replaces_the_old_one_whole(tmp_path):
    for number in range(2):
        with atomic_folder(tmp_path / 'run' / 'iter_1') as temporary:
            (temporary / f'{number}.txt').write_text(str(number))
    assert names(tmp_path / 'run') == ['iter_1']
    assert names(tmp_path / 'run' / 'iter_1') == ['1.txt']


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_folder(tmp_path, error):
    target = tmp_path / 'iter_1'
    target.mkdir()
    (target / 'old.txt').write_text('old')
    with pytest.raises(error), atomic_folder(target) as temporary:
        (temporary / 'new.txt').write_text('new')
        raise error
    assert names(tmp_path) == ['iter_1'] and names(target) == ['old.txt']


def test_what_a_killed_process_left_is_put_right(tmp_path):
    for name in ('iter_1', '.iter_1.old.abc', '.best_model.old.xyz', '.best_model.new.xyz', '.iter_2.new.def'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'model.pdparams').write_text(name)
    (tmp_path / '.hidden.txt').write_text('')
    finish_interrupted_writes(tmp_path)
    assert names(tmp_path) == ['.hidden.txt', 'best_model', 'iter_1']
    assert (tmp_path / 'best_model' / 'model.pdparams').read_text() == '.best_model.old.xyz'
    assert (tmp_path / 'iter_1' / 'model.pdparams').read_text() == 'iter_1'
