"""Every public function of the models, handed what it cannot take, says so itself, before anything is trained.

As `test_public_names`, with tiny models whose parameters are drawn, not trained. In the quick tests a network that is
started or applied counts as an answer, so that nothing is compiled; the slow ones go on to the results.
"""

import dataclasses
import functools
import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import otgen as og
from otgen.maps import c_transform, icnn, training
from otgen.models.apply import Model
from otgen.models.classes import collection_of
from otgen.models.codec.modules import Given
from otgen.models.informative.codes import Codes, Latent
from otgen.nn.potentials import Convex, Displacement, Potential
from otgen.nn.velocity import Velocity
from tests.support.doctests import public
from tests.support.wrong import Reached, refusals, results, unsorted

PARTS = ("models.", "maps.", "store.")
FUNCTIONS = {name.removeprefix("models.").removeprefix("maps."): it for name, it in public() if name.startswith(PARTS)}
KEY, N, D = jax.random.key(0), 8, 2
_RANDOM = np.random.default_rng(0)
IMAGES = _RANDOM.uniform(0.1, 0.9, size=(N, 4, 4, 1)).astype(np.float32)
X, Y = _RANDOM.normal(size=(2, N, D)).astype(np.float32)
LABELS = np.arange(N) % 2
T = np.linspace(0, 1, N, dtype=np.float32)
NETWORK = {"latent_dim": D, "hidden": (4,), "epochs": 1.0, "batch_size": 4}
CODE = {"categorical": (2,), "uniform": 1}
SIZES = {
    "ae_ot": NETWORK,
    "ae_ot_gan": {"epochs": 1.0, "batch_size": 4, "warmup": 1},
    "bures_linear": {"rank": 2, "max_steps": 10},
    "flow": {"width": 4, "depth": 1, "num_steps": 2, "batch_size": 4, "max_samples": 4096},
    "info_gan": {**NETWORK, **CODE},
    "informative_gan": {**NETWORK, **CODE, "dual_steps": 1},
    "latent_ot": {**NETWORK, "solver_options": {"num_steps": 2, "hidden": (4,), "batch_size": 4}},
    "sinkhorn_generator": {**NETWORK, "batches": 2},
    "vae": NETWORK,
    "wae_mmd": NETWORK,
    "wgan_gp": NETWORK,
}
SORT_OF_FIELD = {
    "int": "count",
    "int | None": "count",
    "float": "positive",
    "float | None": "positive",
    "float | Sequence[float]": "positive",
    "str": "name",
    "Sequence[int]": "counts",
    "tuple[int, ...]": "counts",
    "Any": "fields",
    "Augment | None": "fields",
}


def config(name):
    return getattr(og.models, name).Config(**SIZES[name])


def drawn(make):
    """What a function returns, with random numbers in its arrays, and nothing compiled."""
    rest = []

    def arrays():
        leaves, tree = jax.tree.flatten(make())
        rest.append(tree)
        return leaves

    rng = np.random.default_rng(1)
    leaves = [np.asarray(0.1 * rng.normal(size=it.shape), it.dtype) for it in jax.eval_shape(arrays)]
    return jax.tree.unflatten(rest[0], [jnp.asarray(leaf) for leaf in leaves])


@functools.cache
def started(name):
    """Module and state of a model of images."""
    found = []

    def make():
        more = {"unit": 1.0} if name == "informative_gan" else {}
        module, state = getattr(og.models, name).init(KEY, config(name), IMAGES, 10, **more)
        found.append(module)
        return state

    state = drawn(make)
    return found[0], state


