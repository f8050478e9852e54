import functools
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special, stats

from otgen.data import toy
from otgen.eval.information import nmi
from otgen.eval.modes import mode_scores
from otgen.models.informative import informative_gan
from otgen.models.informative.codes import Codes
from otgen.models.informative.informative_gan import Config
from otgen.models.informative.losses import Losses
from otgen.nn.augment import Augment
from otgen.train import Checkpoints
from tests.support.processes import told_by

# compiled quickly rather than well
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

CODED = {"latent_dim": 2, "categorical": (2,), "uniform": 1, "noises": 2, "batch_size": 8, "strength": 1.5}
CODED |= {"output": "real", "augment": None, "epsilon": 0.3, "lam": 0.4, "lam_continuous": 0.2}
NUM, UNIT = 6, 3.0  # data beside 8 latents; mean cost


class Linear:
    """Linear networks, and potentials that are sines of such, in the place of the model's: gradients by hand."""

    def __init__(self, config):
        self.config = config

    def apply(self, variables, *arguments, method):
        (p,) = variables["params"].values()
        latent = self.config.latent
        if method == "decode":
            return (latent.join(*arguments) @ p)[:, None, None]
        points = arguments[-1].reshape(len(arguments[-1]), -1)
        if method == "potential":
            return jnp.sin(jnp.concatenate([latent.embed(arguments[0]), points], axis=1) @ p)
        return {"own_potential": jnp.sin, "read": lambda x: x, "embed": lambda x: x}[method](points @ p)


def problem(config, seed=0):
    """Parameters of the linear networks, latents, fresh latents, data, and the data moved."""
    rng, latent = np.random.default_rng(seed), config.latent
    shapes = {"generator": (latent.dim, 2), "critic": (latent.dim - latent.noise + 2,), "own": (2,)}
    shapes |= {"encoder": (2, latent.outputs), "features": (2, 3)}
    params = {name: jnp.asarray(0.7 * rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    num, num_codes = config.batch_size, config.num_codes(config.batch_size)

    def latents():
        number = np.arange(num) % num_codes
        categories = np.stack([number % size for size in latent.categorical], axis=1).astype(np.int32)
        values = rng.uniform(-1, 1, (num_codes, latent.continuous))[number]
        return Codes(*map(jnp.asarray, (categories, values.astype(np.float32)))), jnp.asarray(
            rng.normal(size=(num, latent.noise)), jnp.float32
        )

    data = jnp.asarray(rng.normal(size=(NUM, 1, 1, 2)), jnp.float32)
    return params, latents(), latents(), data, data + 0.3


def solved(config, params, z, fresh, data, moved, axis_name=None):
    """Value, metrics and gradient of every loss, averaged over devices."""
    losses = Losses(Linear(config), jnp.float32(UNIT), axis_name)
    p = params
    points, others = (
        Linear(config).apply({"params": {"g": p["generator"]}}, *of, method="decode") for of in (z, fresh)
    )
    fixed = (p["critic"], p["own"], p["encoder"], p["features"])
    arguments = {
        "critic": (p["critic"], p["encoder"], p["features"], z[0], points, data),
        "own": (p["own"], p["features"], z[0], points, others, data),
        "encoder": (p["encoder"], p["critic"], p["features"], z[0], points, data, moved),
        "generator": (p["generator"], fixed, z, fresh, data),
    }
    if config.ground == "adversarial":
        arguments["adversary"] = (p["features"], p["generator"], *fixed[:3], z, fresh, data)
    found = {name: jax.value_and_grad(getattr(losses, name), has_aux=True)(*rest) for name, rest in arguments.items()}
    return found if axis_name is None else jax.lax.pmean(found, axis_name)


@functools.partial(jit, static_argnames="config")
def whole(config, *given):
    return solved(config, *given)


@functools.partial(jit, static_argnames="config")
def shared(config, params, *rest):
    """The same on two devices, as it is on the first."""
    rest = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), rest)
    step = functools.partial(solved, config, axis_name="d")
    found = jax.vmap(step, in_axes=(None, 0, 0, 0, 0), axis_name="d")(params, *rest)
    return jax.tree.map(lambda x: x[0], found)


