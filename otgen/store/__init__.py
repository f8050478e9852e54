"""Trained systems as files: objects as JSON and arrays with checksums, under saved models and checkpoints alike.

`folder` has `save` and `load` of a model as a folder, `description` what objects are as JSON and arrays, `checksums`
how Orbax writes the arrays of a checkpoint.
"""

from otgen.store.folder import load, save

__all__ = ["load", "save"]
