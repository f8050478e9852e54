"""What the judges of `otgen.eval` are asked by an experiment's options, and what of their answers is written down."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.lab import command
from experiments.lab.sets import Draw
from otgen.eval import Judge, PointJudge, extractor_of, over_draws
from otgen.models import ae_ot
from otgen.types import Array, Key


def extent(config: Any) -> tuple[int, int]:
    """Images per draw and draws of a seed: `num_eval` and `draws`, or `feature_images` once in features asked for."""
    return (config.num_eval, config.draws) if config.features == "auto" else (config.feature_images, 1)


def place_of_scores(config: Any, place: Path) -> Path:
    """The folder of the scores of what is in `place`; those in features asked for, or of some rows, are beside it."""
    if not config.table:
        return place / "unscored"
    if not isinstance(config, command.Rows):
        return place
    place = place if config.features == "auto" else place / f"{config.features}-{config.feature_images}"
    return place if config.rows is None else place / f"rows-{config.rows}"


def require_features(config: Any) -> None:
    """Raise for unknown features, and for those asked for whose weights are missing; warn of others instead."""
    folder = Path(config.data_dir or os.environ.get("OTGEN_DATA", "."))
    if config.features != "auto" or (folder / config.dataset).is_dir():  # without data, that is told first
        extractor_of(config.dataset, config.data_dir, config.features)


def judged(
    judge: Judge | PointJudge, key: Key, draw: Draw, draws: int, row: str = "", progress: bool = False
) -> dict[str, Any]:
    """Mean and standard deviation of every score over draws, and the mean shares of at most 100 classes, as JSON.

    A bar over the draws of the row is shown while it is at work, and gone after it.
    """
    from tqdm.auto import tqdm

    with tqdm(total=draws, desc=f"scores of {row}", unit="draw", leave=False, disable=not progress) as bar:

        def counted(key: Key, num: int) -> Array:
            images = draw(key, num)
            bar.update()
            return images

        found = over_draws(key, judge, counted, draws)
    shares = [round(float(share), 4) for share in found.class_shares] if len(found.class_shares) <= 100 else []
    return {**found._asdict(), "class_shares": shares}


def codes_of(model: ae_ot.Model) -> Callable[[Any], Array]:
    """Return a function of images to the standardised codes of an AE-OT."""
    known = model.variables["transport"]
    return lambda images: (ae_ot.encode(model.module, model.variables, images) - known["mean"]) / known["scale"]