class Plain:
    """The same in float64, pair by pair: by the formulas of the documentation, with no code of the library."""

    def __init__(self, config, params, z, fresh, data, moved):
        self.c, self.p = config, {name: np.asarray(p, np.float64) for name, p in params.items()}
        self.size, self.K = config.categorical[0], config.num_codes(config.batch_size)
        self.category, self.value = np.asarray(z[0].categories)[:, 0], np.asarray(z[0].values, np.float64)
        self.z, self.fresh = self.join(*z), self.join(*fresh)
        self.y, self.others = self.z @ self.p["generator"], self.fresh @ self.p["generator"]
        self.x, self.moved = (np.asarray(of, np.float64).reshape(len(of), -1) for of in (data, moved))
        self.h = np.sin(np.concatenate([self.z[:, : -config.latent_dim], self.y], axis=1) @ self.p["critic"])
        self.h_own = np.sin(self.y @ self.p["own"])
        self.structured_lam = config.lam if config.objective == "structured" else 0.0
        self.cost = self.costs(self.y, self.x)
        self.perturbed = self.cost.copy()
        if config.objective == "encoder":
            discrete, continuous = self.ratios(self.x)
            self.perturbed -= config.lam * discrete + config.lam_continuous * continuous
        self.answer, self.plan = self.respond(self.h, self.perturbed, self.structured_lam)
        self.own_answer, mirror = self.respond(self.h_own, self.costs(self.y, self.others), 0.0)
        for _ in range(5):
            mirror = mirror * (self.plan.sum(1) / np.maximum(mirror.sum(1), 1e-12))[:, None]
            mirror = mirror / np.maximum(mirror.sum(0) * mirror.shape[1], 1e-12)
        self.push = mirror * (self.plan.sum(1) / np.maximum(mirror.sum(1), 1e-12))[:, None]

    def join(self, codes, noise):
        hot = np.eye(self.size)[np.asarray(codes.categories)[:, 0]]
        coded = np.concatenate([hot, np.asarray(codes.values, np.float64)], axis=1)
        return np.concatenate([self.c.strength * coded, np.asarray(noise, np.float64)], axis=1)

    def metric(self):
        """The matrix A of the cost (y - x) A (y - x)."""
        if self.c.ground != "adversarial":
            return np.eye(2) / UNIT
        f, share = self.x @ self.p["features"], self.c.feature_share
        unit = np.mean([((a - b) ** 2).sum() for a in f for b in f])
        return (1 - share) * np.eye(2) / UNIT + share * self.p["features"] @ self.p["features"].T / unit

    def costs(self, y, x):
        return np.array([[(a - b) @ self.metric() @ (a - b) for b in x] for a in y])

    def ratios(self, x):
        found = np.zeros((2, len(self.z), len(x)))
        for i in range(len(self.z)):
            for b, out in enumerate(x @ self.p["encoder"]):
                found[0, i, b] = special.log_softmax(out[: self.size])[self.category[i]] + np.log(self.size)
                for k, v in enumerate(self.value[i]):
                    mean, raw = out[self.size + k], out[self.size + len(self.value[i]) + k]
                    law = stats.norm(mean, 0.05 + np.log1p(np.exp(raw)))
                    found[1, i, b] += law.logpdf(v) - np.log(0.5)
        return found

    def respond(self, h, cost, lam):
        """The best answer to h for every datum, and the plan [L, B]; latent l has code l mod K."""
        epsilon, delta = self.c.epsilon, self.c.epsilon - lam
        answers, plan = [], []
        for column in cost.T:
            u = ((h - column) / epsilon).reshape(-1, self.K)
            if self.c.smoothing == "quadratic":  # the density max(u + level, 0) has mass one
                level = optimize.brentq(lambda level, u=u: np.maximum(u + level, 0).mean() - 1, -100, 100)
                density = np.maximum(u + level, 0).ravel()
                answers.append(epsilon * (level - 0.5 * np.mean(density**2)))
                plan.append(density / len(h))
                continue
            inner = special.logsumexp(u, axis=0) - np.log(len(u))
            outer = epsilon / delta * inner
            answers.append(-delta * (special.logsumexp(outer) - np.log(self.K)))
            plan.append((special.softmax(outer) * special.softmax(u, axis=0)).ravel())
        return np.array(answers), np.stack(plan, axis=1) / len(cost.T)

    def pushes(self):
        """The gradient of the generator's loss in the points."""
        A = 2 * self.metric()
        found = np.zeros_like(self.y)
        for i, y in enumerate(self.y):
            for b, x in enumerate(self.x):
                found[i] += self.plan[i, b] * A @ (y - x)
            if self.c.debias:
                for b, x in enumerate(self.others):
                    found[i] -= self.push[i, b] * A @ (y - x)
        return found

    def adversary_gradient(self):
        """Of minus the generator's loss in the features F, which are also in their unit."""
        F, between = self.p["features"], np.zeros((2, 2))
        for points, plan in ((self.x, self.plan), (self.others, -self.push)):
            for i, y in enumerate(self.y):
                for b, x in enumerate(points):
                    between += plan[i, b] * np.outer(y - x, y - x)
        among = np.mean([np.outer(a - b, a - b) for a in self.x for b in self.x], axis=0)
        unit = np.trace(F.T @ among @ F)
        return -self.c.feature_share * 2 * (between - np.trace(F.T @ between @ F) / unit * among) @ F / unit

    def encoder_gradient(self):
        found = np.zeros_like(self.p["encoder"])
        first, parts = self.size, self.value.shape[1]
        for b in range(len(self.x)):
            for i in range(len(self.y)):
                moved, out = self.moved[b] @ self.p["encoder"], self.x[b] @ self.p["encoder"]
                slope = np.eye(self.size)[self.category[i]] - special.softmax(moved[:first])
                found[:, :first] -= self.plan[i, b] * np.outer(self.moved[b], slope)
                for k in range(parts):
                    mean, raw = out[first + k], out[first + parts + k]
                    s = 0.05 + np.log1p(np.exp(raw))
                    apart = self.value[i, k] - mean
                    slopes = apart / s**2, (apart**2 / s**3 - 1 / s) * special.expit(raw)
                    for place, slope in zip((first + k, first + parts + k), slopes, strict=True):
                        found[:, place] -= self.plan[i, b] * self.x[b] * slope
        return found


