"""What the calls of entropic transport are given: checked, and of the type of the cost."""

from __future__ import annotations

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from otgen import sizes
from otgen.ot.check import SAME, as_mass, is_traced, native, now, poison, require_positive, smallest_and_sum
from otgen.ot.costs import Cost, DenseCost
from otgen.ot.costs.potentials import State
from otgen.ot.sinkhorn import loop
from otgen.types import Array, Held

Potentials = Iterable[Held]  # f and g: a State, or a Solution, which unpacks to them


def as_masses(
    cost: Cost,
    a: ArrayLike | None,
    b: ArrayLike | None,
    tau_a: ArrayLike,
    tau_b: ArrayLike,
    axis_name: str | None = None,
) -> tuple[Held, Held]:
    """Check the weights of both sides; balanced, they must have one total."""
    spread, uniform = a is None and axis_name is not None, a is None and b is None
    a, b = as_mass("a", a, cost.shape[0], cost.dtype), as_mass("b", b, cost.shape[1], cost.dtype)
    if spread:
        a = a / jax.lax.psum(1, axis_name)  # uniform over the source points of all devices
    # Comparisons of JAX arrays, known or not, would be traced where something is: NumPy's are not.
    tau_a, tau_b = (tau if is_traced(tau) else np.asarray(tau) for tau in (tau_a, tau_b))
    for name, tau in (("tau_a", tau_a), ("tau_b", tau_b)):
        require_positive(name, tau)
        if not is_traced(tau) and tau > 1:
            raise ValueError(
                f"{name} = {tau}: tau = rho / (rho + epsilon) lies in (0, 1], 1 meets the marginal exactly."
            )
    if axis_name is None and not is_traced(a, b, tau_a, tau_b):
        return (a, b) if uniform or tau_a < 1 or tau_b < 1 else (a, _of_one_total(a, b))
    left, right = loop.total(jnp.asarray(a), axis_name), jnp.sum(b)
    balanced = (tau_a == 1) & (tau_b == 1)
    equal = jnp.abs(left - right) <= _rounding(a, b) * jnp.maximum(left, right)
    legal = (tau_a > 0) & (tau_a <= 1) & (tau_b > 0) & (tau_b <= 1) & jnp.all(a >= 0) & jnp.all(b >= 0)
    b = b * jax.lax.stop_gradient(jnp.where(balanced & equal & (right > 0), left / right, 1.0))
    if axis_name is None:
        legal &= equal | ~balanced
    return poison(a, legal), b


def relaxations(
    epsilon: ArrayLike, tau_a: ArrayLike, tau_b: ArrayLike, rho_a: ArrayLike | None, rho_b: ArrayLike | None
) -> tuple[ArrayLike, ArrayLike]:
    """Return both tau, from the prices rho where these are given: tau = rho / (rho + epsilon).

    Raises:
      ValueError: for a side that has both, and (outside jit) for prices that are not positive.
    """
    return _relaxation("a", epsilon, tau_a, rho_a), _relaxation("b", epsilon, tau_b, rho_b)


def _relaxation(side: str, epsilon: ArrayLike, tau: ArrayLike, rho: ArrayLike | None) -> ArrayLike:
    if rho is None:
        return tau
    if is_traced(tau) or np.any(np.asarray(native(f"tau_{side}", tau)) != 1):
        raise ValueError(f"tau_{side} and rho_{side} say the same, tau = rho / (rho + epsilon): give one of them.")
    require_positive(f"rho_{side}", rho)
    require_positive("epsilon", epsilon)
    rho, epsilon = (it if isinstance(it, jax.Array) else np.asarray(it) for it in (rho, epsilon))
    return rho / (rho + epsilon)


def _rounding(a: Held, b: Held) -> float:
    """Return how far two totals that are the same may lie apart, relative: what summing in float32 loses."""
    return max(SAME, float(np.finfo(np.float32).eps) * max(a.shape[0], b.shape[0]))


def _of_one_total(a: Held, b: Held) -> Held:
    """Return b with the total of a, which it must have up to rounding: an error below that could not be reached."""
    left, right = smallest_and_sum(a)[1], smallest_and_sum(b)[1]
    if abs(left - right) > _rounding(a, b) * max(left, right):
        raise ValueError(
            f"a sums to {left:.8g} and b to {right:.8g}: balanced transport needs equal totals. Divide each by its "
            "sum, or relax the marginals with tau_a, tau_b < 1."
        )
    return b if left == right else b * np.asarray(left / right, b.dtype)


@jax.jit
def _stranded(values: Array, a: Array, b: Array) -> Array:
    allowed = values < jnp.inf
    rows, columns = jnp.any(allowed & (b > 0), 1), jnp.any(allowed & (a[:, None] > 0), 0)
    return jnp.stack([jnp.sum(~rows & (a > 0)), jnp.sum(~columns & (b > 0))])


def require_partners(cost: Cost, a: Held, b: Held) -> None:
    """Refuse points with mass all of whose pairs are forbidden, outside jit; inside, their potentials are infinite."""
    if not isinstance(cost, DenseCost) or is_traced(cost.values, a, b):
        return
    rows, columns = np.asarray(now(_stranded, cost.values, a, b))
    if rows or columns:
        raise ValueError(
            f"{rows} row(s) and {columns} column(s) with mass have an infinite cost everywhere, so that their mass "
            "cannot go anywhere: allow a pair, or give them weight zero."
        )


def as_state(cost: Cost, state: Potentials) -> State:
    """Return potentials that fit a cost, on a device."""
    try:
        f, g = state
    except (TypeError, ValueError):
        raise ValueError(f"state is a {type(state).__name__}: give State(f, g), as sinkhorn.run returns it.") from None
    f, g = native("state.f", f), native("state.g", g)
    if (f.shape, g.shape) != ((cost.shape[0],), (cost.shape[1],)):
        raise ValueError(f"state has potentials {f.shape} and {g.shape}: a cost {cost.shape} needs one per point.")
    return State(f.astype(cost.dtype), g.astype(cost.dtype))


def as_numbers(cost: Cost, **numbers: ArrayLike) -> tuple[Held, ...]:
    """Check that numbers are positive and give them the type of the cost."""
    for name, number in numbers.items():
        require_positive(name, number)
    return tuple(
        poison(number.astype(cost.dtype), number > 0)
        if isinstance(number, jax.Array)
        else np.asarray(number, cost.dtype)
        for number in numbers.values()
    )


def as_relaxation(cost: Cost, tau_a: ArrayLike, tau_b: ArrayLike) -> tuple[Held | None, Held | None]:
    """Return both tau as `as_numbers` does; None and None where both are known to be 1."""
    if not is_traced(tau_a, tau_b) and np.all(np.asarray(tau_a) == 1) and np.all(np.asarray(tau_b) == 1):
        return None, None
    return as_numbers(cost, tau_a=tau_a, tau_b=tau_b)


def in_memory(cost: Cost, dense: bool | None) -> Cost:
    """Return the cost as a matrix where that is asked for, or None is and it is small enough."""
    if isinstance(cost, DenseCost):
        return cost
    small = cost.shape[0] * cost.shape[1] <= sizes.here().dense
    if small if dense is None else dense:
        made = object.__new__(DenseCost)
        made.values = jax.lax.optimization_barrier(cost.matrix())  # or XLA computes it again for every use
        return made
    return cost
