"""What the networks of the informative OT-GAN minimise on a batch: see `otgen.models.informative.informative_gan`.

Every loss is a function `(parameters, ...) -> (value, metrics)` of one network. On several devices each holds a share
of the latents and of the data; the latents of all are put together, so the transport is that of the whole batch, and
the mean over devices of value and gradient is that of the whole batch.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from otgen.models.informative.codes import Codes
from otgen.ot import structured
from otgen.ot.products import product
from otgen.train.parallel import gathered
from otgen.types import Array, averaged

_UPDATES = 5  # of the Sinkhorn iteration, for the plan between generated points
_TINY = 1e-12
_FEATURES = ("adversarial", "features")  # ground costs that have features
_NETWORK = {
    "decode": "generator",
    "potential": "critic",
    "own_potential": "own",
    "read": "encoder",
    "embed": "features",
}


class Coupling(NamedTuple):
    """K codes with M noises each, beside B data, in units of the mean cost of two data.

    Attributes:
      cost: [K, M, B].
      perturbed: the ground cost that the plan sees, C - lam log Q / P, [K, M, B]; for ground = "none" without C.
      potential: [K, M].
    """

    cost: Array
    perturbed: Array
    potential: Array


class Units(NamedTuple):
    """Mean cost of two data.

    Attributes:
      pixel: of |x - x'|^2.
      feature: of the squared distance of features; 1 where there are none.
    """

    pixel: Array
    feature: Array


def squared(x: Array, y: Array) -> Array:
    """Return |x_i - y_j|^2 [n, m] of images or vectors [n, ...] and [m, ...]."""
    x, y = x.reshape(x.shape[0], -1), y.reshape(y.shape[0], -1)
    centre = jax.lax.stop_gradient(y.mean(0))
    x, y = x - centre, y - centre
    return jnp.maximum(jnp.sum(x**2, 1)[:, None] - 2 * product(x, y.T) + jnp.sum(y**2, 1), 0.0)


def by_code(x: Array, num_codes: int) -> Array:
    """Arrange what belongs to latents [L, ...] by code and noise: [K, M, ...]."""
    return jnp.swapaxes(x.reshape(-1, num_codes, *x.shape[1:]), 0, 1)


def strengths(config: Any, rewarded: bool = True) -> dict[str, Any]:
    """Return epsilon, lam and smoothing of the semi-dual; an encoder's lam is in the cost instead."""
    lam = config.lam if rewarded and config.objective == "structured" else 0.0
    return {"epsilon": config.epsilon, "lam": lam, "smoothing": config.smoothing}


def plan_of(coupling: Coupling, config: Any, rewarded: bool = True) -> Array:
    """Return the law of latents for every datum, times the datum's weight: [K, M, B] of sum 1; not differentiated."""
    cost, potential = jax.lax.stop_gradient((coupling.perturbed, coupling.potential))
    return structured.conditional(cost, potential, **strengths(config, rewarded)) / cost.shape[2]


