"""Packages that only a part of otgen needs: imported where they are used, and missed by the name that pip knows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

_PACKAGES = {
    "ott": "ott-jax",
    "ot": "POT",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "tensorflow_datasets": "tensorflow-datasets",
}


@contextlib.contextmanager
def imports() -> Iterator[None]:
    """Have the imports in a `with` block say which package is missing, and how to install it.

    Raises:
      ModuleNotFoundError: if one of them is not installed, or a package that it needs itself.

    Example:
      >>> with og.optional.imports():
      ...     import no_such_module
      Traceback (most recent call last):
      ModuleNotFoundError: no_such_module is needed for this and is not installed: pip install no_such_module
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        package = _PACKAGES.get(module, module)
        raise ModuleNotFoundError(
            f"{package} is needed for this and is not installed: pip install {package}", name=error.name
        ) from error
