"""One file from the web: resumed where a transfer broke off, checked, and renamed when it is whole."""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path

_TRIES = 5  # transfers of a file from one address, each from where the one before broke off
_PIECE = 2**18  # bytes
_SECONDS = 30  # without a byte


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(
    urls: Iterable[str],
    path: Path,
    sha256: str | None = None,
    report: Callable[[int], None] = lambda _: None,
    wait: float = 1.0,
) -> Path:
    """Download a file to `path`, which is there when it is whole and not before.

    What has come is kept beside it as NAME.part, and the next transfer, also that of a later call, asks for the rest by
    a Range request. A server that does not know these sends all of it again.

    Args:
      urls: addresses of the same file, tried in turn.
      path: where it belongs; its folder is made.
      sha256: the file's; None where it is not known.
      report: called with the number of bytes of the file that are there, again and again.
      wait: seconds before the second transfer, twice as many before each further one.

    Returns:
      `path`.

    Raises:
      ConnectionError: if no address gives the whole file.
      ValueError: if the file has another checksum; what has come is deleted.
    """
    part, said = path.with_name(path.name + ".part"), []
    path.parent.mkdir(parents=True, exist_ok=True)
    for url in urls:
        for attempt in range(_TRIES):
            resumed = part.exists()
            try:
                _transfer(url, part, report)
            except urllib.error.HTTPError as error:
                said.append(f"{url}: {error.code} {error.reason}")
                if error.code not in (408, 429) and error.code < 500:
                    break
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", None) or error
                said.append(f"{url}: {reason}")
                if isinstance(reason, socket.gaierror):  # without a network
                    break
            else:
                found = sha256_of(part)
                if sha256 in (None, found):
                    os.replace(part, path)
                    return path
                part.unlink()
                said.append(f"{url}: SHA-256 {found[:12]}..., expected {sha256[:12]}...")
                if not resumed:  # what was resumed may have been begun with another file
                    break
            if attempt < _TRIES - 1:
                time.sleep(wait * 2**attempt)
    told = "; ".join(dict.fromkeys(said))
    if "SHA-256" in said[-1]:
        raise ValueError(f"{path.name} is not the file that is known ({told}): nothing of it was kept.")
    raise ConnectionError(
        f"{path.name} cannot be downloaded ({told}): the same command again resumes it; or download it by hand, and "
        "give it by --from."
    )


def _transfer(url: str, part: Path, report: Callable[[int], None]) -> None:
    """Append to `part` what is missing of the file at an address.

    Raises:
      OSError, http.client.HTTPException: if the transfer breaks off.
    """
    done = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "otgen", **({"Range": f"bytes={done}-"} if done else {})}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416:
            raise
        if error.headers.get("Content-Range") == f"bytes */{done}":  # all of it had come
            return report(done)
        raise _of_another(part) from None
    with answer:
        if answer.status != 206:  # Range requests are not known there
            done = 0
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            raise _of_another(part)
        with open(part, "r+b" if done else "wb") as file:
            report(file.seek(done))
            while piece := answer.read(_PIECE):
                file.write(piece)
                report(file.tell())
            came, length = file.tell(), answer.headers.get("Content-Length")
    if length is not None and came < done + int(length):
        raise ConnectionResetError(f"the connection ended after {came:,} of {done + int(length):,} bytes")


def _of_another(part: Path) -> OSError:
    part.unlink()
    return ConnectionResetError("the part that was kept does not fit the file, and was given up")