CONFIGS = {
    "encoder": Config(**CODED),
    "structured": Config(**CODED | {"objective": "structured", "lam": 0.2}),
    "quadratic": Config(**CODED | {"objective": "structured", "lam": 0.0, "smoothing": "quadratic"}),
    "adversarial": Config(**CODED, ground="adversarial", feature_share=0.6),
}
QUICK = ("encoder", "structured", "quadratic")


@pytest.fixture(scope="module", params=[*QUICK, pytest.param("adversarial", marks=pytest.mark.slow)])
def both(request):
    """What the library finds, and what the formulas say."""
    config = CONFIGS[request.param]
    given = problem(config)
    return whole(config, *given), Plain(config, *given)


def test_potentials_ascend_the_semi_dual(both):
    found, plain = both
    (value, metrics), slope = found["critic"]
    wanted = plain.h.mean() + plain.answer.mean()
    assert -float(value) == float(metrics["value"]) == pytest.approx(wanted, rel=2e-5)
    # the gradient in h is a latent's mass beside that of the plan
    inputs = np.concatenate([plain.z[:, : -plain.c.latent_dim], plain.y], axis=1)
    wanted = ((plain.plan.sum(1) - 1 / len(plain.h)) * np.cos(inputs @ plain.p["critic"])) @ inputs
    np.testing.assert_allclose(slope, wanted, rtol=1e-4, atol=1e-5)
    wanted = plain.h_own.mean() + plain.own_answer.mean()
    assert -float(found["own"][0][0]) == pytest.approx(wanted, rel=2e-5)


