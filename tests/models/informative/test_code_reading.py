import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from otgen.models.apply import Model
from otgen.models.informative import code_reading, info_gan, informative_gan
from otgen.models.informative.code_reading import Reading
from otgen.models.informative.codes import Codes
from otgen.ot import structured

SMALL = {"latent_dim": 2, "hidden": (8,), "output": "real", "categorical": (3, 2), "uniform": 1, "normal": 1}
CODED = SMALL | {"augment": None, "epsilon": 0.3, "lam": 0.4, "lam_continuous": 0.2, "batch_size": 12, "noises": 2}
KEY, UNIT, NUM, SHAPE = jax.random.key(5), 3.0, 24, (1, 2, 1)
# compiled quickly rather than well
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Compile quickly what is read, too."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_couple", "_decode"):
            slow = getattr(code_reading, name).__wrapped__
            patch.setattr(code_reading, name, functools.partial(jit, static_argnames="module")(slow))
        yield


def filled(module):
    """Parameters of no training: the readings are of any networks."""
    latent, rng = module.config.latent, np.random.default_rng(0)
    codes = Codes(jnp.zeros((1, len(latent.categorical)), jnp.int32), jnp.zeros((1, latent.continuous)))
    shapes = jax.eval_shape(module.init, KEY, codes, jnp.zeros((1, latent.noise)))["params"]

    def draw(leaf):
        return jnp.asarray(1.5 * rng.normal(size=leaf.shape) / np.sqrt(leaf.shape[0]), jnp.float32)

    return jax.tree.map(draw, shapes)


@functools.cache
def trained(**changes):
    """Stands in for a trained informative OT-GAN."""
    module = informative_gan.InformativeGAN(SHAPE, informative_gan.Config(**CODED | changes))
    return informative_gan.Model(module, {"params": filled(module), "transport": {"unit": jnp.float32(UNIT)}})


@functools.cache
def rival():
    """Stands in for a trained InfoGAN with codes of the same sizes."""
    module = info_gan.InfoGAN(SHAPE, info_gan.Config(**SMALL))
    return Model(module, {"params": filled(module)})


@functools.partial(jit, static_argnames=("module", "method"))
def apply(module, variables, *arguments, method):
    return module.apply(variables, *arguments, method=method)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(7, *SHAPE)).astype(np.float32)


@functools.cache
def coupled(**changes):
    """Arrays of the coupling with the images, in float64, and the codes."""
    seen = np.random.default_rng(0).normal(size=(7, *SHAPE)).astype(np.float32)
    coupling, codes = code_reading.couple(KEY, trained(**changes), seen, NUM)
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), coupling), jax.tree.map(np.asarray, codes)


