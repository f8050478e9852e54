import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from otgen.nn.augment import Augment, augment

STILL = Augment(0.0, 0.0, 0.0, 0.0, 0.0)
AMOUNTS = Augment(rotation=0.6, shear=0.5, shift=1.5, scale=0.3, noise=0.1)
OPTIONS = {"xla_backend_optimization_level": 0}  # compiled quickly rather than well
moved = jax.jit(augment, static_argnames="amounts", compiler_options=OPTIONS)


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(0), 4)


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).random((4, 7, 6, 2)), jnp.float32)


def drawn(key):
    """The six uniform numbers that an image's move is made of: rotation, shear, scales, shifts."""
    return np.asarray(jax.random.uniform(jax.random.split(key)[0], (6,), minval=-1.0, maxval=1.0), np.float64)


def pulled(image, matrix, shift):
    """The image at matrix (p - middle) + middle + shift for every pixel p, by scipy, zeros outside."""
    middle = (np.array(image.shape[:2]) - 1) / 2
    offset = middle - matrix @ middle + shift
    channels = [
        ndimage.affine_transform(channel, matrix, offset, order=1, mode="grid-constant")
        for channel in np.moveaxis(np.asarray(image, np.float64), 2, 0)
    ]
    return np.stack(channels, axis=2)


def test_no_amounts_leave_images_as_they_are(keys, images):
    np.testing.assert_array_equal(moved(keys, images, amounts=STILL), images)


def test_affine_moves_against_scipy(keys, images):
    found = moved(keys, images, amounts=AMOUNTS) - moved(keys, jnp.zeros_like(images), amounts=AMOUNTS)
    for key, image, one in zip(keys, images, found, strict=True):
        u = drawn(key)
        angle, shear = 0.6 * u[0], np.tan(0.5 * u[1])
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = turn @ np.array([[1, 0], [shear, 1]]) @ np.diag(1 + 0.3 * u[2:4])
        np.testing.assert_allclose(one, pulled(image, matrix, 1.5 * u[4:6]), atol=2e-5)


def test_a_quarter_turn_and_a_shift_by_a_row(keys):
    """Amounts that turn the first image, by its draws, a quarter, so that pixels fall on pixels, and shift it a row."""
    image = np.zeros((7, 7, 2), np.float32)
    image[2:5, 2:5] = np.random.default_rng(1).random((3, 3, 2))
    u = drawn(keys[0])
    amounts = Augment(abs(np.pi / 2 / u[0]), 0.0, abs(1 / u[4]), 0.0, 0.0)
    found = moved(keys[:1], jnp.asarray(image[None]), amounts=amounts)[0]
    across = np.roll(image, -int(np.sign(u[4])), axis=0)
    across = pulled(across, np.eye(2), np.array([0, amounts.shift * u[5]]))
    np.testing.assert_allclose(found, np.rot90(across, k=-int(np.sign(u[0]))), atol=1e-5)


def test_an_image_depends_on_its_own_key_alone(keys, images):
    whole = np.asarray(moved(keys, images, amounts=AMOUNTS))
    order = np.array([2, 0, 3, 1])
    np.testing.assert_array_equal(moved(keys[order], images[order], amounts=AMOUNTS), whole[order])
    other = np.asarray(moved(keys.at[1].set(jax.random.key(9)), images.at[2].set(0.0), amounts=AMOUNTS))
    np.testing.assert_array_equal(other[[0, 3]], whole[[0, 3]])
    assert not np.allclose(other[1], whole[1], atol=0.02)
    assert not np.allclose(other[2], whole[2], atol=0.02)


def test_noise_has_its_deviation(images):
    keys = jax.random.split(jax.random.key(3), 40).reshape(10, 4)
    found = np.stack([moved(few, jnp.zeros_like(images), amounts=AMOUNTS) for few in keys])
    num = found.size
    assert abs(found.mean()) < 5 * 0.1 / np.sqrt(num)
    assert found.std() == pytest.approx(0.1, abs=5 * 0.1 / np.sqrt(2 * num))
    pixels = found.reshape(40, -1)
    assert abs(np.mean(pixels[:, 1:] * pixels[:, :-1])) < 5 * 0.01 / np.sqrt(num)
    assert abs(np.mean(pixels[1:] * pixels[:-1])) < 5 * 0.01 / np.sqrt(num)


@pytest.mark.parametrize("name", ["rotation", "shear", "shift", "scale", "noise"])
@pytest.mark.parametrize("amount", [-0.1, float("nan"), float("inf")])
def test_amounts_out_of_range_raise(name, amount):
    with pytest.raises(ValueError, match=f"{name} = .*zero or more"):
        Augment(**{name: amount})
