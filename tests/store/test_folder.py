"""Models saved as folders: what comes back, on other devices too, and what is refused."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import otgen as og
from otgen.maps import neural_map
from otgen.models import ae_ot, ae_ot_gan, apply, bures_linear, flow, latent_ot
from otgen.models.baselines import vae, wae_mmd, wgan_gp
from otgen.models.informative import info_gan, informative_gan
from otgen.nn.potentials import Convex
from otgen.nn.unet import UNet
from otgen.nn.velocity import Velocity
from otgen.ot import semidiscrete
from otgen.ot.semidiscrete import extension, source
from otgen.store import folder
from otgen.types import Status
from tests.support.processes import told_by

SHAPE, SIZES = (4, 4, 1), {"latent_dim": 2, "hidden": (8,), "batch_size": 8}


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def filled(module, *args, seed=0, **options):
    """Variables of a module with numbers for values, of the shapes that `init` gives."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *args, **options))
    leaves, structure = jax.tree.flatten(shapes)
    values = (0.1 * numbers(*leaf.shape, seed=seed + i) for i, leaf in enumerate(leaves))
    return structure.unflatten(map(jnp.asarray, values))


def transport(num=12, dim=2):
    codes = jnp.asarray(numbers(num, dim))
    return {
        "codes": codes,
        "h": jnp.asarray(0.1 * numbers(num)),
        "centres": codes / 4,
        "angle": jnp.float32(1.0),
        "mean": jnp.ones(dim),
        "scale": jnp.full(dim, 2.0),
    }


def ae_ot_model():
    module = ae_ot.AEOT(SHAPE, ae_ot.Config(**SIZES))
    ones = jnp.float32(1)
    info = semidiscrete.Info(*[ones] * (len(semidiscrete.Info._fields) - 1), jnp.int32(Status.CONVERGED))
    variables = {**filled(module, jnp.zeros((1, *SHAPE))), "transport": transport()}
    return ae_ot.Model(module, variables, jnp.arange(12) % 3, info)


def ae_ot_gan_model():
    base = ae_ot_model()
    module = ae_ot_gan.AEOTGAN(SHAPE, base.module.config, ae_ot_gan.Config(epochs=0.5))
    generator = filled(module, jnp.zeros((1, 2)), method="decode")["params"]
    params = {**base.variables["params"], **generator}
    return base._replace(module=module, variables={"params": params, "transport": transport()}, labels=None)


def latent_ot_model():
    config = latent_ot.Config(**SIZES, solver="icnn", solver_options={"hidden": [8, 4], "num_steps": 3})
    network = Convex((8, 4))
    module = latent_ot.LatentOT(SHAPE, config, potential=network)
    known = {"table": None, "units": neural_map.Units(jnp.zeros(2), jnp.ones(()), jnp.ones(2), jnp.float32(2.0))}
    known |= {"temperature": jnp.float32(0.3), "residual": jnp.float32(0), **transport()}
    params = filled(module, jnp.zeros((1, *SHAPE)))["params"]
    params = {**params, "potential": filled(network, jnp.zeros((1, 2)))["params"]}
    return latent_ot.Model(module, {"params": params, "transport": known})


def bures_linear_model():
    module = bures_linear.BuresLinear((2, 4), bures_linear.Config(rank=2), scale=0.25)
    variables = {**filled(module, jnp.zeros((1, 2))), "transport": {"mean": jnp.arange(8.0)}}
    ones = jnp.float32(1)
    return bures_linear.Model(module, variables, bures_linear.Info(ones, ones, ones, 30, jnp.int32(Status.MAX_STEPS)))


def generator_model(kind, module):
    return kind(module, {**filled(module, jax.random.key(0), 3, method="sample")})


def gan_model():
    config = informative_gan.Config(**{**SIZES, "batch_size": 12}, categorical=(3,), uniform=1, noises=4)
    model = generator_model(informative_gan.Model, informative_gan.InformativeGAN(SHAPE, config))
    return model._replace(variables={**model.variables, "transport": {"unit": jnp.float32(3)}})


