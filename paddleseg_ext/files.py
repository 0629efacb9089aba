"""Atomic writes: a file or folder is there whole, or not at all.

Everything is written beside its destination, flushed to the disk and renamed, so a process that is killed in the
middle leaves the old content untouched.
"""
from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Union

__all__ = ['atomic_folder', 'atomic_path', 'atomic_write_bytes', 'atomic_write_text', 'finish_interrupted_writes']

PathLike = Union[str, Path]


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _readable_by_umask(path: str, mode: int) -> None:
    # NOTE: tempfile makes private files; what we leave behind has the rights that open() would have given.
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(path, mode & ~mask)


@contextlib.contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Yield a temporary path with the suffix of `path`; when the block succeeds it is renamed to `path`."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f'.{target.stem}.', suffix=target.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _readable_by_umask(name, 0o666)
        _flush(temporary)
        os.replace(temporary, target)
        _flush(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write_bytes(path: PathLike, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def atomic_write_text(path: PathLike, content: str) -> None:
    atomic_write_bytes(path, content.encode('utf-8'))


@contextlib.contextmanager
def atomic_folder(path: PathLike) -> Iterator[Path]:
    """Yield an empty temporary folder; when the block succeeds it takes the place of the folder `path`.

    An old folder is moved aside first and removed last, so at every moment one complete copy exists;
    `finish_interrupted_writes` gives it its name back if the process was killed between the two moves.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f'.{target.name}.new.'))
    aside = temporary.with_name(temporary.name.replace('.new.', '.old.', 1))
    try:
        yield temporary
        _readable_by_umask(str(temporary), 0o777)
        for file in temporary.rglob('*'):
            if file.is_file():
                _flush(file)
        if target.exists():
            os.replace(target, aside)
        os.replace(temporary, target)
        _flush(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


def finish_interrupted_writes(folder: PathLike) -> None:
    """Put right what a process killed inside `atomic_folder` left in `folder`, where no other may be writing."""
    for aside in Path(folder).glob('.*.old.*'):
        target = aside.with_name(aside.name[1:].rsplit('.old.', 1)[0])
        if target.exists():
            shutil.rmtree(aside)
        else:
            os.replace(aside, target)
    for temporary in Path(folder).glob('.*.new.*'):
        shutil.rmtree(temporary)