def test_the_encoder_learns_the_codes_of_the_plan(both):
    found, plain = both
    (value, metrics), slope = found["encoder"]
    ratio = plain.ratios(plain.moved)[0] + plain.ratios(plain.x)[1]
    wanted = sum(plain.plan[i, b] * ratio[i, b] for i in range(len(ratio)) for b in range(NUM))
    assert -float(value) == float(metrics["information"]) == pytest.approx(wanted, rel=2e-5)
    np.testing.assert_allclose(slope, plain.encoder_gradient(), rtol=1e-4, atol=1e-5)


def test_the_generator_descends_the_transport_off_its_own_points(both):
    found, plain = both
    (value, metrics), slope = found["generator"]
    transport = sum(plain.plan[i, b] * plain.cost[i, b] for i in range(len(plain.y)) for b in range(NUM))
    wanted = np.sum(plain.plan * plain.cost) - np.sum(plain.push * plain.costs(plain.y, plain.others))
    assert float(metrics["transport"]) == pytest.approx(transport, rel=2e-5)
    assert float(value) == float(metrics["loss"]) == pytest.approx(wanted, rel=2e-5)
    np.testing.assert_allclose(slope, plain.z.T @ plain.pushes(), rtol=1e-4, atol=1e-5)
    shares = [plain.plan[plain.category == value].sum() for value in range(plain.size)]
    assert float(metrics["balance"]) == pytest.approx(abs(shares[0] - 0.5), abs=1e-6)
    read = (plain.y @ plain.p["encoder"])[:, : plain.size].argmax(1)
    assert float(metrics["code_error"]) == pytest.approx(np.mean(read != plain.category))
    if "adversary" in found:
        assert float(found["adversary"][0][0]) == pytest.approx(-float(value), rel=1e-5)
        np.testing.assert_allclose(found["adversary"][1], plain.adversary_gradient(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["encoder", pytest.param("adversarial", marks=pytest.mark.slow)])
def test_losses_of_two_shards_are_those_of_the_whole_batch(name):
    """Transport between all latents and all data; of each device its own gradient, whose mean is that of the batch."""
    given = problem(CONFIGS[name])
    one, two = whole(CONFIGS[name], *given), shared(CONFIGS[name], *given)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-5, atol=2e-6), one, two)


@pytest.mark.slow
def test_without_reward_both_objectives_are_plain_transport():
    configs = [
        Config(**CODED | {"lam": 0.0, "lam_continuous": 0.0, "objective": objective})
        for objective in ("encoder", "structured")
    ]
    found = [whole(config, *problem(config)) for config in configs]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), *found)


@pytest.mark.slow
@pytest.mark.parametrize("smoothing", ["entropic", "quadratic"])
def test_a_reward_as_strong_as_the_smoothing_is_finite(smoothing):
    config = Config(**CODED | {"objective": "structured", "lam": CODED["epsilon"], "smoothing": smoothing})
    found = whole(config, *problem(config))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert float(found["generator"][0][1]["transport"]) > 0


class Skewed(Linear):
    """A generator of shift + scale (exp(n / 2) - 1), in one dimension."""

    def apply(self, variables, *arguments, method):
        if method != "decode":
            return super().apply(variables, *arguments, method=method)
        (p,) = variables["params"].values()
        return (p[0] + p[1] * jnp.expm1(0.5 * arguments[1][:, :1]))[:, None, None]


@functools.partial(jit, static_argnames="debias")
def skewed_slopes(debias, noise, fresh, of_data):
    """Losses [n], gradients [n, 2] in shift and scale, of a generator with the law of the data; noises [n, 32]."""
    config = Config(**CODED | {"batch_size": 32, "uniform": 0, "noises": None, "lam": 0.0, "debias": debias})
    losses = Losses(Skewed(config), jnp.float32(0.76))
    codes = Codes(jnp.arange(32)[:, None] % 2, jnp.zeros((32, 0)))
    # potentials far from the best, of the point alone: critic's and own are the same function
    fixed = (jnp.array([0.0, 0.0, 1.0]), jnp.ones(1), jnp.zeros((1, 2)), None)

    def one(noise, fresh, of_data):
        z, others = ((codes, of[:, None]) for of in (noise, fresh))
        data = jnp.expm1(0.5 * of_data)[:, None, None, None]
        (value, _), slope = jax.value_and_grad(losses.generator, has_aux=True)(
            jnp.array([0.0, 1.0]), fixed, z, others, data
        )
        return value, slope

    return jax.vmap(one)(noise, fresh, of_data)


