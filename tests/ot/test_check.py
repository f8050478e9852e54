"""Arrays of other libraries, as PyTorch's tensors are: stand-ins, as it need not be installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otgen.ot.check import as_points, native


class OnDevice:
    """A tensor of which NumPy cannot see the memory, as on a GPU, or does not know the type."""

    def __init__(self, values):
        self._values = values

    def __array__(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __dlpack__(self, **options):
        return self._values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._values.__dlpack_device__()


class WithGradient(OnDevice):
    def __array__(self, *_, **__):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")

    def __dlpack__(self, **_):
        raise BufferError("Can't export tensors that require gradient, use tensor.detach()")


class Readable(OnDevice):
    """A tensor in this machine's memory."""

    def __array__(self, *_, **__):
        return self._values


@pytest.mark.parametrize("kind", [OnDevice, Readable])
def test_tensors_are_read_and_copied(kind):
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    points = as_points("x", kind(values))
    expected = values.copy()
    values[:] = -1  # their owner goes on
    assert isinstance(points, jax.Array)
    np.testing.assert_array_equal(points, expected)


def test_half_floats_come_by_dlpack():
    values = jnp.arange(4, dtype=jnp.bfloat16)
    assert native("x", OnDevice(values)).dtype == jnp.bfloat16


def test_tensors_are_read_while_others_are_traced():
    values = np.ones((3, 2), np.float32)
    assert jax.jit(lambda y: as_points("x", OnDevice(values)).sum() + y)(1.0) == 7


def test_a_tensor_that_nobody_may_read_names_the_way():
    with pytest.raises(ValueError, match=r"x is a .*WithGradient .*jax\.dlpack\.from_dlpack\(tensor\.detach\(\)\)"):
        as_points("x", WithGradient(np.ones((3, 2), np.float32)))


@pytest.mark.parametrize("dtype", [np.complex64, np.int32])
def test_types_are_looked_at_whatever_the_library(dtype):
    given = OnDevice(np.ones((3, 2), dtype))
    if dtype == np.int32:
        assert as_points("x", given).dtype == jnp.float32
        return
    with pytest.raises(ValueError, match="give real numbers"):
        native("x", given)