@pytest.mark.slow
@pytest.mark.parametrize("noises", [pytest.param(None, marks=pytest.mark.slow), 2])
def test_latents_are_arranged_by_code_and_noise(images, noises):
    model = trained(noises=noises)
    config = model.module.config
    coupling, codes = coupled(noises=noises)
    again, noise = config.latent.batch(KEY, jnp.arange(NUM), config.num_codes(NUM))
    jax.tree.map(np.testing.assert_array_equal, codes, again)
    K, M = (NUM // 2, 2) if noises else (NUM, 1)
    assert coupling.cost.shape == coupling.perturbed.shape == (K, M, len(images))
    assert coupling.potential.shape == (K, M)
    drawn = apply(*model, codes, noise, method="decode")
    points, potential = np.asarray(drawn, np.float64), np.asarray(apply(*model, codes, drawn, method="potential"))
    outputs = np.asarray(apply(*model, images, method="read"), np.float64)
    for k in range(K):
        for j in range(M):
            place = k + K * j  # code k with its noise j
            assert coupling.potential[k, j] == pytest.approx(potential[place], abs=1e-5)
            for b, x in enumerate(images):
                cost = np.sum((points[place] - x) ** 2) / UNIT
                assert coupling.cost[k, j, b] == pytest.approx(cost, rel=1e-4, abs=1e-5)
                laws = special.log_softmax(outputs[b, :3]), special.log_softmax(outputs[b, 3:5])
                first, second = codes.categories[place]
                discrete = laws[0][first] + laws[1][second] + np.log(6)
                mean, deviation = outputs[b, 5:7], 0.05 + np.log1p(np.exp(outputs[b, 7:9]))
                value = codes.values[place]
                told = np.sum(-0.5 * ((value - mean) / deviation) ** 2 - np.log(deviation)) + 0.5 * value[1] ** 2
                continuous = told - 0.5 * np.log(2 * np.pi) + np.log(2)  # against a uniform and a normal law
                wanted = cost - config.lam * discrete - config.lam_continuous * continuous
                assert coupling.perturbed[k, j, b] == pytest.approx(wanted, rel=1e-4, abs=2e-5)


def test_the_posterior_is_the_plan_summed_over_the_noise(images):
    found = code_reading.posterior(KEY, trained(), images, NUM)
    coupling, codes = coupled()
    score = (coupling.potential[..., None] - coupling.perturbed) / CODED["epsilon"]
    weights = special.softmax(np.swapaxes(score, 0, 1).reshape(NUM, -1), axis=0).T  # by latent: k + K j
    for part, (law, size) in enumerate(zip(found.probabilities, (3, 2), strict=True)):
        assert law.shape == (len(images), size)
        np.testing.assert_allclose(law.sum(1), 1, atol=1e-5)
        for value in range(size):
            chosen = codes.categories[:, part] == value
            np.testing.assert_allclose(law[:, value], weights[:, chosen].sum(1), atol=2e-5)
    mean = weights @ codes.values
    spread = np.stack([np.sqrt(w @ (codes.values - m) ** 2) for w, m in zip(weights, mean, strict=True)])
    np.testing.assert_allclose(found.mean, mean, atol=2e-5)
    np.testing.assert_allclose(found.deviation, spread, atol=1e-4)
    assert np.ptp(found.probabilities[0], axis=0).max() > 0.05  # the images differ


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"objective": "structured", "lam": 0.2}, marks=pytest.mark.slow),
        pytest.param({"smoothing": "quadratic"}, marks=pytest.mark.slow),
        pytest.param({"ground": "none"}, marks=pytest.mark.slow),
    ],
)
def test_the_posterior_of_other_plans_is_a_law(images, changes):
    found = code_reading.posterior(KEY, trained(**changes), images, NUM)
    coupling, codes = coupled(**changes)
    lam = changes.get("lam", 0.0) if "objective" in changes else 0.0
    options = {"epsilon": 0.3, "lam": lam, "smoothing": changes.get("smoothing", "entropic")}
    plan = structured.conditional(*(jnp.asarray(of) for of in (coupling.perturbed, coupling.potential)), **options)
    weights = np.swapaxes(plan, 0, 1).reshape(NUM, -1)
    for value in range(3):
        chosen = codes.categories[:, 0] == value
        np.testing.assert_allclose(found.probabilities[0][:, value], weights[chosen].sum(0), atol=1e-5)
    for law in found.probabilities:
        np.testing.assert_allclose(law.sum(1), 1, atol=1e-5)
    assert (found.deviation >= 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("ground", ["pixel", "adversarial"])
def test_a_posterior_does_not_depend_on_the_images_beside(images, monkeypatch, ground):
    """Nor on the pieces in which they are read."""
    model = trained(ground=ground)
    whole = code_reading.posterior(KEY, model, images, NUM)
    monkeypatch.setattr(code_reading, "_PIECE", 3)
    pieces = code_reading.posterior(KEY, model, images, NUM)  # of 3, 3 and 1
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), pieces, whole)
    if ground == "adversarial":
        assert np.ptp(whole.probabilities[0], axis=0).max() > 1e-3


@pytest.mark.slow
def test_more_images_than_a_piece_holds(images):
    model, many = trained(), np.resize(images, (2 * code_reading._PIECE + 3, 1, 2, 1))
    found = code_reading.posterior(KEY, model, many, NUM)
    few = code_reading.posterior(KEY, model, images, NUM)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, np.resize(b, a.shape), rtol=1e-4, atol=1e-4), found, few)


@pytest.mark.parametrize("model", [trained, pytest.param(rival, marks=pytest.mark.slow)])
def test_predict_gives_the_laws_of_the_encoder(images, model):
    model = model()
    found = code_reading.predict(model, images)
    outputs = np.asarray(apply(*model, images, method="read"))
    np.testing.assert_allclose(found.probabilities[0], special.softmax(outputs[:, :3], axis=1), atol=1e-5)
    np.testing.assert_allclose(found.probabilities[1], special.softmax(outputs[:, 3:5], axis=1), atol=1e-5)
    np.testing.assert_allclose(found.mean, outputs[:, 5:7], atol=1e-5)
    np.testing.assert_allclose(found.deviation, 0.05 + np.log1p(np.exp(outputs[:, 7:])), atol=1e-5)


