import dataclasses
import json
import math
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import informative_gan as experiment
from experiments.informative_gan import Config
from experiments.lab import informative_gan_scores as scores
from experiments.lab.informative_gan_sets import Sets
from experiments.lab.informative_gan_training import training
from otgen import data
from otgen import eval as evaluate
from otgen.data import sprites, toy
from otgen.models.apply import Model
from otgen.models.informative import info_gan, informative_gan
from otgen.nn.augment import Augment


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "letters"}, "'letters' is unknown: choose one of ring, easy_ring, digits"),
        ({"variants": " ,"}, "no variant"),
        ({"variants": "default,best"}, "'best' is unknown: choose among default, .*infogan.*FIELD=VALUE"),
        ({"variants": "depth=3"}, "no field 'depth'"),
        ({"variants": "steps=3"}, "no field 'steps'"),
        ({"variants": "epochs=3"}, "no field 'epochs'"),
        ({"variants": "=3"}, "no field ''"),
        ({"variants": "lam=strong"}, "'lam=strong'"),
        ({"variants": "lam="}, "'lam='"),
        ({"variants": "lam=nan"}, "'lam=nan'"),
        ({"variants": "lam=-0.1"}, "lam = -0.1"),
        ({"variants": "lam=None"}, "'lam=None'"),
        ({"variants": "objective=structured"}, "at most epsilon"),
        ({"variants": "ground=cosine"}, "ground = 'cosine'"),
        ({"variants": "autoencoder"}, "images can have features"),
        ({"variants": "ground=features", "dataset": "digits"}, "by the variant autoencoder"),
        ({"variants": "hidden=16"}, "'hidden=16'"),
        ({"variants": "hidden=(16,0)"}, "hidden = 0"),
        ({"variants": "categorical=8"}, "'categorical=8'"),
        ({"variants": "categorical=(8,3)"}, "40 latents in a batch, 24 categorical values"),
        ({"variants": "debias=maybe"}, "'debias=maybe': give True or False"),
        ({"variants": "augment=no"}, "'augment=no': .* augment None or"),
        ({"variants": "augment={'shift': -1.0}"}, "shift = -1.0"),
        ({"variants": "augment={'turn': 1.0}"}, "turn"),
        ({"variants": "noises=3"}, "noises = 3: give a batch_size"),
        ({"seeds": "2-0"}, "first of a range"),
        ({"seeds": "one"}, "0-2"),
        ({"seeds": "-1"}, "0-2"),
        ({"steps": 0}, "steps = 0"),
        ({"draws": 0}, "draws = 0"),
        ({"num_eval": 20}, "num_eval = 20"),
        ({"num_points": 20}, "num_points = 20"),
        ({"limit": 400}, "limit is for images"),
        ({"network": "lstm"}, "network = 'lstm'"),
        ({"features": "pixels"}, "rings are points: features are of images"),
        ({"dataset": "digits", "features": "vgg"}, "features = 'vgg'"),
        ({"batch_size": 15}, "15 latents in a batch, 8 categorical values"),
        ({"dataset": "digits", "limit": 50}, "limit = 50"),
        ({"dataset": "digits", "batch_size": 500, "variants": "noises=50"}, "400 images: a step takes 3 batches"),
    ],
)
def test_bad_options_raise_before_anything_is_written(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        experiment.main(Config.smoke(out=str(tmp_path / "run"), **change))
    assert not (tmp_path / "run").exists()


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        experiment.main(Config.smoke(out=str(tmp_path / "file")))


@pytest.mark.parametrize("dataset", experiment._SETS)
def test_every_variant_fits_every_data_set(dataset):
    legal = set(experiment.VARIANTS) - ({"autoencoder"} if dataset.endswith("ring") else set())
    names = sorted(legal - ({"no_ground"} if dataset == "easy_ring" else set()))  # its form needs a ground cost
    for config in (Config(dataset=dataset), Config.smoke(dataset=dataset)):
        for name in names:
            settings, steps = config.settings(name)
            assert settings.fitting(400).batch_size >= settings.latent.combinations
            assert steps >= 1


def test_variants_change_fields():
    config = Config(dataset="digits", variants="default, lam=0,hidden=(16,),augment={'shift': 1.0, 'noise': 0},lam=0")
    assert config.names() == ["default", "lam=0", "hidden=(16,)", "augment={'shift': 1.0, 'noise': 0}"]
    default, steps = config.settings("default")
    assert steps == 3000
    changes = {
        "lam=0": {"lam": 0},
        "ground=adversarial": {"ground": "adversarial"},
        "augment=None": {"augment": None},
        "augment={'shift': 1.0, 'noise': 0}": {"augment": Augment(shift=1.0, noise=0)},
        "hidden=(16,)": {"hidden": (16,)},
        "debias=False": {"debias": False},
        "noises=10": {"noises": 10},
        "plain": {"lam": 0.0, "lam_continuous": 0.0},
        "adversarial": {"ground": "adversarial"},
        "no_ground": {"ground": "none", "debias": False},
        "infogan": {},
    }
    for variant, fields in changes.items():
        assert config.settings(variant) == (dataclasses.replace(default, **fields), 3000), variant
    for dataset in experiment._SETS:
        names = {*experiment.VARIANTS, *experiment.BASELINES} - {"no_ground" if dataset == "easy_ring" else None}
        names -= {"autoencoder" if dataset.endswith("ring") else None}
        for variant in sorted(names):  # the structured objective needs the ground cost
            settings, steps = Config(dataset=dataset, batch_size=600, steps=7).settings(variant)
            assert (settings.batch_size, steps) == (600, 7)
            assert settings.num_codes(600) in (600, 60, *settings.categorical)


def test_identities():
    """What is stored is what is read, and tells runs apart whose numbers differ."""
    for dataset in experiment._SETS:
        identity = Config(dataset=dataset).identity()
        assert json.loads(json.dumps(identity)) == identity
    same = Config(seeds="1-4", variants="lam=0", data_dir="a", cache_dir="b", out="c", resume=True, progress=False)
    assert same.identity() == Config().identity()
    others = [{"steps": 3}, {"batch_size": 80}, {"num_points": 200}, {"draws": 1}, {"dataset": "easy_ring"}]
    for change in others:
        assert Config(**change).identity() != Config().identity()


@pytest.mark.parametrize("images", [400, 10_000])
def test_as_many_steps_as_asked(images):
    """Also where the data do not fill the batches."""
    points = np.random.default_rng(0).normal(size=(images, 1, 1, 2)).astype(np.float32)
    fit, total = training(Config(steps=10), "default", 0, points)
    assert total == 10
    settings = informative_gan.Config(**{k: v for k, v in fit.keywords.items() if k != "callback"}).fitting(images)
    assert round(settings.epochs * images / (settings.batch_size * (settings.dual_steps + 1))) == 10


def test_faint_and_filled_images_are_counted():
    rng = np.random.default_rng(0)
    real = rng.uniform(0, 1, (2000, 8, 8, 1)).astype(np.float32)
    images = real[:100].copy()
    odd = scores._odd(images, real)
    assert odd["faint"] <= 1
    assert odd["filled"] <= 1
    images[:7] *= 0.4
    images[50:61] = 0.9
    assert scores._odd(images, real) == {"faint": pytest.approx(7, abs=1), "filled": pytest.approx(11, abs=1)}
    assert scores._odd(0 * images, real) == {"faint": 100.0, "filled": 0.0}


@pytest.mark.parametrize("size", [4, 6, 3])
def test_codes_are_put_in_the_order_of_the_classes(size):
    """Four classes, as many values of the code, more of them, and fewer."""
    rng = np.random.default_rng(size)
    labels = rng.integers(0, 4, 1000)
    naming = rng.permutation(size)  # of every class that has a value
    codes = np.where(labels < size, naming[np.minimum(labels, size - 1)], rng.integers(0, size, 1000))
    codes = np.where(rng.random(1000) < 0.2, rng.integers(0, size, 1000), codes)
    order = scores._matching(codes, labels, size, 4)
    if size < 6:
        np.testing.assert_array_equal(order, naming)
    else:
        np.testing.assert_array_equal(order[:4], naming[:4])
        assert sorted(order) == list(range(6))


def test_features_of_digits_are_principal_components():
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(30, 64)) * np.linspace(3, 0.5, 30)[:, None]
    pixels = 128 + rng.normal(size=(300, 30)) @ factors
    images = np.clip(pixels, 0, 255).astype(np.uint8).reshape(300, 8, 8, 1)
    train, test = data.Dataset(images[:200], np.zeros(200)), data.Dataset(images[200:], np.zeros(100))
    sets = Sets("digits", train, test, None)
    assert sets.extract.name == "20 principal components"
    x = images.reshape(300, -1) / 255
    mean = x[:200].mean(0)
    values, axes = np.linalg.eigh(np.cov(x[:200].T))
    wanted = (x[200:] - mean) @ axes[:, ::-1][:, :20]
    found = np.asarray(sets.features(images[200:]))
    assert found.shape == (100, 20)
    np.testing.assert_allclose(np.abs(found), np.abs(wanted), atol=1e-3)
    np.testing.assert_allclose(sets.features(images[:200]).var(0, ddof=1), values[::-1][:20], rtol=1e-2)
    np.testing.assert_allclose(sets.real(7), found[:7], atol=1e-5)
    ring = Sets("easy_ring", data.Dataset(np.ones((5, 1, 1, 2), np.float32), np.zeros(5)), train, None)
    np.testing.assert_array_equal(ring.features(ring.train.images), np.ones((5, 2)))


