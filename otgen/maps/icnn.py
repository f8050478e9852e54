"""A convex potential trained by minimisation alone: the dual of transport with refined conjugates.

Minimises, over input-convex networks psi,

    J(psi) = E_x psi(x) + E_y psi*(y),    psi*(y) = max_x <x, y> - psi(x),
    inf J = (E|x|^2 + E|y|^2 - W2^2) / 2,

and grad psi is the map. J is convex in the values of psi, and its gradient needs the maximisers x*(y) alone. A second
network, regressed on the maximisers found so far, says where they are; quasi-Newton steps from there refine them
(`ot.conjugate`), most of them where psi has creases, on which the map is won or lost:

    J(psi) - inf J = E <T - grad psi, H^-1 (T - grad psi)> / 2 to second order, with H the Hessian of psi,

weighs an error on a crease, where H is large, least of all: J is badly conditioned in the parameters, the worse the
more dimensions there are. In many of them steps with all singular values of a matrix of weights alike (Muon) come
through where Adam's take very long; in few they are no better. The noise of minibatches, which hides what is fine in
the map before the network does, is kept small by weights (`calibration`).

With `cycle` > 0 the second network is the gradient of a convex phi, and nothing is refined: x*(y) = grad phi(y), held
to it by the cycle term of Korotin et al., and the two minimise

    E_x psi(x) - E_y psi(x*(y)) + cycle E_y |grad psi(grad phi(y)) - y|^2,

the maximisers held fixed in the second term. It needs no inner steps, and its maximisers are only as good as phi. All
of it in standard units (`training.Units`), in which the identity is a start.

Reference: Taghvaei and Jalali (2019), arXiv 1902.07197, for the dual; Amos (2023), arXiv 2210.12153, for conjugates
that are predicted by a network and refined; Korotin et al. (2021), arXiv 1909.13082, for the cycle term; Jordan et al.
(2024), Muon: an optimizer for hidden layers in neural networks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from otgen.maps import calibration
from otgen.maps.training import MapSettings, noise, optimiser, schedule
from otgen.nn.potentials import Convex, Displacement
from otgen.ot import conjugate
from otgen.train.descent import descend
from otgen.train.parallel import shared_rows
from otgen.train.state import TrainState, start
from otgen.types import Array, Key, Sampler, averaged

_BLOCK = 4096  # codes whose conjugates are found together
_FINAL = {"num_steps": 60, "halvings": 4}  # of every conjugate, once training is done
_DRAWS = 2**20  # of a law, for what is known ahead
_GUESS_RATE = 3e-3  # peak of the schedule of the network that predicts maximisers
_MATRICES = 0.5  # root mean square of a step of a matrix of weights, in units of the rate


@dataclasses.dataclass(frozen=True)
class Config(MapSettings):
    """Training of the convex potential.

    Attributes:
      rank: squares in every unit of the network.
      sharpness: see `nn.potentials.Convex`; None for units that are all alike.
      refinements: quasi-Newton steps on the conjugate of every point of an update, and as many more on the half of them
        that is left with the larger residuals, on the half of that, and so on, `halvings` times. Every device halves
        the points that it has, so that where they are not at their maximisers the number of devices changes the update.
      halvings: see refinements.
      guess: widths of the network that predicts maximisers.
      kinks: functions, beside the coordinates, whose means every update has right (`calibration`). No more than make a
        quarter of the batch with the coordinates; where these are more by themselves, points are weighed alike.
      cycle: weight of the cycle term; 0 for refined conjugates.
    """

    hidden: Sequence[int] = (128, 128, 64)
    num_steps: int = 10_000
    batch_size: int = 1024
    learning_rate: float = 0.07
    rank: int = 1
    sharpness: float | None = 2.0
    refinements: int = 5
    halvings: int = 6
    guess: Sequence[int] = (128, 128)
    kinks: int = 192
    cycle: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.whole("rank", "refinements")
        self.whole("halvings", "kinks", least=0)
        self.whole_each("guess")
        self.not_negative("cycle")
        if self.sharpness is not None:
            self.not_negative("sharpness")

    def transform(self) -> optax.GradientTransformation:
        """Return Muon for matrices of weights with Adam for the rest; Adam alone if there is a cycle."""
        if self.cycle > 0:
            return optimiser(self)
        rates = schedule(self)
        muon = optax.contrib.muon(rates, beta=0.9, consistent_rms=_MATRICES, adam_learning_rate=rates)

        def update(*given: Any) -> tuple[Any, Any]:
            with jax.default_matmul_precision("highest"):
                return muon.update(*given)

        return optax.GradientTransformation(muon.init, update)


class Table(NamedTuple):
    """What is known of maximisers once training is done.

    Attributes:
      points: that of every code, x*(y_j) [N, d].
      lengths: gradient step that suits the curvature there [N].
      guess: parameters of the network that predicts them; None if there is a cycle, and in maps of version 0.1.
    """

    points: Array
    lengths: Array
    guess: Any = None


class Guess(NamedTuple):
    """What training remembers of maximisers.

    Attributes:
      network: parameters of the network that predicts them, and its optimiser; empty if there is a cycle.
      length: gradient step that suited half of the points of the last update [].
      laws: what is known ahead of the source and of the target; empty where points are weighed alike.
    """

    network: TrainState | tuple[()]
    length: Array
    laws: tuple[calibration.Known, calibration.Known] | tuple[()] = ()


def init(
    key: Key, config: Config, sampler: Sampler, codes: Array, target: Sampler | None = None
) -> tuple[Convex, Any, Guess]:
    """Return the network, its parameters (of two networks if there is a cycle) and the guess, in standard units."""
    module = Convex(config.hidden, config.rank, 0.1, config.sharpness)
    keys = jax.random.split(key)
    params = {"forward": module.init(keys[0], codes[:1])["params"]}
    if config.cycle > 0:
        params["backward"] = module.init(keys[1], codes[:1])["params"]
        return module, params, Guess((), jnp.ones((), codes.dtype))
    guess = Displacement(config.guess).init(keys[1], codes[:1])["params"]
    laws = _known(jax.random.fold_in(key, 1), config, sampler, codes, target)
    return module, params, Guess(start(_optimiser(config), guess), jnp.ones((), codes.dtype), laws)


def _known(
    key: Key, config: Config, sampler: Sampler, codes: Array, target: Sampler | None
) -> tuple[calibration.Known, calibration.Known] | tuple[()]:
    """Return what is known ahead of the laws, from no more draws than training sees."""
    rows, dim = shared_rows(config.batch_size, len(codes)), codes.shape[1]
    num, draws = min(config.kinks, rows // 4 - dim), min(_DRAWS, config.num_steps * rows)
    if num < 1:
        return ()
    keys = jax.random.split(key)
    source = calibration.of_law(keys[0], num, sampler, dim, draws)
    if target is None:
        return source, calibration.of_points(keys[1], num, codes)
    return source, calibration.of_law(keys[1], num, target, dim, draws)


def _optimiser(config: Config) -> optax.GradientTransformation:
    return optimiser(dataclasses.replace(config, learning_rate=_GUESS_RATE))


def potential(params: Any, module: Convex, name: str = "forward") -> Callable[[Array], Array]:
    """Return the convex function [n, d] -> [n] of one of the networks."""
    return lambda x: module.apply({"params": params[name]}, x)


def gradient(params: Any, module: Convex, table: Any, x: Array, name: str = "forward") -> Array:
    """T(x) = grad psi(x), [n, d]."""
    del table
    return jax.grad(lambda x: potential(params, module, name)(x).sum())(x)


def predicted(params: Any, module: Convex, guess: Any, y: Array) -> Array:
    """Return the maximisers [n, d] of points y [n, d] as a network says that they are, `guess` or that of the cycle."""
    if "backward" in params:
        return gradient(params, module, None, y, "backward")
    widths = [guess[f"Dense_{k}"]["bias"].shape[0] for k in range(len(guess) - 1)]
    return Displacement(widths).apply({"params": guess}, y)


def finished(params: Any, module: Convex, guess: Guess, codes: Array) -> tuple[conjugate.Conjugate, Table]:
    """Return the conjugates of all codes [N, d], and the table, once training is done."""
    told = guess.network.params if guess.network else None
    lengths = jnp.full(len(codes), guess.length, codes.dtype)
    found = conjugates(params, module, predicted(params, module, told, codes), lengths, codes)
    return found, Table(found.points, found.step, told)


def conjugates(params: Any, module: Convex, points: Array, lengths: Array, y: Array) -> conjugate.Conjugate:
    """Return conjugates of points y [n, d] from where to start, points [n, d] and steps [n], block by block."""
    psi = potential(params, module)

    def block(one: tuple) -> conjugate.Conjugate:
        return conjugate.solve(psi, one[0], one[1], step=one[2], **_FINAL)

    num, size = len(y), min(len(y), _BLOCK)

    def fold(leaf: Array) -> Array:
        padding = ((0, -num % size), *((0, 0),) * (leaf.ndim - 1))
        return jnp.pad(leaf, padding, mode="edge").reshape(-1, size, *leaf.shape[1:])

    found = jax.lax.map(block, jax.tree.map(fold, (y, points, lengths)))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:num], found)


def make_update(module: Convex, config: Config, sampler: Sampler):
    """Return `update(network, guess, y, key, axis_name) -> (network, guess, metrics)`."""
    transform = config.transform()

    def update(network: TrainState, guess: Guess, y: Array, key: Key, axis_name: str | None):
        x = noise(sampler, key, network.step, *y.shape, axis_name)
        if config.cycle > 0:
            network, metrics = descend(transform, network, _loss_of_cycle, module, config, x, y, axis_name=axis_name)
            return network, guess, metrics
        found = _refined(network.params, module, config, guess, y)
        shares = [jnp.full(len(y), 1 / len(y), y.dtype)] * 2
        if guess.laws:
            shares = [calibration.weights(law, some, axis_name) for law, some in zip(guess.laws, (x, y), strict=True)]
        network, metrics = descend(transform, network, _loss, module, x, y, found, *shares, axis_name=axis_name)
        told, _ = descend(_optimiser(config), guess.network, _misfit, config, y, found.points, axis_name=axis_name)
        return network, guess._replace(network=told, length=averaged(jnp.median(found.step), axis_name)), metrics

    return update


def _refined(params: Any, module: Convex, config: Config, guess: Guess, y: Array) -> conjugate.Conjugate:
    before = predicted(params, module, guess.network.params, y)
    steps = {"num_steps": config.refinements, "halvings": config.halvings}
    return conjugate.solve(potential(params, module), y, before, step=guess.length, **steps)


def _loss(
    params: Any, module: Convex, x: Array, y: Array, found: conjugate.Conjugate, x_share: Array, y_share: Array
) -> tuple[Array, dict]:
    psi = potential(params, module)
    forward, back = jnp.sum(x_share * psi(x)), jnp.sum(y_share * psi(found.points))
    # the gradient of the difference is that of J, by the envelope theorem
    objective = forward - back + jnp.sum(y_share * jnp.sum(found.points * y, axis=1))
    return objective, {"objective": objective, "residual": jnp.sqrt(jnp.mean(found.residual**2))}


def _misfit(params: Any, config: Config, y: Array, points: Array) -> tuple[Array, dict]:
    value = jnp.mean(jnp.sum((Displacement(config.guess).apply({"params": params}, y) - points) ** 2, axis=1))
    return value, {}


def _loss_of_cycle(params: Any, module: Convex, config: Config, x: Array, y: Array) -> tuple[Array, dict]:
    guess = gradient(params, module, None, y, "backward")
    fixed = jax.lax.stop_gradient(guess)
    psi = potential(params, module)
    forward, back = jnp.mean(psi(x)), psi(fixed)
    missed = jnp.mean(jnp.sum((gradient(params, module, None, guess) - y) ** 2, axis=1))
    value = forward - jnp.mean(back) + config.cycle * missed
    objective = forward + jnp.mean(jnp.sum(fixed * y, axis=1) - back)
    return value, {"objective": objective, "residual": jnp.sqrt(missed)}
