"""UNets of velocities: sides of any size, zero before training, labels and attention that matter after it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otgen.models import flow
from otgen.nn.unet import UNet

KEY = jax.random.key(0)


@pytest.mark.parametrize("shape", [(28, 28, 1), (7, 7, 3), (5, 9, 2), (1, 1, 2)], ids=str)
def test_sides_of_any_size_come_back(shape):
    net = UNet(shape, width=8, depth=1, levels=3, attention=True, num_classes=2)
    found, _ = jax.eval_shape(net.init_with_output, KEY, jnp.zeros(3), jnp.zeros((3, *shape)), jnp.zeros(3, jnp.int32))
    assert found.shape == (3, *shape)
    assert found.dtype == jnp.float32


def test_half_precision_is_computed_in_and_not_returned():
    net = UNet((7, 6, 1), width=8, depth=1, levels=1, attention=True, precision="bfloat16")
    traced = jax.make_jaxpr(net.init_with_output)(KEY, jnp.zeros(3), jnp.zeros((3, 7, 6, 1)))
    kinds = {str(one.outvars[0].aval.dtype) for one in traced.eqns if one.primitive.name == "conv_general_dilated"}
    assert kinds == {"bfloat16"}
    assert {str(it.dtype) for it in traced.out_avals} == {"float32"}


@pytest.mark.slow
def test_a_velocity_is_zero_before_training_and_depends_on_all_that_it_is_told_after_it():
    net = UNet((7, 6, 1), width=8, depth=1, levels=1, attention=True, num_classes=2)
    x, t, label = jax.random.normal(KEY, (2, 7, 6, 1)), jnp.array([0.1, 0.1]), jnp.array([0, 1])
    found, variables = jax.jit(net.init_with_output)(KEY, t, x, label)
    assert (found == 0).all()
    assert found.dtype == jnp.float32
    noisy = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(KEY, leaf.shape), variables)
    apply = jax.jit(net.apply)
    base = apply(noisy, t, x, label)
    for changed in ((t + 0.5, x, label), (t, x.at[:, 6, 5].add(1.0), label), (t, x, 1 - label), (t, x, label + 1)):
        assert (jnp.abs(apply(noisy, *changed) - base).max((1, 2, 3)) > 0.01).all()
    far = apply(noisy, t, x.at[:, 6, 5].add(1.0), label) - base
    assert (jnp.abs(far[:, 0, 0]) > 1e-4).all()  # attention reaches from corner to corner


@pytest.mark.slow
def test_a_few_steps_on_digits_improve_much(digits):
    images = digits.images[:500].astype(np.float32) / 127.5 - 1
    seen = []
    model = flow.fit(
        KEY,
        images,
        coupling="independent",
        width=8,
        depth=1,
        levels=1,
        num_steps=150,
        batch_size=32,
        learning_rate=5e-3,
        average=0.9,
        callback=lambda step, metrics: seen.append(metrics["loss"]),
    )
    at_start = 64 + float(np.mean(np.sum(images**2, (1, 2, 3))))  # of a velocity of zero
    assert seen[-1] < 0.5 * at_start
    drawn = np.asarray(flow.sample(KEY, model, 64))
    noise = np.random.default_rng(0).normal(size=drawn.shape)
    apart = [np.abs(it.mean(0) - images.mean(0)).mean() for it in (drawn, noise)]
    assert apart[0] < 0.4 * apart[1]