@pytest.mark.slow
def test_pixels_of_bytes_are_scaled():
    model = trained()
    levels = np.random.default_rng(1).integers(0, 256, (5, 1, 2, 1)).astype(np.uint8)
    for read in (code_reading.predict, lambda model, x: code_reading.posterior(KEY, model, x, NUM)):
        two = read(model, levels), read(model, levels / np.float32(255))
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), *two)


def test_information_of_laws():
    def nats(*laws):
        empty = jnp.zeros((len(laws[0]), 0))
        return code_reading.information(Reading([jnp.asarray(law, jnp.float32) for law in laws], empty, empty))

    constant = np.tile([0.7, 0.2, 0.1, 0.0], (12, 1))
    certain = np.eye(4)[np.arange(12) % 4]
    np.testing.assert_allclose(nats(constant, certain), [0, np.log(4)], atol=1e-6)
    law = np.random.default_rng(0).dirichlet(np.ones(4), 12)
    wanted = np.mean(np.sum(law * np.log(law / law.mean(0)), axis=1))
    np.testing.assert_allclose(nats(law), [wanted], rtol=1e-5)
    assert code_reading.information(Reading([], jnp.zeros((3, 1)), jnp.ones((3, 1)))).shape == (0,)


def semidual(cost, f):
    """Of latents [L] and data [L, B] of equal weights, entropic."""
    return f.mean() + np.mean(-0.3 * (special.logsumexp((f[:, None] - cost) / 0.3, axis=0) - np.log(len(f))))


@pytest.mark.slow
def test_the_gap_is_that_to_the_optimum_of_the_batch(images, monkeypatch):
    """The optimum by plain iterations, which is also put in the place of the trained potential."""
    gap, start = map(float, code_reading.duality_gap(KEY, trained(), images, NUM))
    coupling, codes = coupled()
    cost, f = coupling.perturbed.reshape(NUM, -1), np.zeros(NUM)
    for _ in range(3000):
        g = -0.3 * (special.logsumexp((f[:, None] - cost) / 0.3, axis=0) - np.log(NUM))
        f = -0.3 * (special.logsumexp((g - cost) / 0.3, axis=1) - np.log(len(g)))
    best = semidual(cost, f)
    for found, potential in ((gap, coupling.potential.ravel()), (start, np.zeros(NUM))):
        wanted = (best - semidual(cost, potential)) / 0.3
        assert wanted > 0.1
        assert found == pytest.approx(wanted, abs=2e-3)
    optimum = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), coupling._replace(potential=f.reshape(12, 2)))
    monkeypatch.setattr(code_reading, "couple", lambda *_: (optimum, codes))
    none, same = map(float, code_reading.duality_gap(KEY, trained(), images, NUM))
    assert abs(none) < 2e-3
    assert same == pytest.approx(start, abs=1e-4)


@pytest.mark.parametrize("changes", [{"smoothing": "quadratic"}, {"objective": "structured", "lam": 0.2}])
def test_plans_without_a_sinkhorn_have_no_gap(images, changes):
    with pytest.raises(ValueError, match="Sinkhorn"):
        code_reading.duality_gap(KEY, trained(**changes), images, NUM)