@functools.cache
def model(name):
    """A model as `fit` returns it."""
    if name == "ae_ot_gan":
        base = model("ae_ot")
        module = og.models.ae_ot_gan.AEOTGAN(base.module.image_shape, base.module.config, config(name))
        known = base.variables["params"]["autoencoder"]
        critic = drawn(lambda: module.init(KEY, jnp.asarray(IMAGES), method="value"))["params"]["critic"]
        params = {"autoencoder": known, "generator": known["decoder"], "critic": critic}
        return base._replace(module=module, variables={**base.variables, "params": params})
    if name == "bures_linear":
        module = og.models.bures_linear.BuresLinear((D,), config(name))
        return og.models.bures_linear.Model(module, drawn(lambda: module.init(KEY, jnp.zeros((1, 2)))), None)
    if name == "flow":
        module = Velocity(D, 4, 1, num_classes=2)
        params = drawn(lambda: module.init(KEY, jnp.zeros(1), jnp.zeros((1, D)))["params"])
        return og.models.flow.Flow(module, {"params": params, **collection_of(LABELS)}, config(name))
    if name == "latent_ot":
        known = learned("c_transform")
        module = og.models.latent_ot.LatentOT((4, 4, 1), config(name), known.module)
        transport = {part: getattr(known, part) for part in ("table", "units", "codes", "h", "temperature", "residual")}
        transport |= {"mean": jnp.zeros(D), "scale": jnp.ones(D), "angle": jnp.float32(1)}
        params = {**started("ae_ot")[1].params, "potential": known.params}
        return og.models.latent_ot.Model(module, {"params": params, "transport": transport})
    module, state = started(name)
    if name == "ae_ot":
        transport = {"codes": X, "h": jnp.zeros(N), "centres": X, "angle": jnp.float32(1)}
        transport |= {"mean": jnp.zeros(D), "scale": jnp.ones(D)}
        variables = {"params": state.params, "transport": transport}
        return og.models.ae_ot.Model(module, variables, jnp.asarray(LABELS), None)
    if name in ("sinkhorn_generator", "vae", "wae_mmd"):
        return Model(module, {"params": state.params})
    if name == "wgan_gp":
        return Model(module, {"params": {"generator": state.generator.average, "critic": state.critic.params}})
    if name == "info_gan":
        return Model(module, {"params": {"generator": state.generator.average, **state.critic.params}})
    parts = {part: getattr(state, part).params for part in ("generator", "encoder", "critic", "own")}
    return og.models.informative_gan.Model(module, {"params": parts, "transport": {"unit": jnp.float32(1)}})


@functools.cache
def learned(solver):
    """A transport map as `neural_map.fit` returns it."""
    if solver == "icnn":
        module, table = Convex((4,), 1), icnn.Table(X, jnp.ones(N))
    else:
        module, table = Potential((4,)), c_transform.Table(X, jnp.eye(D))
    params = drawn(lambda: module.init(KEY, jnp.asarray(X[:1]))["params"])
    params = {"forward": params} if solver == "icnn" else params
    units = training.Units(jnp.zeros(D), jnp.float32(1), jnp.zeros(D), jnp.float32(1))
    rest = units, X, jnp.zeros(N), jnp.float32(1), jnp.float32(0)
    return og.maps.neural_map.Map(solver, module, og.maps.neural_map.gaussian, params, table, *rest)


def params(name):
    return started(name)[1].params


def law():
    weights, extension = jnp.full(N, 1 / N), og.extension.Extension(X, jnp.float32(1))
    return og.semidiscrete.Map(X, jnp.zeros(N), weights, og.source.uniform_cube, extension)


def reading():
    return og.models.code_reading.Reading([np.full((N, 2), 0.5, np.float32)], X, np.ones_like(X))


def codes():
    return Codes(LABELS[:, None], X[:, :1])


def parts(name):
    return {"module": model(name).module, "variables": model(name).variables}


def start(name):
    return {"key": KEY, "config": config(name), "example": IMAGES, "num_steps": 10}


def step(name):
    return {"module": model(name).module, "num_steps": 10}


def labelled(name):
    """A model of images that was fitted with labels."""
    found, kind = [], getattr(og.models, name)

    def make():
        module, state = kind.init(KEY, config(name), IMAGES, 10, num_classes=2)
        found.append(module)
        return {"generator": state.generator.params} if name == "wgan_gp" else state.params

    params = drawn(make)
    return Model(found[0], {"params": params, **collection_of(LABELS)})


