"""Lets timm and mmsegmentation be imported without torchvision and mmcv's compiled operators.

They import names from both that the architectures compared here never call. Each such name becomes an empty class,
which raises when it is called, so that nothing is compared that ran through a stand-in.
"""
from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types

__all__ = ['install']

ABSENT = ('torchvision', 'mmcv.ops', 'mmcv._ext')


class _Empty(type):
    """Type of the stand-ins: an attribute is its own name, and a call is refused."""

    def __getattr__(cls, name: str):
        if name.startswith('__'):
            raise AttributeError(name)
        return name

    def __call__(cls, *arguments, **named):
        raise NotImplementedError(f'{cls.__module__}.{cls.__name__} is a stand-in without function.')


class _Module(types.ModuleType):
    __path__: list[str] = []

    def __getattr__(self, name: str):
        if name.startswith('__'):
            raise AttributeError(name)
        return _Empty(name, (), {'__module__': self.__name__})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        stands_in = any(name == absent or name.startswith(absent + '.') for absent in ABSENT)
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if stands_in else None

    def create_module(self, spec):
        return _Module(spec.name)

    def exec_module(self, module):
        pass


def install() -> None:
    """Let every module of ABSENT be imported from here on."""
    sys.meta_path.insert(0, _Finder())
