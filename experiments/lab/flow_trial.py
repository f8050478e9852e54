"""A coupling of the flow experiment with one seed: solved, trained on, sampled from in few steps, scored."""

from __future__ import annotations

import dataclasses
import itertools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.flow_spaces import SEED, Space
from experiments.lab.table import summary
from experiments.lab.trials import is_done, place_of, read, save, scores_at, stage
from otgen import optional
from otgen.models import flow
from otgen.models.flow.pairs import paired
from otgen.ot import coupling as couplings
from otgen.types import Array, Key, as_pytree

REFERENCE = "real"
_SHOWN = 1500  # points of a figure; images are fewer
_IMAGES = 36
_PATHS = 200
_STEPS = 64  # Euler steps of the paths that are drawn
_GUIDANCE = 0.5  # of samples of labels, beside those without
_PROBED = 20_000  # pairs that a probe learns from, and as many that it is asked of


@as_pytree
@dataclasses.dataclass(frozen=True)
class Blind:
    """The coupling of one map for data of all classes, its pairs told the class: noise then tells it too.

    Attributes:
      inner: the coupling.
      number: class of every data point [N].
    """

    inner: couplings.SemiDiscrete
    number: Array

    def pair(self, key: Key, num: int, labels: Any = None) -> couplings.Batch:
        """Draw pairs of random classes: one map for all cannot be asked for some."""
        batch = self.inner.pair(key, num)
        return batch._replace(label=self.number[batch.index])


def run(config: Any, space: Space, folder: Path, seed: int, name: str, progress: Any) -> None:
    """Train on a coupling and write the scores of its samples; of the reference the scores of real data."""
    place, scored = place_of(folder, seed, name), scores_at(config, folder, seed, name)
    key = jax.random.fold_in(jax.random.key(seed), 3000)
    entry = {"group": name, "seed": seed, "facts": space.facts}
    if name == REFERENCE:
        found = [space.scores(space.truth(k, space.num)) for k in _keys(key, config.draws if config.table else 0)]
        save(scored, {**entry, "rows": {"real data": _mean(found)}}, {})
        return
    coupling, solved = couple(config, space, folder, name, progress)
    model, seconds = stage(
        config,
        place,
        f"{name}, seed {seed}",
        config.model().num_steps,
        progress,
        lambda **watch: flow.fit(
            jax.random.key(seed), space.data, space.labels, coupling=coupling, **watch, **_fields(config)
        ),
    )
    facts = {**solved, "seconds": seconds}
    if config.table:
        facts["pairing_seconds"] = cost = pairing_seconds(jax.random.key(seed), coupling, config.model())
        facts["pairing_share"] = None if seconds is None else cost / seconds
        facts["straightness"] = float(flow.straightness(key, model, 4096))
        if space.labels is not None:
            facts["probe"] = probe(key, coupling, len(np.unique(space.labels)))
    rows, shown = {name: facts}, {}
    for method, nfe, guidance in variants(config):
        draws = []
        for draw_key in _keys(key, config.draws if config.table else 1):
            samples, labels = _samples(draw_key, model, space, method, nfe, guidance)
            draws += [space.scores(samples, labels)] if config.table else []
        row = f"{name}, {method}, NFE {nfe}"
        if guidance:
            rows[f"{row} x 2, guidance {guidance:g}"] = _mean(draws)
            continue
        rows[row] = _mean(draws)
        few = samples[:_SHOWN] if space.decode is None else space.decode(samples[:_IMAGES])
        shown[f"{name} {method} {nfe}"] = few
    if space.decode is None:
        shown[f"{name} paths"] = paths(key, model)
    save(scored, {**entry, "rows": rows}, shown)