class Losses:
    """The losses of a batch.

    Args:
      module: the model.
      unit: mean pixel cost of two data.
      axis_name: the mapped axis, if there is one.
    """

    def __init__(self, module: Any, unit: Array, axis_name: str | None = None):
        self._module, self._unit, self._axis = module, unit, axis_name

    def _apply(self, name: str, params: Any, *arguments: Any) -> Array:
        return self._module.apply({"params": {_NETWORK[name]: params}}, *arguments, method=name)

    def units(self, features: Any, data: Array) -> Units:
        """Return the mean costs of two data [m, h, w, c]; that of features follows their parameters."""
        if self._module.config.ground not in _FEATURES:
            return Units(self._unit, jnp.float32(1.0))
        known = gathered(self._apply("embed", features, data), self._axis)
        return Units(self._unit, jnp.maximum(2 * jnp.sum(jnp.var(known, axis=0)), 1e-12))

    def ground(self, features: Any, units: Units, points: Array, data: Array) -> Array:
        """Return the ground cost [L, B] between the points of all devices and the data of this one."""
        cost, config = squared(gathered(points, self._axis), data) / units.pixel, self._module.config
        if config.ground not in _FEATURES:
            return cost
        points, data = (self._apply("embed", features, of) for of in (points, data))
        other = squared(gathered(points, self._axis), data) / units.feature
        return (1 - config.feature_share) * cost + config.feature_share * other

    def couple(self, cost: Array, potential: Array, codes: Codes, outputs: Array | None) -> Coupling:
        """Arrange by code and noise a cost [L, B], the potential of this device's latents, and the reward.

        Args:
          cost: of all latents and this device's data.
          potential, codes: of this device's latents.
          outputs: of the encoder, for the data; None for no reward.
        """
        config, reward = self._module.config, jnp.zeros_like(cost)
        potential, codes = gathered((potential, codes), self._axis)
        if outputs is not None and config.objective == "encoder":
            discrete, continuous = config.latent.log_ratio(outputs, codes)
            reward = config.lam * discrete + config.lam_continuous * continuous
        seen = 0.0 if config.ground == "none" and outputs is not None else cost
        num_codes = config.num_codes(cost.shape[0])
        return Coupling(*(by_code(of, num_codes) for of in (cost, seen - reward, potential)))

    def critic(self, params: Any, encoder: Any, features: Any, codes: Codes, points: Array, data: Array):
        """Return minus the semi-dual value on codes, points [n, h, w, c] generated from them, and data [m, h, w, c].

        Metrics: `value`, the smoothed transport cost less the reward.
        """
        cost = self.ground(features, self.units(features, data), points, data)
        outputs = self._apply("read", encoder, data)
        coupling = self.couple(cost, self._apply("potential", params, codes, points), codes, outputs)
        value = structured.semidual(coupling.perturbed, coupling.potential, **strengths(self._module.config))
        return -value, {"value": value}

    def own(self, params: Any, features: Any, codes: Codes, points: Array, others: Array, data: Array):
        """Minus the semi-dual value on points [n, h, w, c] and others [m, h, w, c] of the same law, without reward."""
        cost = self.ground(features, self.units(features, data), points, others)
        coupling = self.couple(cost, self._apply("own_potential", params, points), codes, None)
        return -structured.semidual(coupling.cost, coupling.potential, **strengths(self._module.config, False)), {}

    def encoder(
        self, params: Any, critic: Any, features: Any, codes: Codes, points: Array, data: Array, moved: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Minus E_P log Q(c | x) / P(c): categorical parts read from the moved data, continuous ones from the data.

        Metrics: `information`, minus this loss: a lower bound of the plan's I(c; x) in nats as far as the plan gives
        every code its share (see `balance`); it exceeds the bound by the divergence of the plan's codes from P(c).
        """
        latent = self._module.config.latent
        seen = self._apply("read", params, moved)
        straight = self._apply("read", params, data)
        cost = self.ground(features, self.units(features, data), points, data)
        potential = self._apply("potential", critic, codes, points)
        plan = plan_of(self.couple(cost, potential, codes, straight), self._module.config)
        codes = gathered(codes, self._axis)
        ratio = latent.log_ratio(seen, codes)[0]
        if latent.continuous:
            ratio += latent.log_ratio(straight, codes)[1]
        value = jnp.sum(plan * by_code(ratio, plan.shape[0]))
        return -value, {"information": value}

    def generator(self, params: Any, fixed: tuple, latents: tuple, fresh: tuple, data: Array):
        """<P, C(z, x)> - <P', C(z, G(z'))> on latents z, fresh latents z', and data x.

        Some Sinkhorn updates bring P' from what its potential says to the masses that the latents have in P: one that
        no datum chooses is not pushed either, and no point runs away. Where points have the law of the data the mean
        gradient is not quite zero: a push outwards is left, which falls with the batch.

        Args:
          params: of the generator.
          fixed: parameters of critic, own, encoder and features.
          latents, fresh: codes and noise.
          data: [m, h, w, c].

        Returns:
          The difference, and metrics: `loss`, itself; `transport`, its first term; `code_error`, how often the encoder
          misreads a categorical part of a generated image; `balance`, the distance in total variation between the
          plan's shares of the categorical values and the prior.
        """
        config, latent = self._module.config, self._module.config.latent
        critic, own, encoder, features = fixed
        codes, noise = latents
        points = self._apply("decode", params, codes, noise)
        still, read = jax.lax.stop_gradient(points), functools.partial(self._apply, "read", encoder)
        units = self.units(features, data)
        cost = self.ground(features, units, points, data)
        coupling = self.couple(cost, self._apply("potential", critic, codes, still), codes, read(data))
        plan = plan_of(coupling, config)
        mass = self._row_masses(plan)
        transport = value = jnp.sum(plan * coupling.cost)
        if config.debias:
            others = jax.lax.stop_gradient(self._apply("decode", params, *fresh))
            cost = self.ground(features, units, points, others)
            against = self.couple(cost, self._apply("own_potential", own, still), codes, None)
            mirror = plan_of(against, config, False)
            push = self._with_masses(mirror, mass)
            value = transport - jnp.sum(push * against.cost)
        share = mass.sum((1, 2)).reshape(-1, latent.combinations).sum(0)
        balance = 0.5 * jnp.sum(jnp.abs(share - 1 / share.shape[0]))
        metrics = {"loss": value, "transport": transport, "balance": balance}
        wrong = [
            jnp.mean(law.argmax(1) != codes.categories[:, i]) for i, law in enumerate(latent.log_laws(read(still)))
        ]
        return value, metrics | ({"code_error": jnp.stack(wrong).mean()} if wrong else {})

    def _with_masses(self, plan: Array, mass: Array) -> Array:
        """Bring a plan [K, M, B] to these masses of its latents [K, M, 1], and equal ones of its points."""
        for _ in range(_UPDATES):
            plan = mass / jnp.maximum(self._row_masses(plan), _TINY) * plan
            plan = plan / jnp.maximum(plan.sum((0, 1)) * plan.shape[2], _TINY)
        return mass / jnp.maximum(self._row_masses(plan), _TINY) * plan

    def _row_masses(self, plan: Array) -> Array:
        return averaged(plan.sum(2, keepdims=True), self._axis)

    def adversary(self, params: Any, generator: Any, critic: Any, own: Any, encoder: Any, *batch: Any):
        """Return minus the generator's loss, of the parameters of the features. No metrics."""
        return -self.generator(generator, (critic, own, encoder, params), *batch)[0], {}
