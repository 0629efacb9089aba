"""Where weights come from: files and folders here, addresses, and the Hugging Face hub, fetched once and checked."""
from __future__ import annotations

import hashlib
import http
import logging
import os
import re
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlsplit

from paddleseg_ext.checkpoints.weights import weights_file
from paddleseg_ext.errors import UserError

__all__ = ['cache_folder', 'fetch']

CACHE_VARIABLE = 'PADDLESEG_EXT_CACHE'
TIMM = 'timm/'
TIMM_FILES = ('model.safetensors', 'pytorch_model.bin')
ATTEMPTS = 3
SECONDS = 30
CHUNK = 1 << 20
# Files named after the beginning of their SHA-256, as torchvision and mmsegmentation name them; a date is none.
HASHED_NAME = re.compile(r'-(?!(?:19|20)\d{6}\.)([0-9a-f]{8,64})\.\w+$')

log = logging.getLogger('paddleseg_ext')


def fetch(source: str) -> Path:
    """The file with the weights that `source` names, downloaded if need be.

    Args:
        source: a file, a checkpoint or run folder, an `https://` or `http://` address, or `timm/<name>` for a model of
            timm on the Hugging Face hub.

    Raises:
        UserError: there is none, or it could not be fetched whole.
    """
    source = str(source)
    if re.match(r'https?://', source):
        return _from_address(source)
    if '://' in source:
        raise UserError(f'{source} is no address that weights are fetched from; give one with https://, or a path.')
    if source.startswith(TIMM) and not Path(source).exists():
        return _from_timm(source)
    return weights_file(source)


def cache_folder() -> Path:
    """Where downloads are kept: `$PADDLESEG_EXT_CACHE`, or `~/.cache/paddleseg_ext`."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / '.cache' / 'paddleseg_ext')


def _from_timm(source: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RepositoryNotFoundError
    for file in TIMM_FILES:
        try:
            path = Path(hf_hub_download(source, file))
        except RepositoryNotFoundError as error:
            raise UserError(f'{source} is neither a file here nor a model on the Hugging Face hub; timm\'s names there '
                            'carry a tag, as in timm/twins_svt_small.in1k.') from error
        except Exception as error:  # NOTE: any at all, because versions of the library raise those of other transports
            if _is_not_there(error):
                continue
            raise UserError(f'{source} could not be fetched from the Hugging Face hub ({error}); download '
                            f'{TIMM_FILES[0]} by other means and give the path of the file.') from error
        _require_whole_blob(path, source)
        return path
    raise UserError(f'{source} on the Hugging Face hub has neither {" nor ".join(TIMM_FILES)}; download its weights by '
                    'other means and give the path of the file.')


def _require_whole_blob(path: Path, source: str) -> None:
    """Compare the content with the name of its blob in the hub's cache, which for large files is their SHA-256."""
    blob = path.resolve()
    if re.fullmatch('[0-9a-f]{64}', blob.name) and _sha256(blob) != blob.name:
        blob.unlink()
        raise UserError(f'{source} did not arrive whole: its SHA-256 is not {blob.name}; the damaged copy is '
                        'removed, try again.')


def _is_not_there(error: Exception) -> bool:
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    return isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)


def _from_address(address: str) -> Path:
    """The file behind an address, from the cache or fetched into it; processes that want the same wait for one."""
    from filelock import FileLock
    name = re.sub(r'[^\w.+-]', '_', unquote(Path(urlsplit(address).path).name)).lstrip('.') or 'weights'
    folder = cache_folder() / hashlib.sha256(address.encode()).hexdigest()[:16]
    file = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / '.lock'):
        if not file.exists():
            _download(address, file)
    return file


def _download(address: str, file: Path) -> None:
    """Fetch in as many goes as it takes, continuing what an earlier one left, and give it its name only when whole."""
    part = file.with_name(file.name + '.part')
    log.info('fetching %s to %s', address, file)
    error: Exception | None = None
    for _ in range(ATTEMPTS):
        try:
            _continue(address, part)
            break
        except urllib.error.HTTPError as refusal:
            if refusal.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and part.exists():
                # NOTE: no fault of the address: there is nothing after `part`, because an earlier process ended between
                # its last byte and its new name, so this one starts over.
                _discard(part)
                error = refusal
                refusal.close()
                continue
            raise UserError(f'{address} could not be fetched: the server answered {refusal.code} {refusal.reason}; '
                            'check the address, or download the file by other means and give its path.') from refusal
        except (OSError, EOFError) as failure:
            error = failure
    else:
        raise UserError(f'{address} could not be fetched ({error}); try again, which continues where it stopped, or '
                        'download it by other means and give the path of the file.') from error
    _require_checksum(address, file.name, part)
    os.replace(part, file)
    _etag_file(part).unlink(missing_ok=True)


def _continue(address: str, part: Path) -> None:
    """Append to `part` what it lacks, or start over where the server cannot continue or has another file by now."""
    headers = {'User-Agent': 'paddleseg_ext'}
    etag_file = _etag_file(part)
    if part.exists() and etag_file.exists():
        headers.update({'Range': f'bytes={part.stat().st_size}-', 'If-Range': etag_file.read_text()})
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=SECONDS) as answer:
        continues = answer.status == 206
        if not continues:
            _discard(part)
            if answer.headers.get('ETag'):
                etag_file.write_text(answer.headers['ETag'])
        missing = answer.headers.get('Content-Length')
        written = 0
        with open(part, 'ab') as target:
            while chunk := answer.read(CHUNK):
                target.write(chunk)
                written += len(chunk)
        if missing is not None and written != int(missing):
            raise EOFError(f'the connection ended after {written} of {missing} bytes')


def _etag_file(part: Path) -> Path:
    return part.with_name(part.name + '.etag')


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _etag_file(part).unlink(missing_ok=True)


def _require_checksum(address: str, name: str, part: Path) -> None:
    expected = HASHED_NAME.search(name)
    if expected is None:
        return
    digest = _sha256(part)
    if not digest.startswith(expected.group(1)):
        _discard(part)
        raise UserError(f'{address} did not arrive as its name says: its SHA-256 begins with '
                        f'{digest[:len(expected.group(1))]}, but should with {expected.group(1)}; try '
                        'again, or download it by other means and give the path of the file.')


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