@pytest.fixture(scope="module")
def noises():
    return np.random.default_rng(0).normal(size=(3, 400, 32)).astype(np.float32)


def test_points_like_the_data_are_where_the_generator_rests(noises):
    """The same points as others and as data, by the same potential: the two transports are one."""
    value, slope = skewed_slopes(True, noises[0], noises[1], noises[1])
    np.testing.assert_allclose(value, 0, atol=1e-5)
    np.testing.assert_allclose(slope, 0, atol=1e-5)


def test_debiasing_takes_away_what_pushes_a_right_generator(noises):
    pushed, left = (np.asarray(skewed_slopes(debias, *noises)[1]) for debias in (False, True))
    errors = [np.std(of, axis=0) / np.sqrt(400) for of in (pushed, left)]
    assert np.all(np.abs(pushed.mean(0)) > 5 * errors[0])
    assert np.all(np.abs(left.mean(0)) + 3 * errors[1] < np.array([0.3, 0.7]) * np.abs(pushed.mean(0)))


STEP = {"latent_dim": 3, "hidden": (16,), "categorical": (2,), "uniform": 2, "batch_size": 8, "dual_steps": 1}


@pytest.fixture(scope="module")
def training():
    """A step on 16 images, its state, and the compiled step on one device and on two."""
    images = np.random.default_rng(0).random((16, 6, 6, 1), np.float32)
    unit = informative_gan.unit_of(images)
    module, state = informative_gan.init(jax.random.key(0), Config(**STEP), images, 20, unit=unit)
    step = informative_gan.make_step(module, 20)
    shards = jax.vmap(functools.partial(step, axis_name="d"), in_axes=(None, 0, None), axis_name="d")
    return images, state, jit(step), jit(shards)


def moments(state):
    """Of every network the moving averages of gradients and of their squares, put together."""
    parts = {name: getattr(state, name).opt_state[0] for name in ("generator", "encoder", "critic", "own")}
    return {name: np.concatenate([np.ravel(x) for x in jax.tree.leaves((of.mu, of.nu))]) for name, of in parts.items()}


@pytest.mark.slow
def test_a_step_on_two_shards_is_that_on_the_whole_batch(training):
    images, state, whole, shards = training
    key = jax.random.key(1)
    one, metrics = whole(state, images, key)
    two, shared = shards(state, images.reshape(2, 8, 6, 6, 1), key)
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf[0], leaf[1]), (two, shared))
    two, shared = jax.tree.map(lambda leaf: leaf[0], (two, shared))
    for name, value in metrics.items():
        assert float(shared[name]) == pytest.approx(float(value), rel=1e-5, abs=1e-6), name
    for (name, a), b in zip(moments(one).items(), moments(two).values(), strict=True):
        assert np.abs(a).max() > 0, name
        np.testing.assert_allclose(b, a, atol=1e-5 * np.abs(a).max(), err_msg=name)
    assert int(two.step) == 1


@pytest.mark.slow
def test_rows_go_to_their_steps(training):
    """Even rows to the potentials, odd ones to generator and encoder, with one dual step."""
    images, state, whole, _ = training
    one, _ = whole(state, images, jax.random.key(1))
    odd, even = images.copy(), images.copy()
    odd[1::2], even[::2] = odd[1::2] ** 2, even[::2] ** 2
    changed = [moments(whole(state, of, jax.random.key(1))[0]) for of in (odd, even)]
    before = moments(one)
    for name in ("critic", "own"):
        np.testing.assert_array_equal(changed[0][name], before[name])
    assert not np.array_equal(changed[1]["critic"], before["critic"])
    np.testing.assert_array_equal(changed[1]["own"], before["own"])  # it sees generated points alone
    for name in ("generator", "encoder"):
        assert not np.array_equal(changed[0][name], before[name])


