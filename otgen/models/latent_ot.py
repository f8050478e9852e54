"""Latent-space OT: an autoencoder without a prior, and a learned transport map from Gaussian noise to its codes.

Two stages, each a minimisation:

1. the autoencoder minimises the Bernoulli reconstruction loss (the first stage of `ae_ot`);
2. a potential between noise N(0, I) and the standardised codes minimises the objective of its solver (`neural_map`),
   and defines the map explicitly. There is no generator to train against it.

Sampling is noise -> map -> decoder. The map sends noise to codes of training images; what makes new codes of it is its
barycenter, its gradient, or the extension of semi-discrete maps (`otgen.ot.semidiscrete.extension`), which joins a code
to a neighbour unless the map jumps between them. Afterwards `distil` may put the map into one network.

Reference: Latent space optimal transport for generative models (2018), arXiv 1809.05964.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen.maps import neural_map
from otgen.maps.distil import distil as _distilled
from otgen.models import ae_ot
from otgen.models.apply import PIECE, check_images, parts_of, rows, transport_of, usable
from otgen.models.classes import check_labels, require_label, rows_of_label
from otgen.models.codec.encoded import Encoded, codes_beside, params_of, settings_on
from otgen.models.codec.made import Codec
from otgen.ot import semidiscrete
from otgen.ot.check import as_array, as_count, as_key, as_points, require_choice, require_kind, require_positive
from otgen.ot.semidiscrete import extension
from otgen.ot.semidiscrete.source import gaussian
from otgen.progress import watched
from otgen.train.loop import check_readers
from otgen.train.settings import Settings, made
from otgen.train.stages import opened
from otgen.types import Array, Callback, Key

EXTENDED = ("pairs", "local")  # forms of the extension, those that need no centres of cells
FORMS = (*neural_map.FORMS, *EXTENDED, "network")
_KNOWN = ("table", "units", "codes", "h", "temperature", "residual")  # fields of the map kept as variables


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """What makes a latent-OT model, beside `Settings`.

    Attributes:
      solver: "c_transform", "lp" or "icnn", see `neural_map`.
      neighbours: codes that a barycenter weighs, on average.
      quantile: share of the noises whose code the extension joins to another, see `extension.threshold`. The more, the
        newer are the codes; near 1 they are mixtures of classes where codes have many dimensions.
      solver_options: fields of the solver's Config, as a mapping or as pairs.

    Example:
      >>> print(og.models.latent_ot.Config(latent_dim=8, solver="icnn").solver)
      icnn
    """

    solver: str = "c_transform"
    neighbours: float = 3.0
    quantile: float = 0.75
    solver_options: Any = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        options = self.solver_options
        try:
            options = dict(options).items()
        except (TypeError, ValueError):
            raise ValueError(f"solver_options = {options!r}: give a dictionary of fields, or pairs.") from None
        frozen = tuple(sorted((name, tuple(value) if isinstance(value, list) else value) for name, value in options))
        object.__setattr__(self, "solver_options", frozen)  # hashable, as Flax wants it
        neural_map.config_of(self.solver, **self.options())
        self.between("neighbours", *neural_map.NEIGHBOURS)
        self.between("quantile", 0.0, 1.0)

    def options(self) -> dict[str, Any]:
        """Return the fields of the solver's Config that are set."""
        return dict(self.solver_options)


