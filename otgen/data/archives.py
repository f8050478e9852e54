"""Images in archives, read in memory: nothing is unpacked, and what could not be unpacked safely is refused."""

from __future__ import annotations

import functools
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from otgen.data.items import Item

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
ARCHIVE_ENDINGS = (".tar", ".tar.xz", ".txz", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".zip")
MOST_BYTES = 2**29  # of one image


def is_image(name: str) -> bool:
    """Return whether a file is taken for an image: by its ending, and not hidden."""
    parts = name.split("/")
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and parts[-1].lower().endswith(IMAGE_ENDINGS)


def members(path: Path) -> Iterator[Item]:
    """Yield the images in an archive in their order there; each is to be decoded before the next is asked for.

    Raises:
      ValueError: for a damaged or encrypted archive, links, and names that leave its folder.
    """
    try:
        yield from _of_zip(path) if path.name.lower().endswith(".zip") else _of_tar(path)
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        told = str(error).partition("\n")[0].rstrip(":")
        raise ValueError(f"{path} cannot be read ({told}): it is truncated or damaged; fetch it again.") from error


def _of_tar(path: Path) -> Iterator[Item]:
    with tarfile.open(path) as archive:
        for member in archive:
            name = _inside(path, member.name)
            if member.issym() or member.islnk():
                raise _is_link(path, name)
            if member.isfile() and is_image(name):
                yield Item(name, functools.partial(_read, archive.extractfile(member).read, member.size))


def _of_zip(path: Path) -> Iterator[Item]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = _inside(path, member.filename)
            if stat.S_ISLNK(member.external_attr >> 16):
                raise _is_link(path, name)
            if member.is_dir() or not is_image(name):
                continue
            if member.flag_bits & 1:
                raise ValueError(f"{path} is encrypted: unpack it, and give the folder.")
            yield Item(name, functools.partial(_read, functools.partial(archive.read, member), member.file_size))


def _inside(path: Path, name: str) -> str:
    """Return the name of a member, "/" between its folders; refuse those that would be written outside its folder."""
    told = name.replace("\\", "/")
    if told.startswith("/") or ".." in told.split("/"):
        raise ValueError(f"{path} has a member {name!r}, which leaves its folder: pack it again, from inside of it.")
    return PurePosixPath(told).as_posix()


def _is_link(path: Path, name: str) -> ValueError:
    return ValueError(f"{path} has a member {name!r}, which is a link: pack the files themselves (tar --dereference).")


def _read(read: Callable[[], bytes], size: int) -> bytes:
    """Return the bytes of a member; never more than its stated size, which is held against the largest."""
    if size > MOST_BYTES:
        raise ValueError(f"{size:,} bytes, more than the {MOST_BYTES:,} of any image")
    return read()
