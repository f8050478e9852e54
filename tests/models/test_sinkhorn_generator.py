"""The generator by the Sinkhorn divergence: its loss against closed forms, what it learns, and what it refuses."""

import itertools
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otgen as og
from otgen.models import sinkhorn_generator
from otgen.train import Checkpoints

TINY = {"latent_dim": 2, "hidden": (16,), "output": "real"}
LEARNT = {"latent_dim": 2, "hidden": (32, 32), "batch_size": 50, "batches": 2, "epochs": 15, "tol": 0.05}


def started(**fields):
    config = sinkhorn_generator.Config(**{**TINY, **fields})
    return sinkhorn_generator.init(jax.random.key(0), config, jnp.zeros((1, 1, 1, 2)), 10)


def batches(num, other=None, seed=0):
    """Data as images of one pixel, and two batches of noise."""
    rng = np.random.default_rng(seed)
    shapes = (num, 2), (num, 2), (other or num, 2)
    data, noise, other = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    return 3 * data[:, None, None] + 1, noise, other


def matched(x, y):
    """The order in which points of y lie best at those of x, by trying all."""
    orders = np.array(list(itertools.permutations(range(len(x)))))
    return y[min(orders, key=lambda order: ((x - y[order]) ** 2).sum())]


def test_at_a_low_temperature_draws_go_from_their_held_partners_to_their_data():
    """Of equally many points the plans are matchings, which five points have 120 of."""
    module, state = started(batch_size=5, batches=1, epsilon=1e-4, tol=1e-4, rho=None)
    images, noise, other = batches(5)
    x, x_other = (np.asarray(module.apply({"params": state.params}, it)).reshape(5, 2) for it in (noise, other))
    y = np.asarray(images).reshape(5, 2)
    unit = 2 * y.var(axis=0).sum()
    wanted = ((matched(x, y) - matched(x, x_other)) ** 2).sum(axis=1).mean() / unit
    value, metrics = sinkhorn_generator.loss(state.params, module, images, noise, other)
    assert float(value) == pytest.approx(wanted, rel=1e-3)
    assert float(metrics["error"]) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("second", ["batch", "mask", "same", "none"])
def test_regression_has_the_gradient_of_the_divergence_in_the_draws(second):
    """For all but "batch", whose held draws are constant: there, that of the two terms in which the draws stand."""
    images, noise, other = batches(12)
    gradients = {}
    for form in ("drift", "divergence"):
        module, state = started(loss=form, second=second, epsilon=(0.1, 0.02), tol=1e-5, rho=None)
        slope = jax.grad(sinkhorn_generator.loss, has_aux=True)
        gradients[form], _ = slope(state.params, module, images, noise, other)
    if second == "batch":

        def terms(params):
            x, x_other = (module.apply({"params": params}, it).reshape(12, 2) for it in (noise, other))
            y, x_other = jnp.asarray(images.reshape(12, 2)), jax.lax.stop_gradient(x_other)
            unit = 2 * y.var(axis=0).sum()

            def value(to, share):
                return og.sinkhorn.value(og.PairwiseCost(x, to), epsilon=share * unit, tol=1e-5) / unit

            return sum(value(y, share) - value(x_other, share) for share in (0.1, 0.02)) / 2

        gradients["divergence"] = jax.grad(terms)(state.params)
    one, other = (np.concatenate([np.ravel(it) for it in jax.tree.leaves(gradients[form])]) for form in gradients)
    np.testing.assert_allclose(one, other, atol=2e-3 * np.abs(other).max())