def draw(name):
    return {"key": KEY, "model": model(name), "num": 2}


def fitted(kind, sizes, **own):
    """A call of a `fit` with all fields of its configuration."""
    return {"key": KEY, **own, **{it.name: getattr(kind(**sizes), it.name) for it in dataclasses.fields(kind)}}


def fit_images(name, **own):
    return fitted(getattr(og.models, name).Config, SIZES[name], images=IMAGES, **own)


def fit_map(solver):
    kind = type(og.maps.neural_map.config_of(solver))
    own = {"codes": X, "solver": solver, "neighbours": 2.0, "dim": D, "num_codes": N}
    return fitted(kind, {"hidden": (4,), "num_steps": 2, "batch_size": 4}, **own) | {"sampler": None}


def distilled(**own):
    sizes = {"hidden": (4,), "num_steps": 2, "batch_size": 4}
    return fitted(training.MapSettings, sizes, form="barycentre", temperature=1.0, num_pairs=8, **own)


def going():
    return {"model": model("flow"), "num_steps": 2, "method": "heun", "guidance": 1.0}


def coded():
    """A codec of the untrained autoencoder."""
    net = og.nn.Autoencoder((4, 4, 1), D, hidden=(4,))
    variables = {"params": {"variables": {"params": params("ae_ot")["autoencoder"]}}}
    return og.models.codec.Codec(Given(net, (4, 4, 1), (D,), 1, 1), variables)


def linear():
    return {"module": model("bures_linear").module, "factor": np.eye(D, 3, dtype=np.float32)}