class LatentOT(Encoded):
    """The whole system: networks in `params`, what is known of the codes in the collection `transport`.

    `params` holds autoencoder (or codec), potential, and shortcut once distilled; `transport` holds codes [N, d]
    (standardised), h, temperature, residual, units and table of their `neural_map.Map`, mean, scale [d] of the codes,
    and the angle [] above which the map counts as jumping.

    Attributes:
      image_shape: (height, width, channels).
      config: see Config.
      codec: module of the codec (`models.codec`) whose codes these are; None for an autoencoder of its own.
      potential: the network of the potential.
      shortcut: the network that the map is distilled into.

    Example:
      >>> module = og.models.latent_ot.LatentOT((8, 8, 1), og.models.latent_ot.Config(latent_dim=2, hidden=(16,)))
      >>> print(module.image_shape, module.config.solver)
      (8, 8, 1) c_transform
    """

    potential: nn.Module | None = None
    shortcut: nn.Module | None = None

    def map(self) -> neural_map.Map:
        """Return the map from N(0, I) to the standardised codes."""
        transport_of(self.variables)
        known = {name: self.get_variable("transport", name) for name in _KNOWN}
        params = self.variables["params"]["potential"]
        return neural_map.Map(self.config.solver, self.potential.clone(parent=None), gaussian, params, **known)

    def codes(self, key: Key, num: int, form: str | None = None, temperature: ArrayLike | None = None) -> Array:
        """Draw codes [num, d] in the autoencoder's own scale; `form` as in `sample`."""
        return self.move(key, gaussian(key, num, self.config.latent_dim), form, temperature)

    def move(
        self,
        key: Key,
        noise: Array,
        form: str | None = None,
        temperature: ArrayLike | None = None,
        labels: Array | None = None,
    ) -> Array:
        """Map noise [n, d] to codes [n, d] in the autoencoder's own scale; extensions join codes of one label only."""
        form = form or default_form(self.config)
        if form == "network":
            if "shortcut" not in self.variables["params"]:
                raise ValueError("form = 'network' needs a distilled map: call models.latent_ot.distil first.")
            moved = self.shortcut.apply({"params": self.variables["params"]["shortcut"]}, noise)
        elif form in EXTENDED:
            if temperature is not None:
                raise ValueError(f"form = {form!r} has no temperature: ask for form='barycentre', or leave it out.")
            moved = self._extended(jax.random.fold_in(key, 1), noise, form, labels)
        else:
            moved = neural_map.transport(self.map(), noise, form, temperature)
        return moved * self.get_variable("transport", "scale") + self.get_variable("transport", "mean")

    def _extended(self, key: Key, noise: Array, form: str, labels: Array | None) -> Array:
        """Return standardised codes by the extension of the map."""
        map_ = self.map()
        if not self.has_variable("transport", "angle"):
            raise ValueError(
                f"form = {form!r} needs the angle of the map, which this model was stored without: solve it again, or "
                "ask for form='barycentre'."
            )
        unseen = jnp.full_like(map_.codes, jnp.inf)  # these forms read no centres
        extended = extension.Extension(unseen, self.get_variable("transport", "angle"))
        more = {"form": form, "labels": labels}
        return extension.transport(key, extended, neural_map.heights(map_), map_.codes, noise, **more).points

    def sample(self, key: Key, num: int, form: str | None = None, temperature: ArrayLike | None = None) -> Array:
        """Draw images [num, h, w, c] in [0, 1]: noise -> map -> decoder."""
        return self.decode(self.codes(key, num, form, temperature))


@usable
class Model(NamedTuple):
    """A trained latent-OT model.

    Attributes:
      module: the Flax module.
      variables: its `params` and `transport`.
      labels: labels [N] of the training images that the codes belong to, or None.

    Example:
      >>> images = og.data.load("digits").images[:100]
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 2, "batch_size": 20}
      >>> options = {"num_steps": 10, "hidden": (16,), "batch_size": 32}
      >>> model = og.models.latent_ot.fit(jax.random.key(0), images, solver_options=options, **tiny)
      >>> print(sorted(model.variables), model.labels)
      ['params', 'transport'] None
    """

    module: LatentOT
    variables: dict[str, Any]
    labels: Array | None = None


def default_form(config: Config) -> str:
    """The form that makes new codes: the gradient of a convex potential, else the extension by the nearest codes.

    Example:
      >>> config = og.models.latent_ot.Config(solver="lp")
      >>> print(og.models.latent_ot.default_form(config))
      local
    """
    require_kind("config", config, Config)
    return "gradient" if config.solver == "icnn" else "local"


@watched
def train_autoencoder(key: Key, images: np.ndarray, config: Config, **options: Any) -> Any:
    """Train the autoencoder and return its parameters; `options` as in `ae_ot.train_autoencoder`.

    Example:
      >>> images = og.data.load("digits").images[:100]
      >>> config = og.models.latent_ot.Config(latent_dim=2, hidden=(16,), epochs=2, batch_size=20)
      >>> params = og.models.latent_ot.train_autoencoder(jax.random.key(0), images, config)
      >>> print(len(jax.tree.leaves(params)) > 0)
      True
    """
    return ae_ot.train_autoencoder(key, images, autoencoder(config), **options)[1]


