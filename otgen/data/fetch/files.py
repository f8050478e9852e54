"""From an entry of the catalogue to the files that otgen reads."""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from otgen import optional
from otgen.data.archives import ARCHIVE_ENDINGS
from otgen.data.fetch.catalogue import ENTRIES, Entry
from otgen.data.fetch.download import download, sha256_of
from otgen.ot.check import as_path, require_choice

_ASIDE = ".fetch"  # below the folder of a set, for what is not whole yet


def held(name: str, data_dir: str | os.PathLike) -> list[Path]:
    """Return the files or the folder that otgen reads for an entry; none if it is to be fetched.

    Args:
      name: one of `ENTRIES`.
      data_dir: the folder of the data.

    Example:
      >>> from otgen.data.fetch import held
      >>> print(held("mnist", "no such folder"))
      []
    """
    entry = _entry(name)
    folder = as_path("data_dir", data_dir) / entry.folder
    made = [folder / file for file in entry.makes]
    if all(file.is_file() for file in made):
        return made
    prepared = [file.parent for file in folder.glob("**/dataset_info.json")]  # by TFDS
    if name == "cifar10" and folder.is_dir():
        prepared += sorted(it for it in folder.iterdir() if it.name.endswith(ARCHIVE_ENDINGS) or it.name == "train")
    return prepared[:1]


def fetch(
    name: str,
    data_dir: str | os.PathLike,
    given: Sequence[str | os.PathLike] = (),
    *,
    verify: bool = True,
    overwrite: bool = False,
    progress: bool = True,
    urls: dict[str, tuple[str, ...]] | None = None,
) -> list[Path]:
    """Fetch a data set or weights, and make of it the files that otgen reads; they are there when they are whole.

    A call that was interrupted is continued by the same call. What is there already is checked and kept.

    Args:
      name: one of `ENTRIES`.
      data_dir: the folder of the data; it is made.
      given: files downloaded by hand, or folders or archives that hold them, instead of a download.
      verify: check what is known of checksums.
      overwrite: replace what is there.
      progress: show a bar.
      urls: other addresses than those of the catalogue, by the name of the file.

    Returns:
      What is read.

    Raises:
      ValueError: for an unknown name, files that cannot be converted or have another checksum.
      ConnectionError: if a file cannot be downloaded.
      FileNotFoundError: if a file is not in what was given.
    """
    entry = _entry(name)
    folder = as_path("data_dir", data_dir) / entry.folder
    there = [] if overwrite else held(name, data_dir)
    if there:
        for file in there if verify else ():
            if file.name in entry.makes:
                _check(file, entry.makes[file.name], "move it away, or --overwrite it")
        return there
    aside = folder / _ASIDE
    if given:
        files = _given(entry, [as_path("given", it) for it in given], aside)
        for published in entry.files if verify else ():
            _check(files[published.name], published.sha256, "fetch it again; --no-verify takes it all the same")
    else:
        files = _downloaded(name, entry, aside, verify, progress, urls or {})
    made = aside / "made"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    try:
        entry.convert(files, made)
        for file, sha256 in entry.makes.items() if verify else ():
            told = f"it was made of {', '.join(str(it) for it in list(files.values())[:3])}"
            _check(made / file, sha256, f"{told}; --no-verify takes it all the same, and scores may differ")
    except ValueError:
        shutil.rmtree(aside)  # a download that is no good is not resumed
        raise
    for file in entry.makes:
        os.replace(made / file, folder / file)
    shutil.rmtree(aside)
    return [folder / file for file in entry.makes]


def _entry(name: str) -> Entry:
    require_choice("name", name, tuple(ENTRIES))
    return ENTRIES[name]


def _check(file: Path, sha256: str | None, remedy: str) -> None:
    found = sha256 and sha256_of(file)
    if found != sha256:
        raise ValueError(
            f"{file.name} is not the file that is known: its SHA-256 is {found[:12]}..., expected {sha256[:12]}...; "
            f"{remedy}."
        )


def _downloaded(
    name: str, entry: Entry, aside: Path, verify: bool, progress: bool, urls: dict[str, tuple[str, ...]]
) -> dict[str, Path]:
    """Download what has not been downloaded, all under one bar."""
    files, before = {}, 0
    with _bar(name, entry.size, progress) as bar:
        for published in entry.files:
            path = aside / published.name
            if not path.exists():
                addresses = urls.get(published.name, published.urls)
                report = (lambda done, before=before: bar.update(before + done - bar.n)) if bar is not None else _silent
                download(addresses, path, published.sha256 if verify else None, report)
            before += path.stat().st_size
            files[published.name] = path
    return files


def _silent(done: int) -> None:
    del done


@contextlib.contextmanager
def _bar(name: str, size: int, enabled: bool) -> Iterator[Any]:
    if not enabled:
        yield None
        return
    with optional.imports():
        from tqdm.auto import tqdm

    with tqdm(total=size, desc=name, unit="B", unit_scale=True, dynamic_ncols=True) as bar:
        yield bar


def _given(entry: Entry, given: list[Path], aside: Path) -> dict[str, Path]:
    """Find the files of an entry among those given, in folders, and in archives, of which they are unpacked."""
    for place in given:
        if not place.exists():
            raise FileNotFoundError(f"{place}: nothing is there; give {_wanted(entry)}.")
    if len(entry.files) == len(given) == 1 and given[0].is_file():
        return {entry.files[0].name: given[0]}
    names, found = {it.name for it in entry.files}, {}
    for place in given:
        if place.is_dir():
            found |= {_named(it): it for it in sorted(place.rglob("*")) if _named(it) in names and it.is_file()}
        elif _named(place) in names:
            found[_named(place)] = place
        else:
            found |= _unpacked(place, names, aside / "given")
    if missing := sorted(names - set(found)):
        told = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
        raise FileNotFoundError(f"{told}: not in {', '.join(map(str, given))}; give {_wanted(entry)}.")
    return {it.name: found[it.name] for it in entry.files}


def _named(path: Path) -> str:
    """Return the name of the file that a file stands for: of weights also in safetensors."""
    return path.with_suffix(".pth").name if path.suffix == ".safetensors" else path.name


def _wanted(entry: Entry) -> str:
    names = [it.name for it in entry.files]
    told = ", ".join(names) if len(names) <= 4 else f"{names[0]}, {names[1]} and {len(names) - 2} more"
    return f"{told} of {entry.origin}, or a folder or archive that holds all of them"


def _unpacked(path: Path, names: set[str], folder: Path) -> dict[str, Path]:
    """Unpack the members of an archive that are called so, each under its own name alone."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    try:
        with zipfile.ZipFile(path) if zipfile.is_zipfile(path) else tarfile.open(path) as archive:
            of_zip = isinstance(archive, zipfile.ZipFile)
            for member in archive.infolist() if of_zip else archive:
                name = (member.filename if of_zip else member.name).rpartition("/")[2]
                if name in names and (of_zip or member.isfile()):
                    with archive.open(member) if of_zip else archive.extractfile(member) as source:
                        found[name] = folder / name
                        found[name].write_bytes(source.read())
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} is no archive that can be read ({error}): fetch it again.") from error
    return found