FITS = {  # all fields of the configuration are among the arguments; one row for every solver of a map
    "ae_ot.fit": lambda: fit_images("ae_ot", labels=LABELS) | {"codec": None},
    "ae_ot_gan.fit": lambda: fit_images("ae_ot_gan", labels=LABELS) | {"base": NETWORK},
    "ae_ot_gan.refine": lambda: fit_images("ae_ot_gan", model=model("ae_ot")),
    "bures_linear.fit": lambda: fitted(og.models.bures_linear.Config, SIZES["bures_linear"], data=X),
    "flow.fit": lambda: fitted(og.models.flow.Config, SIZES["flow"], data=X, labels=LABELS, coupling="independent"),
    "info_gan.fit": lambda: fit_images("info_gan"),
    "informative_gan.fit": lambda: fit_images("informative_gan"),
    "latent_ot.fit": lambda: fit_images("latent_ot", labels=LABELS) | {"codec": None},
    "distil.distil": lambda: distilled(map_=learned("c_transform")),
    "latent_ot.distil": lambda: distilled(model=model("latent_ot")),
    "neural_map.fit c_transform": lambda: fit_map("c_transform"),
    "neural_map.fit icnn": lambda: fit_map("icnn"),
    "neural_map.fit lp": lambda: fit_map("lp"),
    "sinkhorn_generator.fit": lambda: fit_images("sinkhorn_generator", labels=LABELS) | {"features": og.eval.pixels},
    "vae.fit": lambda: fit_images("vae", labels=LABELS),
    "wae_mmd.fit": lambda: fit_images("wae_mmd", labels=LABELS),
    "wgan_gp.fit": lambda: fit_images("wgan_gp", labels=LABELS),
}
VALID = {
    "ae_ot.check_labels": lambda: {"labels": LABELS, "num": N},
    "ae_ot.decode": lambda: {**parts("ae_ot"), "codes": X},
    "ae_ot.encode": lambda: {**parts("ae_ot"), "images": IMAGES},
    "ae_ot.init": lambda: start("ae_ot"),
    "ae_ot.loss": lambda: {"params": params("ae_ot"), "module": model("ae_ot").module, "images": IMAGES},
    "ae_ot.make_step": lambda: step("ae_ot"),
    "ae_ot.map_of": lambda: {"model": model("ae_ot")},
    "ae_ot.num_steps_of": lambda: {"config": config("ae_ot"), "num_images": N},
    "ae_ot.optimiser": lambda: {"config": config("ae_ot"), "num_steps": 10},
    "ae_ot.sample": lambda: {**draw("ae_ot"), "form": "local", "angle": 1.0},
    "ae_ot.sample of a label": lambda: {**draw("ae_ot"), "form": "local", "angle": 1.0, "label": 1},
    "ae_ot.solve": lambda: {
        "key": KEY,
        "module": model("ae_ot").module,
        "params": params("ae_ot"),
        "images": IMAGES,
    },
    "ae_ot.train_autoencoder": lambda: {"key": KEY, "images": IMAGES, "config": config("ae_ot")},
    "ae_ot_gan.decode": lambda: {**parts("ae_ot_gan"), "codes": X},
    "ae_ot_gan.encode": lambda: {**parts("ae_ot_gan"), "images": IMAGES},
    "ae_ot_gan.init": lambda: {"key": KEY, "config": config("ae_ot_gan"), "model": model("ae_ot"), "num_steps": 10},
    "ae_ot_gan.make_step": lambda: {**step("ae_ot_gan"), "phase": "both"},
    "ae_ot_gan.num_steps_of": lambda: {"config": config("ae_ot_gan"), "num_images": N},
    "ae_ot_gan.rows_of": lambda: {"config": config("ae_ot_gan"), "num_images": N},
    "ae_ot_gan.sample": lambda: {**draw("ae_ot_gan"), "form": "local", "angle": 1.0},
    "baselines.budget_of": lambda: {
        "settings": config("vae"),
        "example": IMAGES,
        "num_images": N,
        "epochs": 1.0,
    },
    "baselines.fit_codes": lambda: {"name": "ae_gaussian", "seed": 0, "codes": X, "budget": 1e3},
    "baselines.fit_images": lambda: {"name": "vae", "key": KEY, "images": IMAGES, "config": config("vae")},
    "baselines.image_config": lambda: {
        "name": "vae",
        "settings": config("vae"),
        "example": IMAGES,
        "num_images": N,
        "budget": 1e6,
    },
    "baselines.steps_of": lambda: {"config": config("vae"), "num_images": N},
    "bures_linear.descend": lambda: {"params": model("bures_linear").variables["params"], **linear()},
    "bures_linear.init": lambda: {
        "key": KEY,
        "config": config("bures_linear"),
        "data_shape": (D,),
        "factor": linear()["factor"],
    },
    "bures_linear.loss": lambda: {"params": model("bures_linear").variables["params"], **linear()},
    "bures_linear.make_step": lambda: {**step("bures_linear"), "top": 1.0},
    "bures_linear.minimum": lambda: {"factor": linear()["factor"], "config": config("bures_linear")},
    "bures_linear.optimiser": lambda: {"config": config("bures_linear"), "num_steps": 10, "top": 1.0},
    "bures_linear.sample": lambda: draw("bures_linear"),
    "code_reading.couple": lambda: {**draw("informative_gan"), "images": IMAGES},
    "code_reading.duality_gap": lambda: {**draw("informative_gan"), "images": IMAGES},
    "code_reading.information": lambda: {"reading": reading()},
    "code_reading.of_each_code": lambda: {**draw("info_gan"), "part": 0},
    "code_reading.posterior": lambda: {**draw("informative_gan"), "images": IMAGES},
    "code_reading.predict": lambda: {"model": model("informative_gan"), "images": IMAGES},
    "code_reading.traverse": lambda: {
        **draw("info_gan"),
        "name": "categorical 0",
        "values": np.array([0, 1]),
        "category": 0,
    },
    "codec.components": lambda: {"codec": coded(), "codes": Y, "dim": 1},
    "codec.features": lambda: {"codec": coded()},
    "codec.decode": lambda: {"codec": coded(), "codes": X},
    "codec.encode": lambda: {"codec": coded(), "images": IMAGES, "folder": None, "progress": False},
    "codec.of_functions": lambda: {
        "encode": lambda x: x[:, 0, :2, 0],
        "decode": lambda z: np.zeros((len(z), 4, 4, 1)),
        "image_shape": (4, 4, 1),
    },
    "codec.of_module": lambda: {
        "net": og.nn.Autoencoder((4, 4, 1), D, hidden=(4,)),
        "variables": {"params": params("ae_ot")["autoencoder"]},
        "image_shape": (4, 4, 1),
        "scale": 1,
    },
    "codec.second": lambda: {"key": KEY, "codec": coded(), "codes": Y, "latent_dim": 1, "hidden": (4,)},
    "codec.taef2": lambda: {
        **{"data_dir": "nothing is there", "image_shape": (8, 8, 3), "scale": 1},
        **{"precision": "float32", "verify": True},
    },
    "flow.decode": lambda: {"model": model("flow"), "noise": X, "label": LABELS},
    "flow.encode": lambda: {"model": model("flow"), "data": X, "label": LABELS},
    "flow.init": lambda: {"key": KEY, "config": config("flow"), "shape": (D,), "num_classes": 2, "num_conditions": 0},
    "flow.log_prob": lambda: {
        **{name: it for name, it in going().items() if name != "guidance"},
        "x": X,
        "label": LABELS,
        "t": 0.5,
        "key": KEY,
        "num_probes": 2,
    },
    "flow.loss": lambda: {
        "params": model("flow").variables["params"],
        "module": model("flow").module,
        "batch": og.coupling.Batch(X, Y, LABELS, np.ones(N, np.float32), np.arange(N)),
        "t": T,
    },
    "flow.make_step": lambda: {"module": model("flow").module, "config": config("flow")},
    "flow.move": lambda: {**going(), "x": X, "t0": 1.0, "t1": 0.5, "label": LABELS},
    "flow.sample": lambda: {**going(), "key": KEY, "num": 2},
    "flow.sample of a label": lambda: {**going(), "key": KEY, "num": 2, "label": 1},
    "flow.score": lambda: {"model": model("flow"), "x": X, "t": 0.5, "label": LABELS, "guidance": 1.0},
    "flow.straightness": lambda: {"key": KEY, "model": model("flow"), "num": 4, "label": np.arange(4) % 2},
    "flow.velocity": lambda: {"model": model("flow"), "x": X, "t": 0.5, "label": LABELS, "guidance": 1.0},
    "info_gan.discriminator_loss": lambda: {
        "critic": started("info_gan")[1].critic.params,
        "module": model("info_gan").module,
        "real": IMAGES,
        "fake": IMAGES,
        "codes": codes(),
    },
    "info_gan.generator_loss": lambda: {
        "generator": started("info_gan")[1].generator.params,
        "critic": started("info_gan")[1].critic.params,
        "module": model("info_gan").module,
        "codes": codes(),
        "noise": X,
    },
    "info_gan.information": lambda: {
        "config": config("info_gan"),
        "outputs": np.concatenate([X, Y], 1),
        "codes": codes(),
    },
    "info_gan.init": lambda: start("info_gan"),
    "info_gan.make_step": lambda: step("info_gan"),
    "info_gan.sample": lambda: draw("info_gan"),
    "informative_gan.init": lambda: {**start("informative_gan"), "unit": 1.0},
    "informative_gan.make_step": lambda: step("informative_gan"),
    "informative_gan.sample": lambda: draw("informative_gan"),
    "informative_gan.unit_of": lambda: {"images": IMAGES},
    "latent_law.gaussian": lambda: {"codes": X},
    "latent_law.map_to": lambda: {
        "codes": X,
        "h": np.zeros(N, np.float32),
        "extension": og.extension.Extension(X, jnp.float32(1)),
    },
    "latent_law.mixture": lambda: {"seed": 0, "codes": X, "components": 2, "most": 8},
    "latent_law.transport": lambda: {"key": KEY, "codes": X, "tol": 0.5, "max_samples": 4096},
    "latent_ot.autoencoder": lambda: {"config": config("latent_ot")},
    "latent_ot.decode": lambda: {"model": model("latent_ot"), "codes": X},
    "latent_ot.default_form": lambda: {"config": config("latent_ot")},
    "latent_ot.encode": lambda: {"model": model("latent_ot"), "images": IMAGES},
    "latent_ot.map_of": lambda: {"model": model("latent_ot")},
    "latent_ot.sample": lambda: {**draw("latent_ot"), "form": "barycentre", "temperature": 1.0},
    "latent_ot.sample of a label": lambda: {
        **draw("latent_ot"),
        "model": model("latent_ot")._replace(labels=jnp.asarray(LABELS)),
        "form": "local",
        "label": 1,
    },
    "latent_ot.solve": lambda: {
        "key": KEY,
        "params": params("ae_ot"),
        "images": IMAGES,
        "config": config("latent_ot"),
    },
    "latent_ot.standardisation": lambda: {"codes": X},
    "latent_ot.train_autoencoder": lambda: {"key": KEY, "images": IMAGES, "config": config("latent_ot")},
    "distil.loss": lambda: {
        "params": drawn(lambda: Displacement((4,)).init(KEY, X[:1])["params"]),
        "module": Displacement((4,)),
        "x": X,
        "to": Y,
    },
    "neural_map.config_of": lambda: {"solver": "lp", "num_steps": 10, "learning_rate": 1e-3},
    "neural_map.default_form": lambda: {"solver": "lp"},
    "neural_map.disagreement": lambda: {
        "key": KEY,
        "map_": learned("c_transform"),
        "other": learned("c_transform"),
        "num": 4,
        "form": "argmax",
    },
    "neural_map.draw": lambda: {"key": KEY, "map_": learned("c_transform"), "num": 4},
    "neural_map.evaluate": lambda: {"key": KEY, "map_": learned("c_transform"), "num": 4, "form": "argmax"},
    "neural_map.form_of": lambda: {"map_": learned("lp"), "form": "barycentre", "temperature": 1.0},
    "neural_map.heights": lambda: {"map_": learned("c_transform")},
    "neural_map.inverse": lambda: {"map_": learned("icnn"), "y": X},
    "neural_map.potential": lambda: {"map_": learned("c_transform"), "y": X},
    "neural_map.sample": lambda: {
        "key": KEY,
        "map_": learned("c_transform"),
        "num": 4,
        "form": "barycentre",
        "temperature": 1.0,
    },
    "neural_map.transport": lambda: {
        "map_": learned("c_transform"),
        "x": X,
        "form": "barycentre",
        "temperature": 1.0,
    },
    "store.load": lambda: {"path": "nothing is there"},
    "store.save": lambda: {"path": "nothing", "model": law()},
    "sinkhorn_generator.init": lambda: start("sinkhorn_generator"),
    "sinkhorn_generator.loss": lambda: {
        "params": params("sinkhorn_generator"),
        "module": model("sinkhorn_generator").module,
        "images": IMAGES,
        "noise": X[:4],
        "other_noise": X,
        "features": og.eval.pixels,
    },
    "sinkhorn_generator.make_step": lambda: {**step("sinkhorn_generator"), "features": og.eval.pixels},
    "sinkhorn_generator.sample": lambda: draw("sinkhorn_generator"),
    "sinkhorn_generator.sample of a label": lambda: {
        **draw("sinkhorn_generator"),
        "model": labelled("sinkhorn_generator"),
        "label": 1,
    },
    "use.generate": lambda: {"key": KEY, "model": model("ae_ot"), "noise": X / 9, "form": "pairs", "angle": 1.0},
    "use.interpolate": lambda: {
        "key": KEY,
        "model": model("ae_ot"),
        "first": IMAGES[:2],
        "last": IMAGES[2:4],
        "num": 3,
        "paths": 2,
    },
    "use.invert": lambda: {"key": KEY, "model": model("ae_ot"), "data": IMAGES[:2]},
    "use.neighbours": lambda: {"model": model("ae_ot"), "images": IMAGES[:2], "k": 2, "among": IMAGES},
    "use.sample": lambda: draw("ae_ot"),
    "use.summary": lambda: {"model": model("ae_ot")},
    "vae.init": lambda: start("vae"),
    "vae.loss": lambda: {"params": params("vae"), "module": model("vae").module, "images": IMAGES, "noise": X},
    "vae.make_step": lambda: step("vae"),
    "vae.sample": lambda: draw("vae"),
    "vae.sample of a label": lambda: {**draw("vae"), "model": labelled("vae"), "label": 1},
    "wae_mmd.init": lambda: start("wae_mmd"),
    "wae_mmd.loss": lambda: {
        "params": params("wae_mmd"),
        "module": model("wae_mmd").module,
        "images": IMAGES,
        "prior": X,
    },
    "wae_mmd.make_step": lambda: step("wae_mmd"),
    "wae_mmd.mmd_sq": lambda: {"x": X, "y": Y},
    "wae_mmd.sample": lambda: draw("wae_mmd"),
    "wae_mmd.sample of a label": lambda: {**draw("wae_mmd"), "model": labelled("wae_mmd"), "label": 1},
    "wgan_gp.critic_loss": lambda: {
        "critic": started("wgan_gp")[1].critic.params,
        "module": model("wgan_gp").module,
        "real": IMAGES,
        "fake": IMAGES,
        "share": T,
    },
    "wgan_gp.generator_loss": lambda: {
        "generator": started("wgan_gp")[1].generator.params,
        "critic": started("wgan_gp")[1].critic.params,
        "module": model("wgan_gp").module,
        "noise": X,
    },
    "wgan_gp.init": lambda: start("wgan_gp"),
    "wgan_gp.make_step": lambda: step("wgan_gp"),
    "wgan_gp.sample": lambda: draw("wgan_gp"),
    "wgan_gp.sample of a label": lambda: {**draw("wgan_gp"), "model": labelled("wgan_gp"), "label": 1},
}
WITHOUT = {
    "runs inside a caller's jit, unchecked": "ae_ot_gan.new_codes",
    "is that of another name": "code_reading.sinkhorn",
}
SORTS = {  # where the name does not tell
    **{name: {"images": "images"} for name in VALID if not name.endswith(("loss", "unit_of"))},
    "ae_ot.sample": {"angle": "positive"},
    "ae_ot.sample of a label": {"angle": "positive", "label": "label"},
    **{
        f"{name}.sample of a label": {"label": "label"}
        for name in ("latent_ot", "sinkhorn_generator", "vae", "wae_mmd", "wgan_gp")
    },
    "ae_ot_gan.sample": {"angle": "positive"},
    "bures_linear.init": {"data_shape": "counts"},
    "code_reading.of_each_code": {"part": "count"},
    "code_reading.traverse": {"category": "label"},
    "codec.of_functions": {"image_shape": "counts", "encode": "function", "decode": "function"},
    "codec.of_module": {"image_shape": "counts", "net": "thing", "scale": "count"},
    "codec.second": {"latent_dim": "count", "hidden": "counts"},
    "codec.taef2": {"image_shape": "counts", "scale": "count", "data_dir": "folder"},
    "use.generate": {"angle": "positive"},
    "use.interpolate": {"first": "images", "last": "images", "paths": "count"},
    "use.invert": {"data": "images"},
    "use.neighbours": {"images": "images", "among": "images"},
    "sinkhorn_generator.loss": {"features": "given", "heat": "positive"},
    "sinkhorn_generator.make_step": {"features": "given"},
    "flow.decode": {"label": "array"},
    "flow.encode": {"label": "array"},
    "flow.init": {"shape": "counts", "num_conditions": "count"},
    "flow.log_prob": {"label": "array", "num_probes": "count"},
    "flow.loss": {"batch": "thing"},
    "flow.move": {"label": "array", **dict.fromkeys(("t0", "t1"), "number"), "guidance": "number"},
    "flow.sample": {"guidance": "number"},
    "flow.sample of a label": {"label": "label", "guidance": "number"},
    "flow.score": {"label": "array", "guidance": "number"},
    "flow.straightness": {"label": "array"},
    "flow.velocity": {"label": "array", "guidance": "number"},
    "store.load": {"path": "path"},
    "store.save": {"path": "path", "model": "nothing"},
}


