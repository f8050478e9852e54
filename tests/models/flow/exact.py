"""Velocity fields in closed form: independent noise N(0, I), and data of a Gaussian."""

import flax.linen as nn
import jax.numpy as jnp


class Gaussian(nn.Module):
    """v(t, x) = E[x1 - x0 | x_t = x] for x1 from N(mean, sd^2 I): x_t has the variance s = (1 - t)^2 + t^2 sd^2."""

    mean: tuple[float, ...]
    sd: float
    num_classes: int = 0
    num_conditions: int = 0

    @property
    def shape(self):
        return (len(self.mean),)

    def __call__(self, t, x, label=None):
        t, mean = t[:, None], jnp.asarray(self.mean)
        return mean + (t * self.sd**2 - (1 - t)) / ((1 - t) ** 2 + (t * self.sd) ** 2) * (x - t * mean)

    def moved(self, x):
        """Where noise x arrives."""
        return jnp.asarray(self.mean) + self.sd * x


class Linear(nn.Module):
    """v(t, x) = A x."""

    matrix: tuple[tuple[float, ...], ...]
    num_classes: int = 0
    num_conditions: int = 0

    @property
    def shape(self):
        return (len(self.matrix),)

    def __call__(self, t, x, label=None):
        return x @ jnp.asarray(self.matrix).T


class Monge(nn.Module):
    """v(t, x) = x1 - x0 of the pairs x1 = mean + sd x0, which transport makes of N(0, I) and N(mean, sd^2 I)."""

    mean: tuple[float, ...]
    sd: float
    num_classes: int = 0
    num_conditions: int = 0

    @property
    def shape(self):
        return (len(self.mean),)

    def __call__(self, t, x, label=None):
        t, mean = t[:, None], jnp.asarray(self.mean)
        return mean + (self.sd - 1) * (x - t * mean) / (1 - t + t * self.sd)


class Cells(nn.Module):
    """v(t, x) = x1 - x0 of noise on the line and the nearer of the points -1 and 1, the semi-discrete map to them."""

    num_classes: int = 0
    num_conditions: int = 0
    shape: tuple[int, ...] = (1,)

    def __call__(self, t, x, label=None):
        return (jnp.sign(x) - x) / (1 - t[:, None])