def autoencoder(config: Config) -> ae_ot.Config:
    """Return the settings of the first stage, as `ae_ot` has them.

    Example:
      >>> print(type(og.models.latent_ot.autoencoder(og.models.latent_ot.Config(latent_dim=8))).__name__)
      Config
    """
    require_kind("config", config, Config)
    return ae_ot.Config(**{field.name: getattr(config, field.name) for field in dataclasses.fields(Settings)})


def standardisation(codes: Array) -> tuple[Array, Array]:
    """Mean and scale [d] of codes [N, d]: deviations, of coordinates that hardly vary a thousandth of the largest.

    Example:
      >>> mean, scale = og.models.latent_ot.standardisation(jnp.array([[1.0, 5.0], [3.0, 5.0]]))
      >>> print(mean, scale)  # the second does not vary
      [2. 5.] [1. 0.001]
    """
    codes = as_points("codes", codes)
    deviation = codes.std(0)
    return codes.mean(0), jnp.maximum(deviation, jnp.maximum(1e-3 * deviation.max(), 1e-30))


@watched
def solve(
    key: Key,
    params: Any,
    images: np.ndarray,
    config: Config,
    *,
    codec: Codec | None = None,
    codes: Any = None,
    callback: Callback | None = None,
    checkpoints: Any = None,
) -> Model:
    """Learn the map from noise to the codes of images, going on from the newest checkpoint if any.

    Codes are standardised: those of its own autoencoder coordinate by coordinate, those of a codec, whose distances
    mean something, as a whole.

    Args:
      key: random key of this stage.
      params: of the autoencoder, from `train_autoencoder`; not read where there is a codec.
      images: the training images [N, h, w, c].
      config: the model.
      codec: an autoencoder that is there already (`models.codec`), whose codes these are.
      codes: codes [N, d] of the images, where they are known; None to encode them.
      callback: called with steps and metrics, as in `neural_map.fit`.
      checkpoints: a folder, or `train.Checkpoints`, to save in and to go on from, bit-identically.

    Returns:
      Model.

    Raises:
      ValueError: if the codes are not finite or all coincide, or are of another shape; for images or a latent_dim that
        are not the codec's.

    Example:
      >>> images, options = og.data.load("digits").images[:100], {"num_steps": 10, "hidden": (16,), "batch_size": 32}
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 2, "batch_size": 20}
      >>> config = og.models.latent_ot.Config(solver_options=options, **tiny)
      >>> params = og.models.latent_ot.train_autoencoder(jax.random.key(0), images, config)
      >>> model = og.models.latent_ot.solve(jax.random.key(1), params, images, config)
      >>> print(og.models.latent_ot.sample(jax.random.key(2), model, 3).shape)
      (3, 8, 8, 1)
    """
    as_key(key), require_kind("config", config, Config), check_readers(callback, checkpoints)
    images = check_images(images)
    bare = LatentOT(images.shape[1:], config)
    if codec is not None:
        config = settings_on(codec, images.shape[1:], Config, dataclasses.asdict(config))
        bare, params = LatentOT(images.shape[1:], config, codec=codec.module), params_of(codec)
    given = {} if codes is None else {"codes": np.asarray(codes)}  # what a folder of checkpoints is known by
    if codes is None:
        codes = rows(bare, {"params": params}, images, "encode")
    codes = as_array("codes", codes, (len(images), config.latent_dim))
    mean, scale = standardisation(codes)
    if codec is not None:
        largest = scale.max()  # squares of small deviations would vanish
        scale = jnp.full_like(scale, largest * jnp.sqrt(jnp.mean((scale / largest) ** 2)))
    with opened(checkpoints, "map", config, key=key, images=np.asarray(images), params=params, **given) as saved:
        found = neural_map.fit(
            key,
            None,
            (codes - mean) / scale,
            solver=config.solver,
            neighbours=config.neighbours,
            callback=callback,
            checkpoints=saved,
            **config.options(),
        )
    angle_key, h = jax.random.fold_in(key, 1), neural_map.heights(found)
    transport = {name: getattr(found, name) for name in _KNOWN}
    transport["angle"] = extension.threshold(angle_key, h, found.codes, sampler=gaussian, quantile=config.quantile)
    variables = {
        "params": {**params, "potential": found.params},
        "transport": {**transport, "mean": mean, "scale": scale},
    }
    return Model(bare.clone(potential=found.module), variables)