@pytest.mark.parametrize("model", [trained, pytest.param(rival, marks=pytest.mark.slow)])
def test_a_traversal_changes_one_part(model):
    model = model()
    codes, noise = model.module.config.latent.sample(KEY, NUM)

    def draw(categories, values):
        return apply(*model, Codes(categories, values), noise, method="decode")

    found = code_reading.traverse(KEY, model, "continuous 1", [-2.0, 0, 2.0], NUM, category=2)
    assert found.shape == (3, NUM, *SHAPE)
    for images, value in zip(found, (-2, 0, 2), strict=True):
        wanted = draw(codes.categories.at[:, 0].set(2), codes.values.at[:, 1].set(value))
        np.testing.assert_allclose(images, wanted, atol=1e-5)
    found = code_reading.traverse(KEY, model, "categorical 1", [1, 0], NUM)
    for images, value in zip(found, (1, 0), strict=True):
        np.testing.assert_allclose(images, draw(codes.categories.at[:, 1].set(value), codes.values), atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3
    each = code_reading.of_each_code(KEY, model, NUM)
    for images, value in zip(each, range(3), strict=True):
        np.testing.assert_allclose(images, draw(codes.categories.at[:, 0].set(value), codes.values), atol=1e-5)
    np.testing.assert_array_equal(code_reading.of_each_code(KEY, model, NUM, part=1), found[::-1])


@pytest.mark.parametrize(
    "name",
    [
        *("continuous 2", "continuous -1", "continuous", "continuous ", "categorical 2", "categorical 01", ""),
        *("categorical 0 ", " categorical 0", "categorical ²", "Categorical 0", "noise 0"),
    ],
)
def test_unknown_parts_raise(name):
    with pytest.raises(ValueError, match=r"no part of the code: choose among categorical 0, .*, continuous 1"):
        code_reading.traverse(KEY, trained(), name, [0], 2)


def test_bad_values_of_a_part_raise():
    model, plain = trained(), trained(categorical=())
    cases = [
        (("categorical 0", [0, 3], 2), "whole numbers from 0 to 2 for 'categorical 0'"),
        (("categorical 1", [-1], 2), "whole numbers from 0 to 1"),
        (("categorical 0", [0.5], 2), "whole numbers"),
        (("continuous 0", [0.0, np.nan], 2), "finite numbers for 'continuous 0'"),
        (("continuous 0", ["high"], 2), "give real numbers"),
        (("continuous 0", [], 2), "give a list"),
        (("continuous 0", 0.5, 2), "give a list"),
        (("continuous 0", [0.5], 0), "num = 0"),
        (("continuous 0", [0.5], 1.5), "num = 1.5"),
        (("continuous 0", [0.5], 2, 3), "category = 3"),
        (("continuous 0", [0.5], 2, -1), "category = -1"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            code_reading.traverse(KEY, model, *arguments)
    with pytest.raises(ValueError, match="'categorical 0' is no part"):
        code_reading.traverse(KEY, plain, "continuous 0", [0.5], 2, category=0)
    for part in (2, -1):
        with pytest.raises(ValueError, match=f"'categorical {part}' is no part"):
            code_reading.of_each_code(KEY, model, 2, part=part)
    with pytest.raises(ValueError, match="'categorical 0' is no part"):
        code_reading.of_each_code(KEY, plain, 2)


BAD = {
    "empty": (np.zeros((0, 1, 2, 1), np.float32), r"shape \(0, 1, 2, 1\): give at least 1 as \[n, 1, 2, 1\]"),
    "other side": (np.zeros((3, 2, 2, 1), np.float32), r"as \[n, 1, 2, 1\]"),
    "one image": (np.zeros((1, 2, 1), np.float32), r"as \[n, 1, 2, 1\]"),
    "flat": (np.zeros((3, 2), np.float32), r"as \[n, 1, 2, 1\]"),
    "number": (0.5, r"shape \(\)"),
    "nothing": ([], r"shape \(0,\)"),
    "nan": (np.full((3, 1, 2, 1), np.nan, np.float32), "not finite"),
    "one nan": (np.full((1, 1, 2, 1), np.nan, np.float32), "not finite"),
    "infinite": (np.full((3, 1, 2, 1), np.inf, np.float32), "not finite"),
    "integers": (np.zeros((3, 1, 2, 1), np.int64), "int64"),
    "words": (np.full((3, 1, 2, 1), "white"), "give real numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_images_that_a_model_cannot_read_raise(name):
    wrong, message = BAD[name]
    for read in (code_reading.couple, code_reading.posterior, code_reading.duality_gap):
        with pytest.raises(ValueError, match=message):
            read(KEY, trained(), wrong, NUM)
    for model in (trained(), rival()):
        with pytest.raises(ValueError, match=message):
            code_reading.predict(model, wrong)


def test_floats_that_should_have_been_scaled_raise():
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        code_reading.predict(trained(output="unit"), np.full((3, 1, 2, 1), 255.0, np.float32))


@pytest.mark.parametrize("num", [0, -6, 12.0, 7])
def test_latents_that_do_not_share_the_codes_raise(images, num):
    for read in (code_reading.couple, code_reading.posterior, code_reading.duality_gap):
        with pytest.raises(ValueError, match=f"num = {num}|{num} latents in a batch"):
            read(KEY, trained(), images, num)