@pytest.mark.slow
def test_rows_that_do_not_divide_among_the_steps_raise(training):
    images, state, whole, _ = training
    with pytest.raises(ValueError, match="15 images on a device for 2 steps"):
        whole(state, images[:15], jax.random.key(1))


def test_the_unit_is_the_mean_cost_of_two_data():
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 2, 1)).astype(np.uint8)
    x = images.reshape(7, -1) / 255.0
    wanted = np.mean([((a - b) ** 2).sum() for a in x for b in x])
    assert float(informative_gan.unit_of(images)) == pytest.approx(wanted, rel=1e-6)
    assert float(informative_gan.unit_of(images / np.float32(255))) == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(ValueError, match="all 4 images are equal"):
        informative_gan.unit_of(np.ones((4, 2, 2, 1)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": "mutual"}, "objective = 'mutual': choose one of 'encoder', 'structured'"),
        ({"smoothing": "cubic"}, "smoothing = 'cubic'"),
        ({"ground": "cosine"}, "ground = 'cosine'"),
        ({"epsilon": 0.0}, "epsilon = 0.0"),
        ({"lam": -0.1}, "lam = -0.1"),
        ({"lam": float("nan")}, "lam = nan"),
        ({"lam": float("inf")}, "lam = inf"),
        ({"objective": "structured", "lam": 0.02, "epsilon": 0.01}, "at most epsilon"),
        ({"average": 1.0}, "average = 1.0"),
        ({"feature_share": -0.5}, "feature_share = -0.5"),
        ({"dual_steps": 0}, "dual_steps = 0"),
        ({"noises": 0}, "noises = 0"),
        ({"batch_size": 205}, "205 latents in a batch, 10 categorical values"),
        ({"noises": 3}, "noises = 3: give a batch_size"),
        ({"noises": 40}, "noises = 40: give a batch_size"),
        ({"uniform": 1, "batch_size": 15}, "15 latents in a batch"),
        ({"categorical": ()}, "without any code"),
        ({"augment": {"shift": -1.0}}, "shift = -1.0"),
    ],
)
def test_fields_out_of_range_raise(fields, message):
    with pytest.raises(ValueError, match=message):
        Config(**fields)


def test_codes_and_noises_share_a_batch():
    assert Config().num_codes(200) == 10
    assert Config(uniform=1).num_codes(200) == 200
    assert Config(uniform=1, noises=4).num_codes(200) == 50
    assert Config(categorical=(5, 4), batch_size=100).num_codes(100) == 20
    assert Config(augment={"shift": 1.0}).augment == Augment(shift=1.0)


DEVICES = """
import json, jax, numpy as np
from otgen.models import informative_gan
from otgen.train import mapped
images = np.random.default_rng(0).random((16, 6, 6, 1), np.float32)
config = informative_gan.Config(latent_dim=3, hidden=(16,), categorical=(2,), uniform=2, batch_size=8, dual_steps=1,
                                ground="adversarial")
module, state = informative_gan.init(jax.random.key(0), config, images, 20, unit=informative_gan.unit_of(images))
state, metrics = mapped(informative_gan.make_step(module, 20))(state, images, jax.random.key(1))
found = {name: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(getattr(state, name).opt_state[0].mu)])
         for name in ("generator", "encoder", "critic", "own", "features")}
found |= {name: np.ravel(value) for name, value in metrics.items()}
print(json.dumps({name: np.asarray(value, float).tolist() for name, value in found.items()}))
"""


def on_devices(num):
    return told_by(DEVICES, num, flags=("--xla_backend_optimization_level=0",))


@pytest.mark.slow
def test_a_step_does_not_depend_on_the_number_of_devices():
    """The first step, whose rate is zero: what the optimisers have seen are the gradients."""
    one, four = on_devices(1), on_devices(4)
    assert {"features", "own", "balance", "information"} < set(one)
    for name, found in one.items():
        np.testing.assert_allclose(four[name], found, rtol=0, atol=2e-5 * np.abs(found).max() + 1e-7, err_msg=name)


