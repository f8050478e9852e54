"""The plan of a pair of potentials, a_i b_j exp((f_i + g_j - c_ij) / epsilon): its marginals, products, value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from otgen.ot.costs import Cost, DenseCost
from otgen.ot.costs.ground import as_cost, as_vectors
from otgen.ot.inert import carried, gibbs
from otgen.ot.products import product
from otgen.ot.sinkhorn.inputs import Potentials, as_masses, as_numbers, as_state
from otgen.types import Array, Float


class Read(NamedTuple):
    """What a read-out of the plan needs, checked: potentials are minus infinity at points without mass."""

    cost: Cost
    f: Array
    g: Array
    a: Array
    b: Array
    epsilon: Array

    def rows(self, function: Callable[[Array, Array], Array]) -> Array:
        """Return function(costs, density) of each block of rows of the plan over a b'."""
        whole = lambda block, f: function(block, gibbs(block, f, self.g, self.epsilon, jnp.inf))  # noqa: E731
        return self.cost.map_blocks(whole, self.f)

    def columns(self, function: Callable[[Array, Array], Array]) -> Array:
        """Return function(costs, density) of each block of columns."""
        whole = lambda block, g: function(block, gibbs(block, self.f, g, self.epsilon, jnp.inf))  # noqa: E731
        return self.cost.map_blocks(whole, self.g, axis=0)


def read(
    cost: Cost | ArrayLike,
    state: Potentials,
    a: ArrayLike | None,
    b: ArrayLike | None,
    epsilon: ArrayLike,
    axis_name: str | None = None,
) -> tuple:
    """Check what a read-out was given. Where points carry nothing, what their potentials are does not matter."""
    cost = as_cost(cost)
    a, b = as_masses(cost, a, b, 1.0, 0.5, axis_name)
    (epsilon,) = as_numbers(cost, epsilon=epsilon)
    f, g = as_state(cost, state)
    return cost, f, g, a, b, epsilon


def reading(cost: Cost, f: Array, g: Array, a: Array, b: Array, epsilon: Array) -> Read:
    """Take points without mass out of the plan, inside jit."""
    return Read(cost.weighed(a, b), carried(f, a), carried(g, b), a, b, epsilon)


