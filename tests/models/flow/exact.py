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
