"""Flows: what they minimise, what they draw, that labels and guidance do what they say, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otgen as og
from otgen.models import flow
from otgen.models.flow import paths
from otgen.models.flow.training import draws
from tests.models.flow.exact import Gaussian

KEY = jax.random.key(0)
NUM = 4000
CENTRES = np.array([[-1.0, 0.0], [1.0, 0.5]], np.float32)
LABELS = np.where(np.arange(600) % 3 == 0, 3, 7)  # a third is of class 3
SPREAD = 0.3
DATA = (
    CENTRES[(LABELS == 7).astype(int)] + SPREAD * np.random.default_rng(0).normal(size=(600, 2)).astype(np.float32)
).astype(np.float32)
TINY = {"width": 32, "depth": 1, "num_steps": 400, "batch_size": 128, "average": 0.97, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def model():
    """A flow of two classes, with labels as numbers that are not 0 and 1."""
    return flow.fit(KEY, DATA, LABELS, coupling="independent", label_dropout=0.2, **TINY)


@pytest.mark.slow
def test_before_training_the_loss_is_the_mean_squared_distance_of_the_pairs():
    module, state = flow.init(KEY, flow.Config(width=8), (2,), num_classes=2)
    batch = og.coupling.Independent(jnp.asarray(DATA), LABELS).pair(KEY, 64)
    weight = np.linspace(0.5, 1.5, 64, dtype=np.float32)
    value, _ = flow.loss(state.params, module, batch._replace(weight=weight), np.linspace(0, 1, 64, dtype=np.float32))
    squares = np.sum((np.asarray(batch.x1) - np.asarray(batch.x0)) ** 2, 1)
    np.testing.assert_allclose(value, np.mean(weight * squares), rtol=1e-5)


@pytest.mark.parametrize("law", ["uniform", "logit-normal"])
def test_every_stratum_of_the_times_is_drawn_once(law):
    t = np.asarray(draws(KEY, 3, 256, law)[0])
    share = t if law == "uniform" else np.asarray(jax.scipy.stats.norm.cdf(np.log(t) - np.log1p(-t)))
    np.testing.assert_array_equal(np.sort(np.floor(share * 256 + 1e-3 * (law != "uniform"))), np.arange(256))
    assert abs(np.corrcoef(t, np.arange(256))[0, 1]) < 4 / np.sqrt(256)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2)])
def test_steps_converge_at_their_order_to_the_flow_of_a_gaussian(method, order):
    module = Gaussian((1.0, -2.0), 0.3)
    x = jax.random.normal(KEY, (50, 2))
    found = []
    for num in (16, 32):
        there = paths.integrate(lambda t, x: module(jnp.full(50, t), x), x, 0.0, 1.0, method, num)
        back = paths.integrate(lambda t, x: module(jnp.full(50, t), x), there, 1.0, 0.0, method, num)
        found.append([float(jnp.abs(it).max()) for it in (there - module.moved(x), back - x)])
    assert (np.log2(np.divide(*found)) > order - 0.4).all()


@pytest.mark.slow
def test_the_adaptive_solver_arrives_where_the_flow_of_a_gaussian_does():
    module = Gaussian((1.0, -2.0), 0.3)
    x = jax.random.normal(KEY, (50, 2))
    there = paths.integrate(lambda t, x: module(jnp.full(50, t), x), x, 0.0, 1.0, "adaptive", 0)
    np.testing.assert_allclose(there, module.moved(x), atol=1e-4)
    lost = paths.integrate(lambda t, x: jnp.full_like(x, jnp.nan), x, 0.0, 1.0, "adaptive", 0)
    assert np.isnan(lost).all()


def test_samples_have_the_labels_that_are_asked_for_and_their_shares(model):
    assert model.config.sample_steps == 16
    for row, label in enumerate((3, 7)):
        drawn = np.asarray(flow.sample(KEY, model, NUM, label=label))
        np.testing.assert_allclose(drawn.mean(0), CENTRES[row], atol=0.1)
        np.testing.assert_allclose(drawn.std(0), SPREAD, rtol=0.25)
    first = np.asarray(flow.sample(KEY, model, NUM))[:, 0] < 0
    assert abs(first.mean() - 1 / 3) < 0.05
    each = np.where(np.arange(NUM) % 2, 3, 7)
    right = (np.asarray(flow.sample(KEY, model, NUM, label=each))[:, 0] < 0) == (each == 3)
    assert right.mean() > 0.98


@pytest.mark.slow
def test_without_a_label_noise_becomes_data_of_all_classes_and_guidance_moves_them_apart(model):
    noise = jax.random.normal(KEY, (NUM, 2))
    plain = np.asarray(flow.decode(model, noise))  # the label is hidden
    assert 0.2 < (plain[:, 0] < 0).mean() < 0.5
    centre = [np.asarray(flow.decode(model, noise, 7, guidance=weight)).mean(0)[0] for weight in (0.0, 1.0)]
    assert centre[1] > centre[0] + 0.05
    twice = flow.velocity(model, noise, 0.5, 7) - flow.velocity(model, noise, 0.5)
    wanted = flow.velocity(model, noise, 0.5, 7) + 2.0 * twice
    np.testing.assert_allclose(flow.velocity(model, noise, 0.5, 7, guidance=2.0), wanted, atol=1e-4)


def test_encoding_undoes_decoding_and_a_path_may_stop_half_way(model):
    noise = flow.encode(model, DATA, LABELS, method="heun", num_steps=64)
    np.testing.assert_allclose(flow.decode(model, noise, LABELS, method="heun", num_steps=64), DATA, atol=0.01)
    half = flow.move(model, noise, LABELS, t1=0.5, method="heun", num_steps=32)
    there = flow.move(model, half, LABELS, t0=0.5, method="heun", num_steps=32)
    np.testing.assert_allclose(there, DATA, atol=0.01)


@pytest.mark.slow
def test_pieces_of_bounded_memory_give_the_same(model, monkeypatch):
    whole = flow.decode(model, DATA, LABELS)
    monkeypatch.setattr(paths, "_PIECE", 128)  # 64 points
    np.testing.assert_allclose(flow.decode(model, DATA, LABELS), whole, atol=1e-5)
    assert flow.sample(KEY, model, 150, label=LABELS[:150]).shape == (150, 2)


@pytest.mark.slow
def test_a_semidiscrete_coupling_needs_one_step():
    flowed = flow.fit(KEY, DATA, tol=0.1, **TINY)
    assert flowed.config.sample_steps == 2
    assert flowed.info.status == og.Status.CONVERGED
    other = flow.fit(KEY, DATA, coupling="independent", **TINY)

    def apart(model, num):
        return og.sinkhorn_divergence(flow.sample(KEY, model, 500, method="euler", num_steps=num), DATA, epsilon=0.05)

    assert apart(flowed, 1) < 0.2 * apart(other, 1)
    assert apart(flowed, 4) < 0.1


@pytest.mark.slow
def test_conditions_are_numbers_and_hidden_ones_are_of_no_label():
    flowed = flow.fit(KEY, DATA, DATA[:, :1], coupling="independent", label_dropout=0.2, **TINY)
    drawn = flow.sample(KEY, flowed, 500, label=[0.5], guidance=0.5)
    np.testing.assert_allclose(drawn[:, 0].mean(), 0.5, atol=0.15)
    np.testing.assert_allclose(drawn[:, 0].std(), 0, atol=0.2)
    assert np.asarray(flow.sample(KEY, flowed, 500))[:, 0].std() > 0.6
    with pytest.raises(ValueError, match=r"label has shape \(2,\): give conditions \[1\]"):
        flow.sample(KEY, flowed, 5, label=[0.5, 0.1])


@pytest.mark.slow
def test_half_precision_computes_in_it_and_gives_float32():
    module, state = flow.init(KEY, flow.Config(width=8, precision="bfloat16"), (2,))
    found, inside = module.apply(
        {"params": state.params}, jnp.zeros(3), jnp.ones((3, 2)), capture_intermediates=True, mutable="intermediates"
    )
    assert found.dtype == jnp.float32 == state.params["Dense_0"]["kernel"].dtype
    assert {leaf.dtype for leaf in jax.tree.leaves(inside["intermediates"]) if leaf.shape != (3, 2)} == {
        jnp.dtype(jnp.bfloat16)
    }


def own_pairs(key, num):
    return og.coupling.Batch(jnp.zeros((num, 2)), jnp.ones((num, 2)), None, jnp.ones(num), jnp.zeros(num, jnp.int32))


class Own:
    pair = staticmethod(own_pairs)


def test_a_coupling_of_ones_own_is_taken():
    flowed = flow.fit(KEY, DATA, coupling=Own(), **{**TINY, "num_steps": 60})
    at_start = flow.velocity(flowed, jnp.zeros((1, 2)), 0.0)
    np.testing.assert_allclose(at_start, 1, atol=0.2)


def test_data_of_another_scale_are_used_as_they_are_and_warned_of():
    with pytest.warns(UserWarning, match=r"standard deviation of 7.\d* about a mean .* standard deviation is 1"):
        flow.fit(KEY, 10 * DATA, coupling="independent", **{**TINY, "num_steps": 1})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": np.where(DATA > 1, np.nan, DATA)}, "data has .* NaN"),
        ({"data": DATA[:, 0]}, r"\[N, d\]"),
        ({"data": DATA.reshape(-1, 2, 2, 1), "coupling": "independent", "width": 12}, "width = 12: .* multiple of 8"),
        ({"labels": LABELS[:-1]}, "give 600 integers"),
        ({"coupling": "greedy"}, "'semidiscrete', 'independent', 'minibatch', 'sinkhorn'"),
        (
            {"coupling": og.coupling.Independent(jnp.asarray(DATA[:, :1]))},
            r"pairs x0 of shape \(1,\), but data have \(2,\)",
        ),
        ({"coupling": og.coupling.Independent(jnp.asarray(DATA), LABELS)}, "coupling has labels, but the fit has none"),
        ({"coupling": "independent", "num_steps": 0}, "num_steps = 0"),
        ({"coupling": "independent", "label_dropout": 1.0}, "label_dropout"),
        ({"coupling": "independent", "method": "rk4"}, "'euler', 'midpoint', 'heun', 'adaptive'"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_fit_refuses_what_it_cannot_learn_from(arguments, message):
    with pytest.raises(ValueError, match=message):
        flow.fit(KEY, **{"data": DATA, **arguments})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps = 0"),
        ({"label": 5}, r"label = 5 is unknown to this model: its labels are \[3, 7\]"),
        ({"label": [3, 5]}, "label = 5 is unknown"),
        ({"label": [3, 3, 3]}, "one for all, or 2"),
        ({"guidance": -1.0}, "guidance"),
    ],
    ids=str,
)
def test_a_flow_refuses_what_it_cannot_draw(model, options, message):
    with pytest.raises(ValueError, match=message):
        flow.sample(KEY, model, 2, **options)


def test_guidance_needs_labels_and_some_that_were_hidden(model):
    without = model._replace(module=model.module.clone(num_classes=0))
    with pytest.raises(ValueError, match="fitted without labels"):
        flow.sample(KEY, without, 2, guidance=1.0)
    never = model._replace(config=flow.Config(label_dropout=0.0))
    with pytest.raises(ValueError, match="label_dropout = 0"):
        flow.sample(KEY, never, 2, guidance=1.0)
    with pytest.raises(ValueError, match="label_dropout = 0"):
        flow.decode(never, DATA)
