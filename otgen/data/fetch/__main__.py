"""Fetch data sets and weights: `python -m otgen.data.fetch --list`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from otgen.data.fetch import ENTRIES, fetch, held

_ABOUT = """Download data sets and feature weights, and make of them the files that otgen reads. Every file is checked
where its SHA-256 is known, an interrupted download goes on where it broke off, and what is there already is kept."""


def main(words: Sequence[str] | None = None) -> None:
    """Read the options from the command line, fetch, and say what is where; errors in one line."""
    parser = argparse.ArgumentParser("python -m otgen.data.fetch", description=_ABOUT)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of {', '.join(ENTRIES)}")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the data; OTGEN_DATA if not given")
    parser.add_argument(
        "--from",
        dest="given",
        nargs="+",
        default=(),
        metavar="FILE",
        help="files downloaded by hand, or a folder or archive that holds them: nothing is downloaded",
    )
    parser.add_argument("--list", action="store_true", help="show what there is, and what is in the folder already")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in the folder already")
    parser.add_argument("--no-verify", action="store_true", help="take files of other checksums all the same")
    parser.add_argument("--no-progress", action="store_true", help="show no progress bar")
    options = parser.parse_args(words)
    data_dir = options.data_dir or os.environ.get("OTGEN_DATA")
    if options.list or not options.names:
        print(listing(data_dir))
        return
    names = [name.replace("-", "_") for name in options.names]
    try:
        if not data_dir:
            raise ValueError("give --data-dir, or set OTGEN_DATA: the folder that is to hold the data.")
        if options.given and len(names) > 1:
            raise ValueError(f"--from is for one name, not {' and '.join(names)}: give the others afterwards.")
        for name in names:
            rest = {"verify": not options.no_verify, "progress": not options.no_progress}
            for path in fetch(name, data_dir, options.given, overwrite=options.overwrite, **rest):
                print(f"{name}: {path}")
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("\ninterrupted; the same command goes on") from None


def listing(data_dir: str | None) -> str:
    """Return a line for each entry: name, download, whether it is there, licence, origin."""
    rows = [("NAME", "DOWNLOAD", "THERE", "LICENCE", "ORIGIN")]
    for name, entry in ENTRIES.items():
        there = ("yes" if held(name, data_dir) else "no") if data_dir else "-"
        rows.append((name, f"{entry.size / 1e6:.1f} MB", there, entry.licence, entry.origin))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


if __name__ == "__main__":
    main()