class Planted(info_gan.InfoGAN):
    """A generator on the ring whose codes come in pairs that share a mode, with an encoder that knows the modes."""

    def apply(self, variables, *arguments, method):
        centres = toy.eight_gaussians_centres()
        if method == "decode":
            codes, noise = arguments
            return (centres[codes.categories[:, 0] // 2] + 0.05 * noise)[:, None, None]
        return -jnp.sum((arguments[0][:, 0] - centres) ** 2, axis=2)


@pytest.mark.slow
def test_codes_of_the_ring_are_read_off_its_modes():
    sets = experiment.load(Config(num_points=400))
    planted = Planted((1, 1, 2), info_gan.Config(output="real", categorical=(8,), latent_dim=2))
    found, shown, _ = scores._code_scores(jax.random.key(0), Model(planted, {"params": {}}), sets)
    assert found["accuracy_train"] == found["accuracy_test"] == 1
    assert found["nmi"] == pytest.approx(2 * math.log(4) / (math.log(4) + math.log(8)), abs=2e-3)
    assert shown["codes"].shape == (8, 400, 1, 1, 2)
    assert set(found) == {"accuracy_train", "accuracy_test", "nmi"}  # a rival has no plan
    near = np.asarray(shown["codes"])[:, :, 0, 0].mean(1) - np.repeat(toy.eight_gaussians_centres()[:4], 2, axis=0)
    assert np.abs(near).max() < 0.05


class Bright(info_gan.InfoGAN):
    """An encoder whose continuous codes are the mean pixel."""

    def apply(self, variables, images, method):
        mean = images.mean((1, 2, 3))[:, None]
        return jnp.concatenate([jnp.zeros((len(images), 3)), jnp.repeat(mean, 10, axis=1)], axis=1)


def test_sprites_are_encoded_as_the_encoder_was_trained(monkeypatch):
    asked = {}

    def disentanglement(key, codes_of, sizes, **numbers):
        asked.update(codes_of=codes_of, sizes=sizes)
        return {"mig": 0.5}

    monkeypatch.setattr(evaluate, "disentanglement", disentanglement)
    bright = Bright((64, 64, 1), info_gan.Config(categorical=(3,), uniform=5))
    assert scores._disentanglement(jax.random.key(0), Model(bright, {"params": {}}), 60) == {"mig": 0.5}
    assert asked["sizes"] == sprites.SIZES
    factors = np.random.default_rng(0).integers(0, sprites.SIZES, (9, 5))
    codes = asked["codes_of"](factors)
    np.testing.assert_allclose(codes[:, :3], 1 / 3, rtol=1e-5)
    ink = sprites.render(factors).mean((1, 2, 3)) / 255
    np.testing.assert_allclose(codes[:, 3:], np.repeat(ink[:, None], 5, axis=1), rtol=1e-4)


def all_finite(tree) -> bool:
    if isinstance(tree, dict | list):
        return all(all_finite(value) for value in (tree.values() if isinstance(tree, dict) else tree))
    return not isinstance(tree, float) or math.isfinite(tree)


def finished(folder: Path, results, figures):
    """Whether a run has left all that it should."""
    assert all_finite(results)
    assert json.loads((folder / "results.json").read_text()) == json.loads(json.dumps(results))
    assert results["figures"] == list(figures)
    for name in figures:
        assert (folder / name).stat().st_size > 5000
    lines = (folder / "table.md").read_text().splitlines()
    rows = [line.split("|")[1].strip() for line in lines[2:] if line]
    assert rows == list(results["rows"])
    return lines[0]


@pytest.fixture
def done(monkeypatch):
    """What is trained and scored, in order."""
    found, run = [], experiment.run

    def watched(config, place, seed, group, sets, progress):
        found.append((seed, group))
        run(config, place, seed, group, sets, progress)

    monkeypatch.setattr(experiment, "run", watched)
    return found


@pytest.mark.slow
def test_ring_smoke_resumed_and_overwritten(tmp_path, monkeypatch, done):
    folder = tmp_path / "run"
    options = {"out": str(folder), "num_points": 312}  # batches of 104 would not halve into codes
    options |= {"batch_size": 104, "variants": "hidden=(16,)"}
    first = experiment.main(Config.smoke(**options))
    head = finished(folder, first, ("codes.png", "training.png"))
    for name in ("accuracy_test", "accuracy_plan", "nmi", "information", "modes", "gap", "seconds"):
        assert scores.COLUMNS[name] in head
    assert "Frechet" not in head
    assert first["rows"]["real training data"]["modes"]["mean"] == 8
    assert first["rows"]["real training data"]["share_3sd"]["mean"] == pytest.approx(0.989, abs=0.02)
    row = first["rows"]["hidden=(16,)"]
    assert 0 <= row["nmi"]["mean"] <= 1
    assert 0 <= row["information"]["mean"] <= math.log(8)
    assert row["gap"]["mean"] > -0.05
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in lines} == {"hidden=(16,), seed 0"}
    assert max(line["step"] for line in lines) == 4

    assert done == [(0, "reference"), (0, "hidden=(16,)")]
    done.clear()
    assert experiment.main(Config.smoke(resume=True, **options)) == first
    assert done == []
    with pytest.raises(FileExistsError, match="--resume"):
        experiment.main(Config.smoke(**options))
    for change, message in (({"draws": 3}, r"draws \(stored 2, now 3\)"), ({"steps": 5}, r"steps \(stored 4, now 5\)")):
        with pytest.raises(ValueError, match=message):
            experiment.main(Config.smoke(resume=True, **{**options, **change}))

    more = experiment.main(Config.smoke(resume=True, **{**options, "variants": "wgan_gp"}))
    assert done == [(0, "wgan_gp")]
    assert finished(folder, more, ("codes.png",)).count("|") < head.count("|")  # no code to score
    assert more["rows"]["real training data"] == first["rows"]["real training data"]
    assert more["runs"][0] == first["runs"][0]

    def copied(config, place, seed, group, sets, progress):
        done.append((seed, group))
        shutil.copytree(folder / "checkpoints" / "seed-0" / group, place)

    done.clear()
    monkeypatch.setattr(experiment, "run", copied)
    both = experiment.main(Config.smoke(resume=True, **{**options, "seeds": "0,3"}))
    assert done == [(3, "reference"), (3, "hidden=(16,)")]
    assert both["rows"]["hidden=(16,)"]["nmi"] == {"mean": row["nmi"]["mean"], "sd": 0.0, "seeds": 2}
    (folder / "notes.txt").touch()
    with pytest.raises(FileExistsError, match=r"notes\.txt"):
        experiment.main(Config.smoke(overwrite=True, **options))
    (folder / "notes.txt").unlink()
    monkeypatch.undo()
    again = experiment.main(Config.smoke(overwrite=True, **options))
    assert set(again["rows"]) == {"real training data", "hidden=(16,)"}
    assert again["rows"]["hidden=(16,)"]["nmi"] == row["nmi"]
    assert not (folder / "checkpoints" / "seed-3").exists()


@pytest.mark.slow
def test_digits_smoke_with_a_rival(tmp_path):
    options = {"dataset": "digits", "out": str(tmp_path / "run"), "variants": "default,infogan,structured"}
    results = experiment.main(Config.smoke(**options))
    head = finished(tmp_path / "run", results, ("codes.png", "training.png"))
    assert "within 3 sd" not in head
    rows = results["rows"]
    assert list(rows)[-3:] == ["default", "infogan", "structured"]
    assert {"k-means of pixels", "spectral clustering of 400 images"} <= set(rows)
    assert 0.4 < rows["k-means of pixels"]["accuracy_test"]["mean"] < 1
    assert rows["real training data"]["frechet"]["mean"] < 0.5 * rows["default"]["frechet"]["mean"]
    assert rows["real training data"]["precision"]["mean"] > 0.8
    assert rows["real training data"]["faint"]["mean"] < 5
    for name in ("default", "structured"):
        assert 0 <= rows[name]["information"]["mean"] <= math.log(10) + 1e-3
        assert rows[name]["accuracy_plan"]["mean"] >= 0.1
    assert "gap" in rows["default"]
    assert "gap" not in rows["structured"]
    assert "accuracy_plan" not in rows["infogan"]
    assert "nmi" in rows["infogan"]
    assert results["features"] == "20 principal components"
    with np.load(tmp_path / "run" / "checkpoints" / "seed-0" / "default" / "samples.npz") as file:
        assert file["codes"].shape == (10, 12, 8, 8, 1)
        assert file["images"].shape == (100, 8, 8, 1)


@pytest.mark.slow
def test_a_variant_that_diverges_is_noted(tmp_path, capsys):
    options = {"out": str(tmp_path / "run"), "variants": "learning_rate=1e30"}
    results = experiment.main(Config.smoke(**options, steps=60))
    assert list(results["rows"]) == ["real training data"]
    assert "failed" in results["runs"][1]
    assert "learning_rate=1e30, seed 0" in capsys.readouterr().out


@pytest.mark.slow
def test_mnist_smoke(tmp_path, data_dir):
    options = {"dataset": "mnist", "data_dir": str(data_dir), "out": str(tmp_path / "run"), "steps": 2}
    results = experiment.main(Config.smoke(**options))
    finished(tmp_path / "run", results, ("codes.png", "traversals.png", "training.png"))
    assert "gap" in results["rows"]["default"]


@pytest.mark.slow
def test_dsprites_smoke(tmp_path, monkeypatch):
    """Against few held-out images, and few to tell factors by: at full size they take an hour."""
    load = experiment.load

    def few(config):
        sets = load(config)
        assert len(sets.test.images) == sprites.NUM // 10
        whole = data.Dataset(sprites.sample(0, 5)[0], np.zeros(5))
        assert sets.train.images.shape == (200, *whole.images.shape[1:])
        np.testing.assert_array_equal(sets.train.labels, sprites.factors_of(sprites.indices("train")[:200])[:, 0])
        return Sets("dsprites", sets.train, data.Dataset(*(of[:300] for of in sets.test)), None)

    monkeypatch.setattr(experiment, "load", few)
    options = {"dataset": "dsprites", "out": str(tmp_path / "run"), "limit": 200, "steps": 1, "batch_size": 24}
    results = experiment.main(Config.smoke(**options, num_eval=60, draws=1))
    finished(tmp_path / "run", results, ("codes.png", "traversals.png", "training.png"))
    for name in ("mig", "factor_vae", "sap", "dci_disentanglement"):
        assert 0 <= results["rows"]["default"][name]["mean"] <= 1
    with np.load(tmp_path / "run" / "checkpoints" / "seed-0" / "default" / "samples.npz") as file:
        assert file["continuous 4"].shape == (3, 9, 64, 64, 1)