@pytest.mark.slow
def test_a_plan_serves_several_steps_of_the_optimiser():
    """Two batches of draws, each regressed on twice on where one plan has moved them, by hand."""
    fields = {"batch_size": 4, "batches": 2, "moved": 2, "repeats": 2, "epsilon": 0.1, "tol": 1e-4, "average": 0.5}
    module, state = started(**fields, learning_rate=1e-2)
    images, _, _ = batches(8)
    key = jax.random.key(5)
    new, metrics = jax.jit(sinkhorn_generator.make_step(module, 10))(state, images, key)
    noise, other = (og.train.parallel.normals(it, state.step, 8, 2) for it in jax.random.split(key))

    def draws(params, noise):
        return module.apply({"params": params}, noise).reshape(len(noise), 2)

    x, y = draws(state.params, noise), images.reshape(8, 2)
    unit = 2 * y.var(axis=0).sum()
    options = {"epsilon": 0.1 * unit, "rho": 0.3 * unit, "tol": 1e-4}
    targets = x + og.drift(x, y, draws(state.params, other), **options)
    transform = og.train.settings.adam(1e-2, 40, b2=0.99)
    params, memory = state.params, state.opt_state
    for part in (0, 1, 0, 1):
        rows = slice(part, None, 2)
        slope = jax.grad(lambda it, at=rows: jnp.sum((draws(it, noise[at]) - targets[at]) ** 2) / 4 / unit)(params)
        updates, memory = transform.update(slope, memory)
        params = jax.tree.map(jnp.add, params, updates)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), params, state.params)
    assert max(jax.tree.leaves(moved)) > 1e-4
    for found, wanted in zip(jax.tree.leaves(new.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert int(new.step) == 1
    assert float(metrics["error"]) < 1e-3


@pytest.fixture(scope="module")
def moons():
    return og.data.toy.two_moons(jax.random.key(0), 2000), og.data.toy.two_moons(jax.random.key(1), 2000)


def learnt(points, **fields):
    model = sinkhorn_generator.fit(jax.random.key(2), points, **{**LEARNT, **fields})
    return sinkhorn_generator.sample(jax.random.key(3), model, 2000)


@pytest.mark.slow
def test_a_short_fit_comes_near_the_data_and_keeps_their_spread(moons):
    train, test = moons
    start = learnt(train, epochs=1e-9)
    new = learnt(train)
    distance = og.sinkhorn_divergence(new, test, epsilon=0.05, tol=1e-2)
    assert new.shape == (2000, 2)
    assert distance < 0.06 * og.sinkhorn_divergence(start, test, epsilon=0.05, tol=1e-2)
    assert float(new.var(axis=0).sum() / test.var(axis=0).sum()) == pytest.approx(1, abs=0.12)


@pytest.mark.slow
def test_without_a_second_batch_the_generator_shrinks():
    """In 16 dimensions, where a batch is sparse: the same batch loses a part of the variance, that two batches keep."""
    points = jax.random.normal(jax.random.key(0), (2000, 16))
    fields = {"latent_dim": 16, "batches": 1, "epochs": 25}
    kept = {name: float(learnt(points, second=name, **fields).var(axis=0).mean()) for name in ("same", "batch")}
    assert kept["same"] < 0.7
    assert kept["batch"] > 0.8


@pytest.mark.slow
def test_relaxed_marginals_build_no_bridges():
    """Of two modes 4 apart draws between them are fewer where shares of batches need not be met."""
    rng = np.random.default_rng(0)
    points = (rng.normal(size=(2000, 2)) * 0.1 + np.where(rng.random(2000) < 0.5, 2, -2)[:, None]).astype(np.float32)
    fields = {"epsilon": 0.003, "frequencies": 4.0, "epochs": 40}
    between = {rho: float((np.abs(learnt(points, rho=rho, **fields)[:, 0]) < 1.5).mean()) for rho in (None, 0.1)}
    assert between[0.1] < 0.6 * between[None]


@pytest.mark.slow
def test_features_decide_where_the_transport_is(moons):
    """Features that see the first coordinate alone leave the second as it was, and match the law of the first."""
    train, test = moons
    wide = train[:, None, None] * jnp.array([1.0, 0.0])
    new = sinkhorn_generator.fit(
        jax.random.key(2), wide + jnp.array([0.0, 9.0]), features=lambda x: x[:, 0, 0, :1], output="real", **LEARNT
    )
    drawn = sinkhorn_generator.sample(jax.random.key(3), new, 2000)[:, 0, 0]
    assert float(jnp.abs(jnp.sort(drawn[:, 0]) - jnp.sort(test[:, 0])).mean()) < 0.08
    assert float(jnp.abs(drawn[:, 1] - 9).min()) > 1  # where all data are


@pytest.mark.slow
def test_draws_of_a_label_are_of_it(moons):
    points, _ = moons
    model = sinkhorn_generator.fit(jax.random.key(2), points, (points[:, 0] > 0.5).astype(int) + 3, **LEARNT)
    for label in (3, 4):
        drawn = sinkhorn_generator.sample(jax.random.key(4), model, 500, label=label)
        assert float(((drawn[:, 0] > 0.5) == (label == 4)).mean()) > 0.9


@pytest.mark.slow
def test_temperatures_fall_until_half_of_the_training():
    """While they are as high as those of a fit without annealing its first step is the same; later it is not."""
    images, _, _ = batches(40)

    def params_after(steps, **fields):
        module, state = started(batch_size=20, batches=2, **fields)
        step = sinkhorn_generator.make_step(module, 10)
        for _ in range(steps):
            state, _ = step(state._replace(step=state.step + 0), images, jax.random.key(1))
        return np.asarray(jax.tree.leaves(state.params)[-1])

    hot, cooled = params_after(2, epsilon=0.5), params_after(2, epsilon=0.05, epsilon_start=0.5)
    cold = params_after(2, epsilon=0.05)
    assert np.abs(hot - cooled).max() < np.abs(hot - cold).max()


@pytest.mark.slow
@pytest.mark.usefixtures("heard")
def test_a_fit_goes_on_bit_identically_and_is_saved(moons, tmp_path):
    train, _ = moons
    fields = {**TINY, "batch_size": 20, "batches": 2, "epochs": 2.0}  # 100 steps

    def stop(step, metrics):
        if step == 50:  # noticed after the next step; a second signal would end the run at once
            signal.raise_signal(signal.SIGINT)

    whole = sinkhorn_generator.fit(jax.random.key(0), train, **fields)
    with Checkpoints(tmp_path / "folder", {}) as saved, pytest.raises(KeyboardInterrupt):
        sinkhorn_generator.fit(jax.random.key(0), train, callback=stop, checkpoints=saved, **fields)
    with Checkpoints(tmp_path / "folder", {}) as saved:
        assert saved.newest() == 51
        again = sinkhorn_generator.fit(jax.random.key(0), train, checkpoints=saved, **fields)
    for x, y in zip(jax.tree.leaves(whole.variables), jax.tree.leaves(again.variables), strict=True):
        np.testing.assert_array_equal(x, y)
    og.save(tmp_path / "model", again)
    drawn = [sinkhorn_generator.sample(jax.random.key(1), it, 5) for it in (again, og.load(tmp_path / "model"))]
    np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss": "chi2"}, "'drift', 'divergence'"),
        ({"second": "third"}, "'batch', 'mask', 'same', 'none'"),
        ({"epsilon": (0.1, -1.0)}, "epsilon"),
        ({"epsilon": ()}, "one temperature or several"),
        ({"epsilon": "much"}, "epsilon"),
        ({"epsilon_start": 0.0}, "epsilon_start"),
        ({"rho": -1.0}, "rho"),
        ({"frequencies": -1.0}, "frequencies"),
        ({"batches": 0}, "batches"),
        ({"batches": 3, "moved": 2}, "multiple of moved"),
        ({"loss": "divergence", "repeats": 2}, "leave moved and repeats"),
        ({"average": 1.0}, "average"),
        ({"output": "unit"}, "points"),
        ({"features": 3}, "features"),
        ({"features": lambda x: x}, r"\[n, f\]"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        sinkhorn_generator.fit(jax.random.key(0), np.zeros((40, 2), np.float32), **{**LEARNT, **fields})


@pytest.mark.slow
def test_a_folder_of_other_features_is_refused(tmp_path):
    points = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    fields = {**TINY, "batch_size": 10, "batches": 2, "epochs": 1, "checkpoints": tmp_path}
    sinkhorn_generator.fit(jax.random.key(0), points, features=lambda x: x[:, 0, 0], **fields)
    with pytest.raises(ValueError, match="features"):
        sinkhorn_generator.fit(jax.random.key(0), points, features=lambda x: 2 * x[:, 0, 0], **fields)


def test_rows_that_are_no_whole_batches_are_refused():
    module, state = started(batch_size=20, batches=2)
    images, noise, other = batches(21)
    with pytest.raises(ValueError, match="give a multiple"):
        sinkhorn_generator.make_step(module, 10)(state, images, jax.random.key(0))
    with pytest.raises(ValueError, match="whole share"):
        sinkhorn_generator.loss(state.params, module, images, noise[:20], other)