MODELS = {
    "ae_ot": ae_ot_model,
    "ae_ot_gan": ae_ot_gan_model,
    "bures_linear": bures_linear_model,
    "latent_ot": latent_ot_model,
    "informative_gan": gan_model,
    "info_gan": lambda: generator_model(apply.Model, info_gan.InfoGAN(SHAPE, info_gan.Config(**SIZES, uniform=1))),
    "vae": lambda: generator_model(apply.Model, vae.VAE(SHAPE, vae.Config(**SIZES))),
    "wae_mmd": lambda: generator_model(apply.Model, wae_mmd.WAE(SHAPE, wae_mmd.Config(**SIZES))),
    "wgan_gp": lambda: generator_model(apply.Model, wgan_gp.WGAN(SHAPE, wgan_gp.Config(**SIZES))),
    "flow": lambda: flow.Flow(
        Velocity(2, 8, 1, 3, precision="bfloat16"),
        filled(Velocity(2, 8, 1, 3), jnp.zeros(1), jnp.zeros((1, 2))),
        flow.Config(width=8, depth=1, precision="bfloat16"),
    ),
    "flow of images": lambda: flow.Flow(
        UNet((4, 4, 1), 8, 1, 1),
        filled(UNet((4, 4, 1), 8, 1, 1), jnp.zeros(1), jnp.zeros((1, 4, 4, 1))),
        flow.Config(width=8, depth=1, levels=1),
    ),
}


def bits(leaf):
    """Type, shape and bytes of a leaf."""
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return str(jax.random.key_impl(leaf)), *bits(jax.random.key_data(leaf))
    return (type(leaf), str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()) if hasattr(leaf, "dtype") else leaf


def assert_same(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)  # Flax modules are leaves
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert bits(a) == bits(b)


@pytest.mark.parametrize("name", MODELS)
def test_models_come_back_equal_bit_for_bit(name, tmp_path):
    model = MODELS[name]()
    og.save(tmp_path / "a" / "b", model)
    found = og.load(tmp_path / "a" / "b")
    assert type(found) is type(model)
    assert_same(found, model)
    assert found.module == model.module
    assert hash(found.module) == hash(model.module)  # so that nothing jitted for it compiles again
    assert sorted(part.name for part in tmp_path.iterdir()) == ["a"]
    assert sorted(part.name for part in (tmp_path / "a").iterdir()) == ["b"]


def test_a_model_draws_the_same_as_before(tmp_path):
    model = MODELS["bures_linear"]()
    folder.save(tmp_path / "linear", model)
    found = folder.load(tmp_path / "linear")
    key = jax.random.key(1)
    assert bits(bures_linear.sample(key, found, 5)) == bits(bures_linear.sample(key, model, 5))
    assert og.explain(found.info) == og.explain(model.info)


def test_a_semidiscrete_state_and_its_extension(tmp_path):
    y = jnp.asarray(numbers(12, 2))
    state = semidiscrete.from_heights(jnp.asarray(0.1 * numbers(12)))
    known = {"state": state, "extension": extension.Extension(y / 4, jnp.float32(1.0)), "y": y}
    og.save(tmp_path / "map", known)
    found = og.load(tmp_path / "map")
    assert_same(found, known)
    x = jnp.asarray(numbers(50, 2, seed=1))
    assert bits(semidiscrete.assign(found["state"], found["y"], x)) == bits(semidiscrete.assign(state, y, x))
    with np.load(tmp_path / "map" / "arrays.npz") as file:  # readable without otgen
        assert np.array_equal(file["state/h"], state.h)


def test_a_map_with_a_named_source(tmp_path):
    network = Convex((4,))
    params = filled(network, jnp.zeros((1, 2)))["params"]
    units = neural_map.Units(jnp.zeros(2), jnp.ones(()), jnp.ones(2), jnp.float32(2.0))
    rest = {"codes": jnp.zeros((3, 2)), "h": jnp.zeros(3), "temperature": jnp.ones(()), "residual": jnp.zeros(())}
    found = neural_map.Map("icnn", network, source.uniform_ball, params, None, units, **rest)
    og.save(tmp_path / "map", found)
    back = og.load(tmp_path / "map")
    assert back.sampler == source.uniform_ball
    assert_same(back, found)
    own = source.Source("own", lambda u: u)
    with pytest.raises(ValueError, match=r"model\.sampler\.from_cube is the function .*lambda.* has under a name"):
        og.save(tmp_path / "other", neural_map.Map("icnn", network, own, params, None, units, **rest))
    assert not (tmp_path / "other").exists()