def marginals(
    cost: Cost | ArrayLike,
    state: Potentials,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
    axis_name: str | None = None,
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    """Return the marginals P1 [n] and P'1 [m] of the plan of a state, streamed.

    Args:
      cost: ground cost n x m, or a matrix [n, m].
      state: potentials.
      a: weights of the source points; uniform for None.
      b: weights of the target points; uniform for None.
      epsilon: temperature of the potentials.
      axis_name: of a mapped axis over which the source points are spread. Static.

    Raises:
      ValueError: outside jit, for weights or an epsilon that cannot be.

    Example:
      >>> x, a, b = np.array([[0.0], [1.0]]), np.array([0.3, 0.7]), np.array([0.6, 0.4])
      >>> cost = og.PairwiseCost(x, x)
      >>> state, _ = og.sinkhorn.run(cost, a, b, epsilon=0.5, tol=1e-5)
      >>> rows, columns = og.sinkhorn.marginals(cost, state, a, b, epsilon=0.5)
      >>> print(rows, columns)
      [0.3 0.7] [0.6 0.4]
    """
    return _marginals(*read(cost, state, a, b, epsilon, axis_name), axis_name=axis_name)


def marginals_of(
    cost: Cost, f: Array, g: Array, a: Array, b: Array, epsilon: Array, axis_name: str | None
) -> tuple[Array, Array]:
    """Return the marginals of a plan, unchecked, inside jit."""
    it = reading(cost, f, g, a, b, epsilon)
    if isinstance(it.cost, DenseCost):
        kernel = jax.lax.optimization_barrier(gibbs(it.cost.values, it.f, it.g, it.epsilon, jnp.inf))
        rows, columns = product(kernel, it.b), product(it.a, kernel)
    else:
        rows = it.rows(lambda _, kernel: product(kernel, it.b))
        columns = it.columns(lambda _, kernel: product(it.a, kernel))
    if axis_name is not None:
        columns = jax.lax.psum(columns, axis_name)
    return it.a * rows, it.b * columns


_marginals = jax.jit(marginals_of, static_argnames="axis_name")


def plan(
    cost: Cost | ArrayLike,
    state: Potentials,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
) -> Float[Array, "n m"]:
    """Return the transport plan of a state as a matrix, n x m in memory. Arguments and errors as in `marginals`.

    Example:
      >>> x, a, b = np.array([[0.0], [1.0]]), np.array([0.3, 0.7]), np.array([0.6, 0.4])
      >>> cost = og.PairwiseCost(x, x)
      >>> state, _ = og.sinkhorn.run(cost, a, b, epsilon=0.02, tol=1e-5)
      >>> print(og.sinkhorn.plan(cost, state, a, b, epsilon=0.02))  # .3 has to move
      [[0.3 0.]
       [0.3 0.4]]
    """
    return _plan(*read(cost, state, a, b, epsilon))


@jax.jit
def _plan(*given: Any) -> Array:
    cost, f, g, a, b, epsilon = reading(*given)
    # In this order: a b' alone, of constants, would be an n x m constant of the caller's program.
    return (a[:, None] * gibbs(cost.matrix(), f, g, epsilon, jnp.inf)) * b


def apply_plan(
    cost: Cost | ArrayLike,
    state: Potentials,
    vectors: ArrayLike,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
    axis: int = 1,
) -> Float[Array, "_ ..."]:
    """Return the plan times vectors, without the plan.

    The barycentric map of the source points is `apply_plan(cost, state, y, ...) / P1`, with P1 = `apply_plan` of ones
    or simply a where the marginals are met.

    Args:
      vectors: [m] or [m, k] for axis 1; [n] or [n, k] for axis 0.
      cost, state, a, b, epsilon: as in `marginals`.
      axis: the side that is summed over, 1 for P v and 0 for P' v. Static.

    Returns:
      One row per point of the other side.

    Raises:
      ValueError: for vectors of another length, and as in `marginals`.

    Example:
      >>> cost = og.PairwiseCost(jnp.array([[0.0], [1.0]]), jnp.array([[5.0], [7.0]]))
      >>> state, _ = og.sinkhorn.run(cost, epsilon=0.01, tol=1e-5)
      >>> moved = 2 * og.sinkhorn.apply_plan(cost, state, jnp.array([[5.0], [7.0]]), epsilon=0.01)
      >>> print(moved.T.round(2))  # where 0 and 1 go
      [[5. 7.]]
    """
    cost, *_ = given = read(cost, state, a, b, epsilon)
    vectors = as_vectors(vectors, cost, axis)
    return _apply(given, vectors.astype(cost.dtype), axis)


@jax.jit(static_argnums=2)
def _apply(given: tuple, vectors: Array, axis: int) -> Array:
    it = reading(*given)
    ours, theirs = (it.b, it.a) if axis == 1 else (it.a, it.b)
    columns = ours[:, None] * jnp.where(ours[:, None] > 0, vectors.reshape(vectors.shape[0], -1), 0.0)
    if axis == 1:
        out = it.rows(lambda _, kernel: product(kernel, columns))
    else:
        out = it.columns(lambda _, kernel: product(kernel.T, columns))
    return (theirs[:, None] * out).reshape(-1, *vectors.shape[1:])


def primal_cost(
    cost: Cost | ArrayLike,
    state: Potentials,
    a: ArrayLike | None = None,
    b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
) -> Float[Array, ""]:
    """Return what the plan of a state costs, <C, P>, without its entropy; streamed.

    Arguments and errors as in `marginals`.

    Example:
      >>> cost = og.PairwiseCost(jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [3.0]]))
      >>> state, _ = og.sinkhorn.run(cost, epsilon=0.01, tol=1e-5)
      >>> print(og.sinkhorn.primal_cost(cost, state, epsilon=0.01))  # (0 + 4) / 2
      2.0
    """
    return _primal_cost(*read(cost, state, a, b, epsilon))


@jax.jit
def _primal_cost(*given: Any) -> Array:
    it = reading(*given)
    return product(it.a, it.rows(lambda block, kernel: product(jnp.where(kernel > 0, block, 0.0) * kernel, it.b)))