def function_of(name):
    return FUNCTIONS[name.partition(" ")[0]]


def sorts_of_fit(name):
    """What the arguments of a fit are: those that are fields by the annotation of its configuration."""
    module, _, rest = name.partition(".")
    solver = rest.partition(" ")[2]
    if module == "neural_map":
        kind = type(og.maps.neural_map.config_of(solver))
    else:
        kind = training.MapSettings if rest == "distil" else getattr(og.models, module).Config
    fields = {it.name: SORT_OF_FIELD.get(it.type, "nothing") for it in dataclasses.fields(kind)}
    return {**fields, "images": "images", "base": "fields", "sampler": "given", "coupling": "name", "features": "given"}


@pytest.fixture(autouse=True)
def as_users_call_it():
    """Without the checks of shapes and types that the other tests run under."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


BEGUN = (  # what is only computed once the checks are over
    (nn.Module, "init"),
    (Latent, "batch"),
    (training, "units_of"),
    (og.models.bures_linear, "moments"),
    (og.maps.neural_map, "top_scores"),
)


@pytest.fixture
def at_the_door(monkeypatch):
    """Once called, a call that the checks let pass ends there: nothing is compiled."""

    def reached(*_, **__):
        raise Reached

    def prepare(*more):
        for place, name in (*BEGUN, *more):
            monkeypatch.setattr(place, name, reached)

    return prepare


def test_every_public_function_of_the_models_is_here():
    without = {name for names in WITHOUT.values() for name in names.split()}
    here = {name.partition(" ")[0] for name in (*FITS, *VALID)}
    functions = {name for name, it in FUNCTIONS.items() if not inspect.isclass(it)}
    assert not functions - here - without, "give these a valid call in VALID"
    assert not (without | here) - functions, "these are gone"


def test_of_every_argument_is_known_what_is_wrong():
    calls = [(name, VALID[name](), SORTS.get(name)) for name in VALID]
    calls += [(name, FITS[name](), sorts_of_fit(name)) for name in FITS]
    found = {(name, it) for name, call, sorts in calls for it in unsorted(function_of(name), call, sorts)}
    assert not found, "give these a sort, here or in tests.support.wrong"


@pytest.mark.parametrize("params", [None, 3, "model", {}, {"a": np.zeros(3, np.float32)}], ids=str)
@pytest.mark.parametrize("name", ["ae_ot.solve", "bures_linear.descend", "latent_ot.solve"])
def test_parameters_of_another_module_are_refused(name, params):
    with pytest.raises((ValueError, TypeError), match=r"params|abstract array|variables are not those"):
        function_of(name)(**{**VALID[name](), "params": params})


@pytest.mark.parametrize("name", sorted(FITS))
def test_fits_refuse_in_words_before_they_train(name, at_the_door):
    arguments, sorts = FITS[name](), sorts_of_fit(name)
    at_the_door()
    function = function_of(name)
    found = [*refusals(name, function, arguments, sorts), *results(name, function, arguments, sorts=sorts)]
    assert not found, "\n".join(found)


LONG = {"bures_linear.descend", "latent_law.mixture", "latent_law.transport"}  # and has no network


@pytest.mark.parametrize("name", [pytest.param(it, marks=[pytest.mark.slow] * (it in LONG)) for it in sorted(VALID)])
def test_wrong_arguments_are_refused_in_words(name, at_the_door):
    arguments = VALID[name]()
    at_the_door((nn.Module, "apply"))
    found = list(refusals(name, function_of(name), arguments, SORTS.get(name)))
    assert not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(name for name in VALID if not name.startswith("store.")))
def test_results_do_not_depend_on_how_arrays_are_given(name):
    function, arguments, sorts = function_of(name), VALID[name](), SORTS.get(name)
    unread = {(name, "example")}  # of which only the shape counts
    found = [*refusals(name, function, arguments, sorts), *results(name, function, arguments, unread, sorts)]
    assert not found, "\n".join(found)