def test_every_kind_of_value(tmp_path):
    values = {
        "bfloat16": jnp.asarray([1.5, jnp.nan, -0.0], jnp.bfloat16),
        "float8": jnp.asarray([[1.5], [-2]], jnp.float8_e4m3fn),
        "int4": jnp.asarray([-8, 7], jnp.int4),
        "key": jax.random.key(7),
        "keys": jax.random.split(jax.random.key(7, impl="rbg"), 3),
        "bool": jnp.asarray([True, False]),
        "complex": jnp.asarray([1 + 2j], jnp.complex64),
        "zero-dimensional": jnp.int32(-5),
        "empty": jnp.zeros((0, 3)),
        "nan": jnp.asarray(np.array([0x7FC00001, 0xFFFFFFFF], np.uint32).view(np.float32)),
        "numpy": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
        "text": np.array(["a", "ü"]),
        "scalar": np.float64(1 / 3),
        "file": jnp.ones(2),  # a name that numpy.savez has taken
        "a": {"b": jnp.zeros(1), "../up": np.uint8(3)},
        "a/b": jnp.ones(1),
        "plain": (None, True, 2**70, 0.1, float("-inf"), "snow ☃", [1, (2.0,), []], (), {}),
        "status": Status.MAX_STEPS,
        "activation": og.nn.autoencoder.to_unit,
    }
    og.save(tmp_path / "all", values)
    found = og.load(tmp_path / "all")
    assert list(found) == list(values)
    assert_same(found, values)
    assert repr(found["plain"]) == repr(values["plain"])
    assert found["status"] is Status.MAX_STEPS
    assert np.isnan(float(_round_trip(tmp_path / "nan", float("nan"))))
    assert _round_trip(tmp_path / "one", jnp.arange(3.0)).tolist() == [0, 1, 2]


def _round_trip(path, value):
    og.save(path, value)
    return og.load(path)


def test_equal_models_make_equal_files(tmp_path):
    for name in ("one", "two"):
        og.save(tmp_path / name, MODELS["flow"]())
    for file in ("model.json", "arrays.npz"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


class Foreign(nn.Module):
    pass


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"a": [Foreign()]}, r"model\.a\.0 is a tests\.store\.test_folder\.Foreign"),
        ({"a": {3: 1}}, "model.a has keys that are not text"),
        ({"a": {1, 2}}, "model.a is a builtins.set"),
        ({"a": np.array([None])}, "model.a is an array of object"),
        (np.ma.masked_array([1.0], [True]), "model is a numpy.ma"),
        (jax.nn.gelu, "model is the function jax"),
    ],
)
def test_what_cannot_be_described_is_named(model, told, tmp_path):
    with pytest.raises(ValueError, match=told):
        og.save(tmp_path / "model", model)
    assert not list(tmp_path.iterdir())


def test_functions_of_a_module_are_named_with_what_to_do(tmp_path):
    model = gan_model()
    module = model.module.clone(known=lambda images: images)
    with pytest.raises(ValueError, match=r"model\.module\.known is the function .*module\.clone\(known=None\)"):
        og.save(tmp_path / "model", model._replace(module=module))
    state = informative_gan.TrainState({}, optax.adam(0.1).init({}), jnp.int32(0))
    with pytest.raises(ValueError, match=r"model\.opt_state\.0 is a optax.*Checkpoints"):
        og.save(tmp_path / "model", state)
    with pytest.raises(ValueError, match="model is traced: save outside of jit"):
        jax.jit(lambda x: og.save(tmp_path / "model", x))(1.0)
    with pytest.raises(ValueError, match="model is bound to variables"):
        og.save(tmp_path / "model", model.module.bind(model.variables))


