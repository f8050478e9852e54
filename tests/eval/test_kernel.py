import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel

from otgen.eval.kernel import Cubic, Energy, Gaussian, kernel_distance

KERNELS = [
    (Cubic(), lambda x, y: polynomial_kernel(x, y, degree=3)),
    (Gaussian(5.0), lambda x, y: rbf_kernel(x, y, gamma=1 / 50)),
    (Energy(), lambda x, y: -cdist(x, y)),
]


def naive(matrix, x, y):
    within = (matrix(x, x), matrix(y, y))
    n, m = len(x), len(y)
    own = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in within]
    return sum(own) - 2 * matrix(x, y).sum() / (n * m)


RNG = np.random.default_rng(0)
X = (10 + RNG.normal(size=(1500, 20))).astype(np.float32)  # n x m does not fit one block
Y = (10 + RNG.normal(size=(900, 20))).astype(np.float32)


@pytest.mark.parametrize(("kernel", "matrix"), KERNELS)
def test_value_is_that_of_float64_matrices_far_from_the_origin(kernel, matrix):
    value = naive(matrix, X.astype(np.float64), Y.astype(np.float64))
    found = float(kernel_distance(X, jnp.asarray(Y), kernel).value)
    assert found == pytest.approx(value, rel=3e-4)
    if isinstance(kernel, Cubic):  # terms of one point taken off by hand: what float32 loses without is seen
        assert found == pytest.approx(value, rel=2e-6)
        plain = naive(lambda x, y: (x @ y.T / np.float32(20) + np.float32(1)) ** 3, X, Y)
        assert abs(plain - value) > 1e-4 * abs(value)


distances = jax.jit(jax.vmap(kernel_distance, (0, 0, None)))


def over_draws(kernel, shift, n, m, d, repeats):
    """Values and errors over independent pairs of samples, 100 at a time."""
    rng = np.random.default_rng(2)
    rounds = []
    for _ in range(repeats // 100):
        x, y = (rng.normal(size=(100, num, d)).astype(np.float32) for num in (n, m))
        rounds.append(distances(x, y + np.float32(shift), kernel))
    return (np.concatenate(part) for part in zip(*rounds, strict=True))


def expected_cubic(shift, d):
    """E (x.x'/d + 1)^3 of normal laws around 0 and around (shift, ..., shift), from moments of s = x.y.

    With means p, q: E s = p.q, Var s = d + |p|^2 + |q|^2, third central moment of s 6 p.q.
    """

    def mean(p, q):
        mu, var, third = p @ q / d + 1, (d + p @ p + q @ q) / d**2, 6 * p @ q / d**3
        return mu**3 + 3 * mu * var + third

    zero, other = np.zeros(d), np.full(d, shift)
    return mean(zero, zero) + mean(other, other) - 2 * mean(zero, other)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_unbiased_and_the_error_is_the_spread(shift):
    repeats = 400
    value, error = over_draws(Cubic(), shift, 60, 45, 6, repeats)
    truth, spread = expected_cubic(shift, 6), value.std(ddof=1)
    assert abs(value.mean() - truth) < 3 * spread / np.sqrt(repeats)
    assert truth == 0 or truth > 10 * spread / np.sqrt(repeats)
    # where the laws are equal, a first-order part is ruled out below 0 and adds up to 15 %
    assert 0.85 < np.sqrt(np.mean(error**2)) / spread < (1.15 if shift else 1.3)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [Gaussian(3.0), Energy(), Cubic()])
@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3])
def test_the_error_of_every_kernel_is_the_spread(kernel, shift):
    value, error = over_draws(kernel, shift, 200, 150, 8, 1000)
    ratio = np.sqrt(np.mean(error**2)) / value.std(ddof=1)
    assert 0.88 < ratio < 1.2
    assert shift or abs(value.mean()) < 3 * value.std(ddof=1) / np.sqrt(1000)


def test_what_it_refuses():
    with pytest.raises(ValueError, match=r"3 columns and y 2"):
        kernel_distance(np.ones((5, 3)), np.ones((5, 2)))
    with pytest.raises(ValueError, match="at least 4"):
        kernel_distance(np.ones((3, 3)), np.ones((5, 3)))
