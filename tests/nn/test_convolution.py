"""Convolutions in Winograd's form are those of a plain loop, at any height, with their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otgen.nn import convolution


def plain(x, kernel, stride=1):
    """Every output from its window, in float64."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (1, 2))
    return np.einsum("nijcab,abcd->nijd", windows[:, ::stride, ::stride], kernel, optimize=True)


def instance(height, width=3, inputs=64, outputs=64):
    rng = np.random.default_rng(height)
    kernel = rng.normal(size=(3, 3, inputs, outputs)) / np.sqrt(9 * inputs)
    return rng.normal(size=(2, height, width, inputs)).astype(np.float32), kernel.astype(np.float32)


@pytest.mark.parametrize("height", [1, 4, 7, 8])
def test_winograds_form_is_a_plain_loop(height):
    x, kernel = instance(height)
    np.testing.assert_allclose(jax.jit(convolution._winograd)(x, kernel), plain(x, kernel), atol=2e-5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("inputs", [3, 64])
def test_all_of_them_are_a_plain_loop(stride, inputs):
    x, kernel = instance(6, 4, inputs)
    found = jax.jit(convolution.convolve, static_argnames="stride")(x, kernel, stride)
    np.testing.assert_allclose(found, plain(x, kernel, stride), atol=2e-5)


def test_only_wide_ones_in_single_precision_have_the_form_of_winograd():
    def number(inputs, dtype, stride=1):
        x, kernel = (jnp.asarray(it, dtype) for it in instance(8, 4, inputs))
        return str(jax.make_jaxpr(lambda x, w: convolution.convolve(x, w, stride))(x, kernel)).count("conv_general")

    assert number(64, jnp.float32) == 7  # six on CPUs, one elsewhere
    assert [number(32, jnp.float32), number(64, jnp.bfloat16), number(64, jnp.float32, 2)] == [1, 1, 1]


def test_derivatives_are_those_of_the_direct_form():
    x, kernel = instance(5)
    found, expected = (
        jax.jit(jax.grad(lambda *it, f=form: jnp.sum(jnp.sin(f(*it))), (0, 1)))(x, kernel)
        for form in (convolution._winograd, convolution._direct)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5 * float(jnp.abs(other).max()))