@watched
def fit(
    key: Key,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    codec: Codec | None = None,
    codes: Any = None,
    callback: Callback | None = None,
    checkpoints: Any = None,
    **config: Any,
) -> Model:
    """Fit a latent-OT model to images in memory.

    Args:
      key: random key.
      images: uint8, or floats in [0, 1], [N, h, w, c].
      labels: integers [N], to draw from one class by `sample(..., label=)`; None for none.
      codec: an autoencoder that is there already (`models.codec`), to whose codes the map leads; None to train one.
      codes: codes [N, d] of the images by the codec, where they are known; None to encode them.
      callback: called with steps and metrics of both stages.
      checkpoints: a folder in which both stages save, and from which they go on, bit-identically.
      **config: fields of Config.

    Returns:
      Model.

    Raises:
      ValueError: for images of another shape or range, labels that do not match, fields out of range, a folder of
        another configuration.
      TypeError: for a field that Config, or the solver's Config, does not have.

    Example:
      >>> images = og.data.load("digits").images[:100]
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 2, "batch_size": 20}
      >>> options = {"num_steps": 10, "hidden": (16,), "batch_size": 32}
      >>> model = og.models.latent_ot.fit(jax.random.key(0), images, solver_options=options, **tiny)
      >>> print(og.models.latent_ot.sample(jax.random.key(1), model, 3).shape)
      (3, 8, 8, 1)
    """
    check_readers(callback, checkpoints, stages=2 if codec is None else 1)
    images, settings = check_images(images), made(Config, config)
    labels = check_labels(labels, len(images))
    train_key, solve_key = jax.random.split(as_key(key))
    options = {"callback": callback, "checkpoints": checkpoints}
    params = None
    if codec is None:
        params = train_autoencoder(train_key, images, settings, **options)
    else:
        settings = settings_on(codec, images.shape[1:], Config, config)
        codes = codes_beside(codec, np.asarray(images), checkpoints) if codes is None else codes
        options |= {"codec": codec, "codes": codes}
    return solve(solve_key, params, images, settings, **options)._replace(labels=labels)


def map_of(model: Model) -> neural_map.Map:
    """Return the map from N(0, I) to the standardised codes of a trained model.

    Example:
      >>> images = og.data.load("digits").images[:100]
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 2, "batch_size": 20}
      >>> options = {"num_steps": 10, "hidden": (16,), "batch_size": 32}
      >>> model = og.models.latent_ot.fit(jax.random.key(0), images, solver_options=options, **tiny)
      >>> print(og.models.latent_ot.map_of(model).solver)
      c_transform
    """
    module, variables = parts_of(model, LatentOT)
    return module.apply(variables, method="map")


def distil(key: Key, model: Model, **options: Any) -> Model:
    """Return the model with its map distilled into a network, form "network"; options as in `maps.distil.distil`.

    The network learns a map that the noise decides: the barycenter, for "icnn" the gradient, if no form is given.

    Example:
      >>> images = og.data.load("digits").images[:100]
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 2, "batch_size": 20}
      >>> options = {"num_steps": 10, "hidden": (16,), "batch_size": 32}
      >>> model = og.models.latent_ot.fit(jax.random.key(0), images, solver_options=options, **tiny)
      >>> small = og.models.latent_ot.distil(jax.random.key(1), model, num_pairs=512, **options)
      >>> print(og.models.latent_ot.sample(jax.random.key(2), small, 3, form="network").shape)
      (3, 8, 8, 1)
    """
    parts_of(model, LatentOT)
    form = options.pop("form", None) or ("gradient" if model.module.config.solver == "icnn" else "barycentre")
    module, params = _distilled(key, map_of(model), form=form, **options)
    variables = {**model.variables, "params": {**model.variables["params"], "shortcut": params}}
    return model._replace(module=model.module.clone(shortcut=module), variables=variables)


