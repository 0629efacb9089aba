"""Where weights come from: local paths, addresses and the Hugging Face hub, each from a real server in a thread."""
from __future__ import annotations

import hashlib
import http.server
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from paddleseg_ext.checkpoints.sources import CACHE_VARIABLE, cache_folder, fetch
from paddleseg_ext.errors import UserError

CONTENT = bytes(range(256)) * 40
COMMIT = '0123456789abcdef0123456789abcdef01234567'


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`, path to content, with ranges; may break off `server.break_offs` answers half-way."""

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(head_only=True)

    def do_GET(self):
        self.answer()

    def answer(self, *, head_only=False):
        server = self.server
        server.requests.append((self.command, self.path, self.headers.get('Range')))
        self.path = self.path.partition('?')[0]
        content = server.files.get(self.path)
        if content is None:
            self.send_response(404)
            self.send_header('X-Error-Code', server.error_code)
            self.send_header('X-Repo-Commit', COMMIT)
            self.send_header('Content-Length', '0')
            self.end_headers()
            return
        etag = f'"{server.etags.get(self.path) or hashlib.sha256(content).hexdigest()}"'
        start = 0
        asked = re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range') or '')
        if asked and self.headers.get('If-Range', etag) == etag and server.ranges:
            start = int(asked[1])
        if start and start >= len(content):
            self.send_response(416)
            self.send_header('Content-Length', '0')
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header('Content-Range', f'bytes {start}-{len(content) - 1}/{len(content)}')
        self.send_header('Content-Length', str(len(content) - start))
        self.send_header('ETag', etag)
        self.send_header('X-Repo-Commit', COMMIT)
        self.end_headers()
        if head_only:
            return
        body = content[start:]
        if server.break_offs:
            server.break_offs -= 1
            body = body[:len(body) // 2]
        self.wfile.write(body)


@contextmanager
def serving():
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.files, server.etags, server.requests = {}, {}, []
    server.ranges, server.break_offs, server.error_code = True, 0, 'EntryNotFound'
    server.address = f'http://127.0.0.1:{server.server_port}'
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / 'cache'))
    with serving() as server:
        yield server


def leftovers(folder):
    return [path.name for path in folder.rglob('*') if path.is_file() and path.name != '.lock']


def test_the_cache_is_where_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv(CACHE_VARIABLE)
    assert cache_folder().parts[-2:] == ('.cache', 'paddleseg_ext')


def test_an_address_is_fetched_once(server):
    server.files['/some/model.pdparams'] = CONTENT
    path = fetch(server.address + '/some/model.pdparams?download=true')
    assert path.name == 'model.pdparams' and path.read_bytes() == CONTENT
    assert fetch(server.address + '/some/model.pdparams?download=true') == path
    assert len(server.requests) == 1
    assert leftovers(cache_folder()) == ['model.pdparams']


def test_what_was_whole_but_had_not_got_its_name_is_fetched_anew(server):
    server.files['/model.pdparams'] = CONTENT
    path = fetch(server.address + '/model.pdparams')
    part = path.rename(path.with_name(path.name + '.part'))
    part.with_name(part.name + '.etag').write_text(f'"{hashlib.sha256(CONTENT).hexdigest()}"')
    assert fetch(server.address + '/model.pdparams').read_bytes() == CONTENT
    assert [asked for _, _, asked in server.requests] == [None, f'bytes={len(CONTENT)}-', None]
    assert leftovers(cache_folder()) == ['model.pdparams']


def test_the_same_name_at_two_addresses_is_two_files(server):
    server.files.update({'/slim/model.pdparams': b'slim', '/base/model.pdparams': b'base'})
    assert fetch(server.address + '/slim/model.pdparams').read_bytes() == b'slim'
    assert fetch(server.address + '/base/model.pdparams').read_bytes() == b'base'


def test_a_broken_connection_is_continued(server):
    server.files['/model.pth'] = CONTENT
    server.break_offs = 2
    assert fetch(server.address + '/model.pth').read_bytes() == CONTENT
    half, three_quarters = len(CONTENT) // 2, len(CONTENT) * 3 // 4
    assert [asked for _, _, asked in server.requests] == [None, f'bytes={half}-', f'bytes={three_quarters}-']


def test_a_download_is_continued_by_the_next_call(server):
    server.files['/model.pth'] = CONTENT
    server.break_offs = 3
    text = r'model\.pth could not be fetched \(the connection ended after \d+ of \d+ bytes\); try again, which'
    with pytest.raises(UserError, match=text):
        fetch(server.address + '/model.pth')
    assert 'model.pth' not in leftovers(cache_folder())
    assert fetch(server.address + '/model.pth').read_bytes() == CONTENT
    assert server.requests[-1][2] == f'bytes={len(CONTENT) * 7 // 8}-'
    assert leftovers(cache_folder()) == ['model.pth']


def test_a_file_that_changed_meanwhile_is_fetched_anew(server):
    server.files['/model.pth'] = CONTENT
    server.break_offs = 3
    with pytest.raises(UserError, match='could not be fetched'):
        fetch(server.address + '/model.pth')
    server.files['/model.pth'] = CONTENT[::-1]
    assert fetch(server.address + '/model.pth').read_bytes() == CONTENT[::-1]


def test_a_server_without_ranges_starts_over(server):
    server.files['/model.pth'] = CONTENT
    server.ranges, server.break_offs = False, 2
    assert fetch(server.address + '/model.pth').read_bytes() == CONTENT


def hashed_name(content, *, date='20220308'):
    return f'/alt_gvt_small_{date}-{hashlib.sha256(content).hexdigest()[:8]}.pth'


def test_a_name_with_its_checksum_is_checked(server):
    name = hashed_name(CONTENT)
    server.files[name] = CONTENT
    assert fetch(server.address + name).read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(server):
    name = hashed_name(b'what it should be')
    server.files[name] = CONTENT
    with pytest.raises(UserError, match=rf'did not arrive as its name says: its SHA-256 begins with '
                                        rf'{hashlib.sha256(CONTENT).hexdigest()[:8]}, but should with'):
        fetch(server.address + name)
    assert leftovers(cache_folder()) == []
    server.files[name] = b'what it should be'
    assert fetch(server.address + name).read_bytes() == b'what it should be'


@pytest.mark.parametrize('name', ['/twins-20220308.pth', '/svt-small.pth', '/model-1234567.pth'])
def test_dates_and_words_are_no_checksums(server, name):
    server.files[name] = CONTENT
    assert fetch(server.address + name).read_bytes() == CONTENT


def test_what_the_server_does_not_have_says_what_to_do(server):
    text = r'nothing\.pth could not be fetched: the server answered 404 Not Found; check the address, or download'
    with pytest.raises(UserError, match=text):
        fetch(server.address + '/nothing.pth')


def test_a_server_that_is_not_there_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    with serving() as server:
        address = server.address
    with pytest.raises(UserError, match=r'could not be fetched \(.*refused.*\); try again'):
        fetch(address + '/model.pth')


def test_processes_that_want_the_same_file_fetch_it_once(server):
    server.files['/model.pth'] = CONTENT
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch(server.address + '/model.pth').read_bytes()))
               for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT] * 4 and len(server.requests) == 1


def test_other_addresses_are_refused():
    text = 'ftp://host/model.pth is no address that weights are fetched from; give one with https://, or a path'
    with pytest.raises(UserError, match=text):
        fetch('ftp://host/model.pth')


def test_a_path_is_itself(tmp_path, monkeypatch):
    file = tmp_path / 'timm' / 'some_name'
    file.parent.mkdir()
    file.write_bytes(b'')
    assert fetch(str(file)) == file
    monkeypatch.chdir(tmp_path)
    assert fetch('timm/some_name').resolve() == file, 'a file that is there goes before the hub'


# A process of its own, because huggingface_hub reads its environment when it is imported. A name a line goes in.
HUB = '''
import sys
from paddleseg_ext.checkpoints.sources import fetch
for line in sys.stdin:
    try:
        answer = "got " + fetch(line.strip()).read_bytes()[:20].hex()
    except ValueError as error:
        answer = f"{type(error).__name__} {error}".replace(chr(10), " ")
    print("answer", answer, flush=True)
'''


@contextmanager
def hub_process(server, folder, **environment):
    environment = {**os.environ, 'HF_ENDPOINT': server.address, 'HF_HUB_CACHE': str(folder), 'HF_HUB_DISABLE_XET': '1',
                   'HF_HUB_DISABLE_TELEMETRY': '1', 'HF_HUB_DISABLE_PROGRESS_BARS': '1', **environment}
    with subprocess.Popen([sys.executable, '-c', HUB], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          env=environment) as process:
        def ask(name):
            print(name, file=process.stdin, flush=True)
            return next(line for line in process.stdout if line.startswith('answer ')).split(' ', 1)[1].strip()

        yield ask
        process.stdin.close()


@pytest.fixture(scope='module')
def hub(tmp_path_factory):
    """A hub, its folder of kept files, and a function from a name to what a process got for it."""
    folder = tmp_path_factory.mktemp('hub')
    with serving() as server, hub_process(server, folder) as ask:
        yield server, folder, ask


def hub_path(name, file):
    return f'/{name}/resolve/main/{file}'


def got(content):
    return f'got {content[:20].hex()}'


def test_the_hub_gives_safetensors_else_the_older_file_and_keeps_them(hub):
    server, folder, ask = hub
    name, older = 'timm/twins_new.in1k', 'timm/twins_old.in1k'
    server.files = {hub_path(name, 'model.safetensors'): CONTENT, hub_path(older, 'pytorch_model.bin'): CONTENT[::-1]}
    assert ask(name) == got(CONTENT)
    assert ask(older) == got(CONTENT[::-1])
    assert [path for command, path, _ in server.requests if command == 'GET'] == list(server.files)
    server.requests.clear()
    with hub_process(server, folder, HF_HUB_OFFLINE='1') as ask_offline:
        assert ask_offline(name) == got(CONTENT), 'kept, so that it works without a network'
        answer = ask_offline('timm/never_fetched.in1k')
    assert server.requests == []
    assert answer.startswith('UserError timm/never_fetched.in1k could not be fetched from the Hugging Face hub (')
    assert answer.endswith('download model.safetensors by other means and give the path of the file.')


def test_the_hubs_errors_say_what_to_do(hub):
    server, _, ask = hub
    server.error_code = 'RepoNotFound'
    assert ask('timm/twins_svt_small') == (
        'UserError timm/twins_svt_small is neither a file here nor a model on the Hugging Face hub; timm\'s names '
        'there carry a tag, as in timm/twins_svt_small.in1k.')
    server.error_code = 'EntryNotFound'
    assert 'timm/empty.in1k on the Hugging Face hub has neither model.safetensors nor pytorch_model.bin' in ask(
        'timm/empty.in1k')
    assert ask('timm/a/b').startswith('UserError timm/a/b could not be fetched from the Hugging Face hub')


def test_what_the_hub_sends_is_checked(hub):
    server, _, ask = hub
    name = 'timm/twins_damaged.in1k'
    path = hub_path(name, 'model.safetensors')
    server.files[path] = CONTENT
    server.etags[path] = hashlib.sha256(b'what it should be').hexdigest()
    assert ask(name) == (f'UserError {name} did not arrive whole: its SHA-256 is not {server.etags[path]}; the damaged '
                         'copy is removed, try again.')
    del server.etags[path]
    assert ask(name) == got(CONTENT)


def test_a_broken_connection_to_the_hub_is_taken_up_again(hub):
    server, _, ask = hub
    name = 'timm/twins_broken.in1k'
    server.files[hub_path(name, 'model.safetensors')] = CONTENT
    server.break_offs = 1
    server.requests.clear()
    assert ask(name) == got(CONTENT)
    assert [command for command, _, _ in server.requests] == ['HEAD', 'GET', 'GET']
