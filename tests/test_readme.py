"""The documents tell the truth: commands run, tables are those the code makes, links lead somewhere."""
from __future__ import annotations

import json
import os
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from paddleseg_ext import environment
from scripts import demo, write_docs

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / 'README.md'
DOCUMENTS = [README, ROOT / 'CONTRIBUTING.md', ROOT / 'CHANGELOG.md', *sorted((ROOT / 'docs').glob('*.md'))]
# What makes a command of a document small enough for a test; argparse takes the last of two flags.
SMALLER = {
    'data synth': '--train 4 --val 2 --width 96 --height 64',
    'train': '--batch_size 2 --iters 2',
    'train --resume_model': '--batch_size 2 --iters 3',
}
SMALLER_OPTS = {'train': 'lr_scheduler.warmup_iters=1', 'train --resume_model': 'lr_scheduler.warmup_iters=1'}
# Lines that other tests run.
COVERED = {
    'make demo': 'test_demo.py',
    'make test': 'this very run',
    "pip install '.[cpu]' -c constraints.txt": 'test_packaging.py',
    'pip install . -c constraints.txt': 'test_packaging.py',
    'paddleseg convert ours.pdparams ours.safetensors': 'test_twins_parity.py, after the Python lines before it',
    'pip install paddlepaddle-gpu==3.2.2 -i https://www.paddlepaddle.org.cn/packages/stable/cu126/': 'Paddle\'s own',
}


def blocks(document, language):
    return re.findall(rf'^```{language}\n(.*?)^```$', document.read_text(encoding='utf-8'), re.DOTALL | re.MULTILINE)


def commands(document):
    return [line for block in blocks(document, 'bash') for line in block.splitlines()]


def smaller(line):
    words = shlex.split(line)[1:]
    kind = ' '.join(words[:2]) if words[0] == 'data' else words[0]
    if kind == 'train' and '--resume_model' in words:
        kind = 'train --resume_model'
    line, _, opts = line.partition(' --opts ')
    opts = f'{opts} {SMALLER_OPTS.get(kind, "")}'.strip()
    return f'{line} {SMALLER.get(kind, "")}'.strip() + (f' --opts {opts}' if opts else '')


def run_lines(lines, folder):
    return subprocess.run([sys.executable, ROOT / 'tests/run_lines.py'], input=json.dumps(lines), text=True, cwd=folder,
                          capture_output=True, timeout=600, env=with_checkout())


def with_checkout(**changes):
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    return {**os.environ, 'PYTHONPATH': paths, **changes}


def write_files(document, folder):
    """Write the YAML blocks that begin with a file's name."""
    for block in blocks(document, 'yaml'):
        name = re.match(r'# (\S+\.yml)\n', block)
        if name:
            (folder / name[1]).write_text(block, encoding='utf-8')


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: path.name)
def test_commands_run(document, tmp_path):
    lines = [line for line in commands(document) if line.startswith('paddleseg ') and line not in COVERED]
    if not lines:
        return
    write_files(document, tmp_path)
    done = run_lines([smaller(line) for line in lines], tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count('$ paddleseg ') == len(lines)


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: path.name)
def test_other_commands_are_known(document):
    others = [line for line in commands(document) if not line.startswith('paddleseg ')]
    assert [line for line in others if line not in COVERED and 'distributed.launch' not in line] == []
    targets = re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(encoding='utf-8'), re.MULTILINE)
    text = document.read_text(encoding='utf-8')
    assert set(re.findall(r'`make ([a-z-]+)`', text)) <= set(targets)


@pytest.mark.slow
def test_several_devices(tmp_path):
    [line] = [line for line in commands(README) if 'distributed.launch' in line]
    write_files(README, tmp_path)
    assert run_lines(['paddleseg data synth --save_dir my_data ' + SMALLER['data synth']], tmp_path).returncode == 0
    program = tmp_path / 'bin/paddleseg'
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m paddleseg_ext "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    words = shlex.split(line.replace('--gpus 0,1,2,3', '--nproc_per_node 2')) + shlex.split(
        f'--device cpu {SMALLER["train"]} --opts {SMALLER_OPTS["train"]}')
    path = f'{program.parent}:{with_checkout()["PATH"]}'
    done = subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=900,
                          env=with_checkout(PATH=path))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / 'output/street4/best_model/model.pdparams').exists()


def test_generated_parts_are_up_to_date():
    """`make docs` writes them."""
    old = [path.name for path, text in write_docs.documents().items()
           if not path.exists() or path.read_text(encoding='utf-8') != text]
    assert old == []


def test_generator_wants_its_markers():
    with pytest.raises(ValueError, match='0 places marked <!-- models:begin'):
        write_docs.fill('no markers', {'models': 'table'})


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    text = document.read_text(encoding='utf-8')
    links = [link for link in re.findall(r'\]\(([^)#]+)\)', text) if '://' not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []
    named = re.findall(r'`((?:tests|scripts|docs|deploy|configs|paddleseg_ext)/[\w/.-]+)`', text)
    assert [path for path in named if '<' not in path and not (ROOT / path).exists()] == []


def test_numbers_are_those_of_the_code():
    text = README.read_text(encoding='utf-8')
    project = (ROOT / 'pyproject.toml').read_text(encoding='utf-8')
    assert f'unless the validation mIoU reaches {demo.REQUIRED_MIOU:.2f}' in text
    assert f'PaddleSeg {environment.PADDLESEG_VERSION}' in text
    for extra, words in (('cpu', '`[cpu]` brings paddlepaddle '), ('gpu', '`[gpu]` brings paddlepaddle-gpu ')):
        version = re.search(rf'^{extra} = \["paddlepaddle[-a-z]*==([\d.]+)"\]', project, re.MULTILINE)[1]
        assert words + version in text
    first, last = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', project).groups()
    assert f'Python 3.{first} to 3.{int(last) - 1}' in text


def test_picture_is_small():
    assert (ROOT / 'docs/pictures/scenes.jpg').stat().st_size < 250_000


def test_versions_of_paddle_are_listed():
    table = README.read_text(encoding='utf-8').split('<!-- versions:begin -->')[1].split('<!-- versions:end -->')[0]
    assert re.findall(r'^\| (\d+\.\d+\.\d+)', table, re.MULTILINE) == sorted(environment.TESTED_PADDLE, reverse=True)