def encode(model: Model, images: Any) -> Array:
    """Return codes [n, d] of images [n, h, w, c], uint8 or in [0, 1], in the autoencoder's own scale.

    Example:
      >>> images = og.data.load("digits").images[:100]
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 2, "batch_size": 20}
      >>> options = {"num_steps": 10, "hidden": (16,), "batch_size": 32}
      >>> model = og.models.latent_ot.fit(jax.random.key(0), images, solver_options=options, **tiny)
      >>> print(og.models.latent_ot.encode(model, images[:5]).shape)
      (5, 2)
    """
    return rows(*parts_of(model, LatentOT), images, "encode")


def decode(model: Model, codes: Array) -> Array:
    """Return images [n, h, w, c] in [0, 1] of codes [n, d] in the autoencoder's own scale.

    Example:
      >>> images = og.data.load("digits").images[:100]
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 2, "batch_size": 20}
      >>> options = {"num_steps": 10, "hidden": (16,), "batch_size": 32}
      >>> model = og.models.latent_ot.fit(jax.random.key(0), images, solver_options=options, **tiny)
      >>> print(og.models.latent_ot.decode(model, jnp.zeros((5, 2))).shape)
      (5, 8, 8, 1)
    """
    return rows(*parts_of(model, LatentOT), codes, "decode")


@functools.partial(jax.jit, static_argnames=("module", "num", "form"))
def _sample(module: LatentOT, variables: Any, key: Key, num: int, form: str | None, temperature: Any) -> Array:
    return module.apply(variables, key, num, form, temperature, method="sample")


@functools.partial(jax.jit, static_argnames=("module", "form"))
def _of_winners(module: LatentOT, variables: Any, key: Key, labels: Array, form: str | None, temperature: Any) -> Any:
    """Return codes [TILE, d] of noise, and the labels of the codes that win it."""
    noise = gaussian(key, semidiscrete.TILE, module.config.latent_dim)
    map_ = module.apply(variables, method="map")
    winner = semidiscrete.assign(neural_map.heights(map_), map_.codes, noise)
    return module.apply(variables, key, noise, form, temperature, labels, method="move"), labels[winner]


def sample(
    key: Key,
    model: Model,
    num: int,
    *,
    label: int | None = None,
    form: str | None = None,
    temperature: float | None = None,
) -> Array:
    """Draw images from a trained model.

    Args:
      key: random key.
      model: from `fit`.
      num: how many.
      label: move only noise that a code of this label wins; "pairs" and "local" then join codes of it alone. The other
        forms may mix in codes of other labels, which the noise is near to.
      form: "argmax" (reconstructions of training images), "barycentre", "gradient", as in `neural_map.transport`;
        "pairs", "local", as in `extension.transport`, with the angle that `quantile` of Config gives; or "network" once
        distilled. None for what makes new codes: the gradient for "icnn", else "local".
      temperature: of the barycenter, in units of |x - y|^2 between standardised codes; None for the model's.

    Returns:
      Images [num, h, w, c] in [0, 1].

    Raises:
      ValueError: for what is no key, if num is no whole number of at least 1, for a label that the model does not know,
        an unknown form or one that the model does not have, a temperature not positive.

    Example:
      >>> images = og.data.load("digits").images[:100]
      >>> tiny = {"latent_dim": 2, "hidden": (16,), "epochs": 2, "batch_size": 20}
      >>> options = {"num_steps": 10, "hidden": (16,), "batch_size": 32}
      >>> model = og.models.latent_ot.fit(jax.random.key(0), images, solver_options=options, **tiny)
      >>> print(og.models.latent_ot.sample(jax.random.key(1), model, 3, form="barycentre").shape)
      (3, 8, 8, 1)
    """
    as_key(key), as_count("num", num)
    module, variables = parts_of(model, LatentOT)
    if form is not None:
        require_choice("form", form, FORMS)
    if temperature is not None:
        require_positive("temperature", temperature)
    if label is not None:
        labels = [] if model.labels is None else np.asarray(model.labels).tolist()
        require_label(label, sorted(set(labels)))
        share, known = labels.count(label) / len(labels), jnp.asarray(model.labels)
        codes = rows_of_label(
            key, lambda one: _of_winners(module, variables, one, known, form, temperature), label, share, num
        )
        return decode(model, codes)
    size = min(num, PIECE)
    keys = [key] if num == size else [jax.random.fold_in(key, i) for i in range(-(-num // size))]
    pieces = [_sample(module, variables, one, size, form, temperature) for one in keys]
    return jnp.concatenate(pieces)[:num]