def test_only_a_saved_model_is_overwritten(tmp_path):
    path = tmp_path / "model"
    og.save(path, {"x": jnp.zeros(2)})
    with pytest.raises(FileExistsError, match="overwrite=True"):
        og.save(path, {"x": jnp.ones(2)})
    og.save(path, {"x": jnp.ones(2)}, overwrite=True)
    assert og.load(path)["x"].tolist() == [1, 1]
    with pytest.raises(ValueError, match="cannot be saved"):
        og.save(path, {"x": {1}}, overwrite=True)
    (path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"also holds notes\.txt"):
        og.save(path, {"x": jnp.zeros(2)}, overwrite=True)
    assert og.load(path)["x"].tolist() == [1, 1]
    other = tmp_path / "other"
    other.mkdir()
    og.save(other, {"x": jnp.zeros(2)}, overwrite=True)  # an empty folder has nothing to lose
    for text in ("{}", "mine", "[1]"):
        (other / "model.json").write_text(text)
        with pytest.raises(FileExistsError, match="not a saved model"):
            og.save(other, {"x": jnp.zeros(2)}, overwrite=True)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="not a saved model"):
        og.save(tmp_path / "file", {}, overwrite=True)
    assert {part.name for part in tmp_path.iterdir()} == {"model", "other", "file"}


def test_a_save_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "model"
    og.save(path, {"x": jnp.zeros(2)})

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(folder, "_flush", full)
    with pytest.raises(OSError, match="no space left"):
        og.save(path, {"x": jnp.ones(2)}, overwrite=True)
    monkeypatch.undo()
    real = Path.rename
    monkeypatch.setattr(Path, "rename", lambda self, to: full() if ".saving-" in self.name else real(self, to))
    with pytest.raises(OSError, match="no space left"):
        og.save(path, {"x": jnp.ones(2)}, overwrite=True)
    assert [part.name for part in tmp_path.iterdir()] == ["model"]
    assert og.load(path)["x"].tolist() == [0, 0]


def test_what_is_no_model_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing at .*og\.save"):
        og.load(tmp_path / "none")
    og.save(tmp_path / "run" / "model", {"x": 1})
    with pytest.raises(ValueError, match=r"a folder of model: do you mean .*run/model\?"):
        og.load(tmp_path / "run")
    (tmp_path / "text").write_text("")
    with pytest.raises(ValueError, match="no saved model but a file"):
        og.load(tmp_path / "text")


def test_damage_is_found(tmp_path):
    path = tmp_path / "model"
    og.save(path, {"x": jnp.arange(100.0), "n": 3})
    arrays, text = path / "arrays.npz", path / "model.json"
    whole, written = arrays.read_bytes(), text.read_text()
    harmless = 0
    for i in range(0, len(whole), 11):  # one bit anywhere is found, or is of no consequence
        arrays.write_bytes(whole[:i] + bytes([whole[i] ^ 4]) + whole[i + 1 :])
        if not _is_damaged(path):
            harmless += 1
            assert og.load(path)["x"].tolist() == list(range(100))
    assert harmless < 10  # dates and the like in the archive
    for broken in (whole[:300], b"", whole.replace(b"x.npy", b"y.npy")):
        arrays.write_bytes(broken)
        with pytest.raises(ValueError, match=r"arrays\.npz is damaged"):
            og.load(path)
    arrays.unlink()
    with pytest.raises(ValueError, match=r"arrays\.npz is damaged"):
        og.load(path)
    arrays.write_bytes(whole)
    with zipfile.ZipFile(arrays, "w") as file, file.open("x.npy", "w") as member:  # a sound file of other numbers
        np.lib.format.write_array(member, np.arange(1.0, 101, dtype=np.float32))
    with pytest.raises(ValueError, match="the numbers of x are not those that were saved"):
        og.load(path)
    arrays.write_bytes(whole)
    for broken, told in ((written[:-9], "is damaged"), (written.replace('"n": 3', '"n": 4'), "was changed")):
        text.write_text(broken)
        with pytest.raises(ValueError, match=told):
            og.load(path)
    text.write_text("{}")
    with pytest.raises(ValueError, match="not by otgen"):
        og.load(path)


def _is_damaged(path):
    try:
        og.load(path)
    except ValueError as error:
        return "arrays.npz is damaged" in str(error)
    return False


def rewritten(path, change):
    """A saved text changed as another version of otgen, or a forger, would have written it."""
    content = json.loads((path / "model.json").read_text())
    change(content)
    content["checksum"] = folder._text_sum(content)
    (path / "model.json").write_text(json.dumps(content))


