"""Methods of what a `fit` returns: `sample`, `save`, and the functions of `otgen.models.use`."""

from __future__ import annotations

import os
from typing import Any, TypeVar

from otgen.types import Array, Key

Kind = TypeVar("Kind", bound=type)


def usable(cls: Kind) -> Kind:
    """Give a class of trained models, a NamedTuple, these methods: a decorator, as NamedTuples inherit none."""
    for name, method in vars(_Methods).items():
        if not name.startswith("_"):
            setattr(cls, name, method)
    return cls


class _Methods:
    def sample(self, key: Key, num: int, **how: Any) -> Array:
        """Draw from the model: `label` and what else the `sample` of its module takes."""
        return _use().sample(key, self, num, **how)

    def generate(self, key: Key, noise: Any, **how: Any) -> Array:
        """Return what the model draws of given noise: `otgen.models.use.generate`."""
        return _use().generate(key, self, noise, **how)

    def invert(self, key: Key, data: Any, **how: Any) -> Array:
        """Return noise of which the model draws data: `otgen.models.use.invert`."""
        return _use().invert(key, self, data, **how)

    def interpolate(self, key: Key, first: Any = None, last: Any = None, **how: Any) -> Array:
        """Return paths [n, num, ...] between data, or between draws: `otgen.models.use.interpolate`."""
        return _use().interpolate(key, self, first, last, **how)

    def neighbours(self, images: Any, k: int = 5, among: Any = None) -> tuple[Array, Array]:
        """Return the distances and numbers of the nearest training images: `otgen.models.use.neighbours`."""
        return _use().neighbours(self, images, k, among)

    def summary(self) -> str:
        """Return what the model is made of, in lines: `otgen.models.use.summary`."""
        return _use().summary(self)

    def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Save the model as a folder for `otgen.load`."""
        from otgen import store

        store.save(path, self, overwrite=overwrite)


def _use() -> Any:
    from otgen.models import use  # imports all models, which import this

    return use