@pytest.mark.slow
@pytest.mark.usefixtures("heard")
def test_a_stopped_training_goes_on_bit_identically(tmp_path):
    images = np.random.default_rng(0).random((64, 6, 6, 1), np.float32)
    options = {**STEP, "epochs": 20}  # 80 steps of 16 images
    whole = informative_gan.fit(jax.random.key(0), images, **options)

    def stop(step, metrics):
        if step == 50:  # noticed after the next step; a second signal would end the run at once
            signal.raise_signal(signal.SIGINT)

    with Checkpoints(tmp_path, {}) as checkpoints:
        with pytest.raises(KeyboardInterrupt):
            informative_gan.fit(jax.random.key(0), images, checkpoints=checkpoints, callback=stop, **options)
        assert 0 < checkpoints.newest() < 80
        again = informative_gan.fit(jax.random.key(0), images, checkpoints=checkpoints, **options)
    jax.tree.map(np.testing.assert_array_equal, whole.variables, again.variables)
    drawn = informative_gan.sample(jax.random.key(1), whole, 5)
    assert drawn.shape == (5, 6, 6, 1)
    assert 0 <= float(drawn.min()) <= float(drawn.max()) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("lam", [0.15, 0.0])
def test_codes_of_the_hard_ring_are_its_modes(lam):
    """Eight Gaussians, a weak code beside strong noise: with the reward codes are modes, without it nothing."""
    points = toy.eight_gaussians(jax.random.key(100), 10_000)
    model = informative_gan.fit(
        jax.random.key(0),
        np.asarray(points)[:, None, None],
        latent_dim=8,
        hidden=(128, 128),
        output="real",
        categorical=(8,),
        strength=0.3,
        batch_size=160,
        learning_rate=2e-3,
        augment=None,
        lam=lam,
        epochs=2000 * 480 / 10_000,
    )
    codes, noise = model.module.config.latent.sample(jax.random.key(1), 5000)
    drawn = model.module.apply(model.variables, codes, noise, method="decode").reshape(-1, 2)
    centres = toy.eight_gaussians_centres()
    mode = np.argmin(((np.asarray(drawn)[:, None] - np.asarray(centres)) ** 2).sum(2), axis=1)
    found = nmi(np.asarray(codes.categories)[:, 0], mode)
    if lam == 0:
        assert found <= 0.05
        return
    scores = mode_scores(drawn, centres, 0.1)
    assert found >= 0.95
    assert int(scores.modes) == 8
    assert float(scores.share_3sd) >= 0.9
    assert 0.08 < float(scores.within_sd) < 0.12


@pytest.mark.parametrize(("ground", "features"), [("features", None), ("pixel", lambda x: x[:, 0, 0])])
def test_features_are_given_where_the_ground_cost_has_them(ground, features):
    images = np.random.default_rng(0).random((24, 2, 2, 1), np.float32)
    with pytest.raises(ValueError, match="give `features` for 'features', and only then"):
        informative_gan.fit(jax.random.key(0), images, features=features, **STEP | {"ground": ground})


def test_known_features_enter_the_ground_cost():
    """Half of pixels, half of a function of them, each in units of the mean cost of two data."""
    config = Config(**CODED | {"ground": "features"})
    module = informative_gan.InformativeGAN((1, 1, 2), config, lambda x: x[:, 0, 0] ** 3)
    rng = np.random.default_rng(0)
    y, x = (rng.normal(size=(num, 1, 1, 2)).astype(np.float32) for num in (5, 7))
    losses = Losses(module, jnp.float32(UNIT))
    found = losses.ground({}, losses.units({}, jnp.asarray(x)), jnp.asarray(y), jnp.asarray(x))
    a, b = y[:, 0, 0].astype(float), x[:, 0, 0].astype(float)
    unit = np.mean([((p**3 - q**3) ** 2).sum() for p in b for q in b])
    wanted = [[((p - q) ** 2).sum() / UNIT / 2 + ((p**3 - q**3) ** 2).sum() / unit / 2 for q in b] for p in a]
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
