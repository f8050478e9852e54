"""What is decided before images of one's own are prepared: split, classes, sides and channels, from a look at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from otgen import optional
from otgen.data.arrays import SPLITS
from otgen.data.decoding import Unreadable, look
from otgen.data.preparation import Preparation
from otgen.data.sources import Source

_SHOWN = 5  # faults in a message


class Plan(NamedTuple):
    """What a look at all images decides.

    Attributes:
      rows: by split, the numbers of its items in the order of its rows.
      rule: what decided on the split, in words.
      labels: of all items [n]; -1 for those left out.
      classes: names of the classes; empty where they have none.
      shape: (height, width, channels).
      skipped: by name, why an item is left out.
    """

    rows: dict[str, np.ndarray]
    rule: str
    labels: np.ndarray
    classes: list[str]
    shape: tuple[int, int, int]
    skipped: dict[str, str]


def shown(items: Iterable, what: str, options: Preparation, total: int | None = None) -> Iterator:
    """Go through items under a progress bar."""
    if not options.progress:
        return iter(items)
    with optional.imports():
        from tqdm.auto import tqdm

    return tqdm(items, what, total, delay=1, unit="image", dynamic_ncols=True)


def plan(source: Source, options: Preparation) -> Plan:
    """Look at every image, and decide.

    Rows are shuffled, so that the first n are a fair part of all, and depend on names, not on the order of a source.

    Raises:
      ValueError: for fewer than two images, one that cannot be read, and sides that differ where no size is given.
    """
    names, labels, skipped, sides, grey = [], [], {}, {}, True
    for item in shown(source.items(), "looking at images", options):
        names.append(item.name)
        labels.append(item.label)
        try:
            found = look(item, options.colour(), whole=options.on_corrupt == "skip")
        except Unreadable as error:
            if options.on_corrupt == "refuse":
                raise ValueError(f"{source.place}: {error}") from error
            skipped[item.name], names[-1] = str(error).partition(": remove or replace")[0], None
        else:
            sides.setdefault((found.height, found.width), item.name)
            grey &= found.is_grey
    good = [i for i, name in enumerate(names) if name is not None]
    _require_two(source.place, len(good), skipped)
    if options.size is None and len(sides) > 1:
        _refuse_sides(source.place, list(sides.items()))
    names = [names[i] for i in good]
    folders, numbers = _folders(names), np.full(len(labels), -1, np.int64)
    given = [labels[i] for i in good]
    told = any(label is not None for label in given)
    numbers[good], classes = _classes(source.place, given if told else [class_ for _, class_ in folders])
    parts, rule = _parts(folders, names, options)
    height, width = (options.size,) * 2 if options.size else next(iter(sides))
    shape = (height, width, options.channels or (1 if grey else 3))
    return Plan({s: np.array(good)[rows] for s, rows in parts.items()}, rule, numbers, classes, shape, skipped)


def _require_two(place: str, num: int, skipped: dict[str, str]) -> None:
    if num >= 2:
        return
    if skipped:
        told = "; ".join(list(skipped.values())[:_SHOWN])
        raise ValueError(f"{place}: of {num + len(skipped)} images {num} can be read ({told}): repair the others.")
    if num == 1:
        raise ValueError(f"{place} holds one image: give at least 2, one to learn from and one to hold out.")
    raise ValueError(f"{place} holds no images: is it the right place?")


def _refuse_sides(place: str, sides: list[tuple[tuple[int, int], str]]) -> None:
    told = " and ".join(f"{name} is {height} x {width}" for (height, width), name in sides[:2])
    raise ValueError(
        f"{place}: images have different sides, {told}: give size=32 (--size 32), say, to crop them to squares and "
        "scale these."
    )


def _folders(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the split, if folders tell it, and the class folder of every name; "" for none.

    Folders that all images are in say nothing. Below them the first folder is the class, or the split, and then the
    next the class.
    """
    parts = [name.split("/")[:-1] for name in names]
    least, most = min(parts), max(parts)
    common = next((i for i, pair in enumerate(zip(least, most, strict=False)) if pair[0] != pair[1]), len(least))
    first = {it[common].lower() if len(it) > common else "" for it in parts}
    splits = {SPLITS.get(name) for name in first}
    told = None not in splits and "train" in splits and len(splits) > 1
    skip = common + told
    return [(SPLITS[it[common].lower()] if told else "", it[skip] if len(it) > skip else "") for it in parts]


def _parts(folders: list[tuple[str, str]], names: list[str], options: Preparation) -> tuple[dict[str, np.ndarray], str]:
    """Return the rows of every split, shuffled, and what decided on it."""
    by_name = np.array(sorted(range(len(names)), key=names.__getitem__))
    order = by_name[np.random.default_rng(options.seed).permutation(len(names))]
    if folders[0][0]:
        split_of = np.array([split for split, _ in folders])[order]
        parts = {split: order[split_of == split] for split in ("train", "validation", "test")}
        return {split: rows for split, rows in parts.items() if len(rows)}, "the folders of the source"
    held = min(len(names) - 1, max(1, round(options.test_share * len(names)))) if options.test_share else 0
    parts = {"train": order[held:], "test": order[:held]}
    return {split: rows for split, rows in parts.items() if len(rows)}, f"{held} of {len(names)}, seed {options.seed}"


def _classes(place: str, given: list[int | str | None]) -> tuple[np.ndarray, list[str]]:
    """Return labels as numbers, and the names of the classes, if they have any."""
    kinds = {type(label) for label in given}
    if kinds <= {int, bool}:
        return np.array(given, np.int64), []
    if kinds != {str}:
        raise ValueError(f"{place}: some images have another kind of label than others: give all a number, or a word.")
    names = sorted(set(given), key=lambda name: (int(name) if name.isdecimal() else -1, name))
    numbers = {name: i for i, name in enumerate(names)}
    return np.array([numbers[name] for name in given], np.int64), names if len(names) > 1 else []