def couple(config: Any, space: Space, folder: Path, name: str, progress: Any) -> tuple[Any, dict[str, Any]]:
    """Return a coupling of the data, the same for all seeds, and how it was solved if it had to be.

    A solve that was stopped goes on where it was, and one that is done is not done again.
    """
    kind, place = "semidiscrete" if name == "blind" else name, folder / "checkpoints" / f"{name}-coupling"
    number = None if space.labels is None else np.unique(space.labels, return_inverse=True)[1].astype(np.int32)
    known = None if name == "blind" or number is None else jnp.asarray(number)
    options = {"sampler": space.sampler, "checkpoints": place}
    with progress(place.name, None) as callback:
        start = time.perf_counter()
        given = (kind, jax.random.key(SEED), jnp.asarray(space.data), known, config.model())
        coupling, info = paired(*given, callback=callback, **options)
        seconds = time.perf_counter() - start
    if info is None:
        return coupling, {}
    if not is_done(place):
        save(place, {"chi2": float(np.mean(info.chi2)), "solve_seconds": round(seconds, 2)}, {})
    return Blind(coupling, jnp.asarray(number)) if name == "blind" else coupling, read(place)


def _fields(config: Any) -> dict[str, Any]:
    model = config.model()
    return {
        name: getattr(model, name) for name in ("width", "depth", "num_steps", "batch_size", "learning_rate", "repeats")
    }


def pairing_seconds(key: Key, coupling: Any, model: flow.Config) -> float:
    """Return the seconds that the pairs of a training take: of a pool of them, as many times as there are pools."""
    pool = max(1, min(2**16, model.num_steps * model.batch_size // model.repeats) // model.batch_size)

    def made(seed: int) -> float:
        stream = couplings.batches(
            coupling, jax.random.fold_in(key, seed), model.batch_size, pool=pool * model.batch_size
        )
        start = time.perf_counter()
        jax.block_until_ready(list(itertools.islice(stream, pool)))
        return time.perf_counter() - start

    made(0)
    return made(1) * model.num_steps / model.repeats / pool


def variants(config: Any) -> list[tuple[str, int, float]]:
    """Return methods, numbers of evaluations of the velocity (the midpoint method takes two a step), and guidance."""
    even = [nfe for nfe in config.evaluations() if nfe % 2 == 0]
    both = [("Euler", nfe, 0.0) for nfe in config.evaluations()] + [("midpoint", nfe, 0.0) for nfe in even]
    return both + [("midpoint", nfe, _GUIDANCE) for nfe in even[-1:] if config.labels]


def _samples(
    key: Key, model: flow.Flow, space: Space, method: str, nfe: int, guidance: float
) -> tuple[Array, Array | None]:
    """Return samples, and the labels that they were drawn of."""
    steps = {"num_steps": nfe if method == "Euler" else nfe // 2, "method": method.lower()}
    if space.labels is None:
        return flow.sample(key, model, space.num, **steps), None
    labels = jax.random.choice(jax.random.fold_in(key, 7), jnp.asarray(space.labels), (space.num,))
    return flow.sample(key, model, space.num, label=labels, guidance=guidance, **steps), labels


def probe(key: Key, coupling: Any, num_classes: int) -> float:
    """Return the share of pairs whose class a linear classifier, trained on others, reads from their noise.

    Classes are equally frequent if the coupling can be asked for them: chance is then one in `num_classes`.
    """
    with optional.imports():
        from sklearn.linear_model import LogisticRegression

    labels = jnp.arange(_PROBED) % num_classes
    learned, asked = (coupling.pair(k, _PROBED, labels) for k in jax.random.split(key))
    x, y = (np.asarray(part).reshape(_PROBED, -1) for part in (learned.x0, asked.x0))
    fitted = LogisticRegression(max_iter=200).fit(x, np.asarray(learned.label))
    return float(fitted.score(y, np.asarray(asked.label)))


def paths(key: Key, model: flow.Flow) -> np.ndarray:
    """Return where points are at every Euler step from noise to data [steps + 1, points, 2]."""
    x = model.source(key, _PATHS, 2)
    found = [x]
    for i in range(_STEPS):
        found.append(flow.move(model, found[-1], t0=i / _STEPS, t1=(i + 1) / _STEPS, num_steps=1, method="euler"))
    return np.stack([np.asarray(one) for one in found])


def _keys(key: Key, draws: int) -> list[Key]:
    return [jax.random.fold_in(key, i) for i in range(draws)]


def _mean(draws: list[dict[str, float]]) -> dict[str, float]:
    return {name: summary([one[name] for one in draws])["mean"] for name in (draws[0] if draws else ())}