def _set(content, value, *names):
    for name in names[:-1]:
        content = content[name]
    content[names[-1]] = value


FIELDS = ("model", "fields", "module", "fields")


@pytest.mark.parametrize(
    ("names", "value", "told"),
    [
        (("otgen model",), 2, "format 2; otgen .* reads formats up to 1: install the newer otgen"),
        (("model", "class"), "otgen.models.ae_ot.Modell", "there is no otgen.models.ae_ot.Modell any more"),
        (("model", "class"), "otgen.models.gone.Model", "there is no otgen.models.gone.Model any more"),
        ((*FIELDS, "colour"), "red", "Velocity is now without colour"),
        ((*FIELDS[:3], "fields"), {"dim": 2, "hue": 3}, "Velocity is now without hue"),
        (("model", "fields", "config", "fields", "width"), -1, "Config refuses its fields .width = -1"),
        (("model", "class"), "subprocess.Popen", "outside otgen: it is not loaded"),
        (("model", "class"), "otgen.store.folder.os", "no model or configuration"),
        (("model", "class"), "otgen.models.ae_ot.AEOT.apply", "there is no"),
        (("model", "class"), "otgen.train.log.JsonLines", "no model or configuration"),
        (("model", "fields", "source"), {"constant": "otgen.store.folder.shutil"}, "is something else now"),
        (("model", "fields", "source"), {"constant": "otgen.store.folder.Path"}, "is something else now"),
        (("model", "fields", "source"), {"constant": "os.system"}, "outside otgen: it is not loaded"),
        (("model", "fields", "source"), {"enum": "otgen.types.Status", "name": "LOST"}, "has no LOST any more"),
        (("model", "fields", "source"), {"code": "1 + 1"}, "describes something as 'code'"),
    ],
)
def test_other_versions_and_forgeries(names, value, told, tmp_path):
    path = tmp_path / "model"
    og.save(path, MODELS["flow"]())
    rewritten(path, lambda content: _set(content, value, *names))
    with pytest.raises(ValueError, match=told):
        og.load(path)


def test_numbers_of_64_bits_are_not_rounded(tmp_path):
    with jax.enable_x64(True):
        value = jnp.asarray([1 / 3])
        og.save(tmp_path / "model", value)
        assert bits(og.load(tmp_path / "model")) == bits(value)
    with pytest.raises(ValueError, match="is float64, which JAX holds with 64 bits switched on only"):
        og.load(tmp_path / "model")


DEVICES = """
import sys, json, jax, numpy as np, otgen as og
from jax.sharding import NamedSharding, PartitionSpec
model = og.load(sys.argv[1])
assert {leaf.device for leaf in jax.tree.leaves(model.variables)} == {jax.devices()[0]}
sample = getattr(og.models, sys.argv[3]).sample
images = np.asarray(sample(jax.random.key(3), model, 40))
mesh = jax.make_mesh((jax.device_count(),), ("d",))
spread = {name: jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*["d"] * (leaf.shape[:1] in [(8,), (12,)]))))
          for name, leaf in model.variables["transport"].items()}
og.save(sys.argv[2], model._replace(variables={**model.variables, "transport": spread}))
print(json.dumps({"devices": jax.device_count(), "images": images.ravel().tolist()}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bures_linear", "ae_ot"])
def test_models_move_between_one_device_and_four(name, tmp_path):
    model = MODELS[name]()
    og.save(tmp_path / "here", model)
    told = told_by(DEVICES, 4, str(tmp_path / "here"), str(tmp_path / "there"), name)
    assert (told["devices"], jax.device_count()) == (4, 1)
    back = og.load(tmp_path / "there")  # written by a process with four devices, of arrays spread over them
    assert_same(back, model)
    images = getattr(og.models, name).sample(jax.random.key(3), back, 40)
    np.testing.assert_allclose(np.ravel(images), told["images"], atol=1e-6)


HEAVY = "orbax ott tensorflow_datasets matplotlib sklearn diffrax scipy.optimize scipy.stats PIL tyro tqdm"


def test_heavy_parts_are_imported_when_they_are_used():
    program = f"import otgen, sys; print([name for name in '{HEAVY} otgen.models'.split() if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
