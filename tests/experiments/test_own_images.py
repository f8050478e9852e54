"""`--dataset PATH`: what suits the images, what a run is known by, and that it ends in its figures."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from experiments import (
    ae_ot,
    ae_ot_gan,
    compare,
    flow,
    informative_gan,
    latent_ops,
    latent_ot,
    sinkhorn_generator,
)
from experiments.lab import ae_ot_table, command, own_images
from otgen import data
from otgen.models.codec import kept


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OTGEN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path, digits):
    """200 handwritten digits in class folders."""
    for i in range(200):
        place = tmp_path / "my.digits" / str(digits.labels[i])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.images[i, ..., 0]).save(place / f"{i}.png")
    return tmp_path / "my.digits"


@pytest.fixture
def opened(monkeypatch):
    """A run goes no further than to its images, and returns its options."""
    monkeypatch.setattr(ae_ot, "run_images", lambda config, *rest: {"config": dataclasses.asdict(config)})


@pytest.mark.usefixtures("opened")
def test_a_run_is_known_by_its_pixels_not_by_their_path(tmp_path, folder):
    config = ae_ot.Config.smoke(dataset=str(folder), out=str(tmp_path / "run"))
    chosen = ae_ot.main(config)["config"]
    assert (chosen["network"], chosen["latent_dim"], chosen["epochs"], chosen["batch_size"]) == ("mlp", 8, 3, 128)
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    known = data.about(data.load(folder))["fingerprint"]
    assert stored["dataset"] == f"my.digits {known}"
    assert not {"size", "crop", "flips"} & set(stored)

    again = dataclasses.replace(config, resume=True)
    ae_ot.main(again)
    folder.rename(tmp_path / "elsewhere")
    (tmp_path / "parent").mkdir()
    (tmp_path / "elsewhere").rename(tmp_path / "parent" / "my.digits")
    moved = dataclasses.replace(again, dataset=str(tmp_path / "parent" / "my.digits"))
    ae_ot.main(moved)
    for change in ({"size": 6}, {"flips": True}, {"test_share": 0.2}):
        with pytest.raises(ValueError, match=rf"dataset \(stored 'my.digits {known}', now 'my.digits \w+'\)"):
            ae_ot.main(dataclasses.replace(moved, **change))
    next((tmp_path / "parent").rglob("1.png")).unlink()
    with pytest.raises(ValueError, match="dataset"):
        ae_ot.main(moved)


def test_the_options_of_other_runs_are_as_before(tmp_path):
    assert not {"size", "crop", "background", "flips", "on_corrupt", "test_share"} & set(ae_ot.Config().identity())
    assert ae_ot.Config().identity()["dataset"] == "digits"
    with pytest.raises(ValueError, match="size: digits is prepared in one way"):
        own_images.load(ae_ot.Config(size=16), "train")


@pytest.mark.usefixtures("opened")
def test_what_cannot_be_meant_is_told_before_anything_is_written(tmp_path, folder):
    def refused(message, error=ValueError, **options):
        with pytest.raises(error, match=message):
            ae_ot.main(ae_ot.Config.smoke(**{"dataset": str(folder), "out": str(tmp_path / "run"), **options}))
        assert not (tmp_path / "run").exists()

    refused("dataset = 'photos' is unknown: choose one of digits, .*, or give the path of a folder", dataset="photos")
    refused(r"photos: nothing is there", FileNotFoundError, dataset="./photos")
    refused(r"my.digits has 1 images for test: at least 8 are needed; .* or another --test-share", test_share=0.001)
    refused("background = 'nocolour'", background="nocolour")
    with pytest.raises(ValueError, match=r"'.*my.digits' is unknown: choose one of ring, "):
        informative_gan.main(informative_gan.Config.smoke(dataset=str(folder), out=str(tmp_path / "run")))


TAKEN = [ae_ot, ae_ot_gan, compare, flow, latent_ops, latent_ot, sinkhorn_generator]


@pytest.mark.parametrize("module", TAKEN, ids=lambda module: module.__name__)
def test_other_experiments_take_them_too(tmp_path, folder, monkeypatch, module):
    class Opened(Exception):
        pass

    open_folder = command.open_folder

    def stop(config):
        open_folder(config)
        raise Opened

    monkeypatch.setattr(command, "open_folder", stop)
    config = module.Config.smoke(dataset=str(folder), out=str(tmp_path / "run"))
    with pytest.raises(Opened):
        module.main(config)
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["dataset"] == f"my.digits {data.about(data.load(folder))['fingerprint']}"
    assert (stored.get("network") or "mlp", stored.get("latent_dim") or 8) == ("mlp", 8)
    with pytest.raises(ValueError, match="dataset"):
        module.main(dataclasses.replace(config, size=4, resume=True))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/photos", "photos"),
        ("a/photos/", "photos"),
        ("x.v1.tar.gz", "x.v1"),
        ("./digits", "digits"),
        ("mnist", "mnist"),
    ],
)
def test_the_name_of_a_run(path, name):
    assert own_images.label(path) == name
    assert ae_ot.Config(dataset=path).folder().name == f"{name}-seed-0"


def test_a_width_is_chosen_with_its_network(tmp_path):
    data_set = {"images": np.random.default_rng(0).integers(0, 256, (200, 16, 16, 3), np.uint8)}
    np.savez(tmp_path / "set.npz", **data_set)
    config = compare.Config(dataset=str(tmp_path / "set.npz"), progress=False)
    assert (own_images.suited(config).network, own_images.suited(config).width) == ("residual", 16)
    asked = own_images.suited(dataclasses.replace(config, network="conv"))
    assert (asked.network, asked.width) == ("conv", None)


def test_networks_suit_the_images():
    assert own_images.network((32, 32, 3)) == {"network": "residual", "width": 16, "latent_dim": 64}
    assert own_images.network((28, 28, 1)) == {"network": "residual", "width": 16, "latent_dim": 16}
    assert own_images.network((33, 32, 3)) == {"network": "mlp", "latent_dim": 64}
    assert own_images.network((128, 128, 3)) == {"network": "residual", "width": 16, "latent_dim": 100}


def test_what_cannot_be_meant_of_codecs_and_features(tmp_path):
    def refused(message, error=ValueError, **options):
        with pytest.raises(error, match=message):
            ae_ot.main(ae_ot.Config.smoke(**{"out": str(tmp_path / "run"), **options}))
        assert not (tmp_path / "run").exists()

    refused("features = 'vgg'", features="vgg")
    refused("two_moons is a set of points: features are of images", dataset="two_moons", features="pixels")
    refused("two_moons is a set of points: a codec is of images", dataset="two_moons", codec="taef2", epochs=None)
    refused("codec = 'vae': the one that is known is taef2", codec="vae")
    refused("components are of the codes of a codec", components=4)
    refused("encoder.npz", FileNotFoundError, codec="taef2", epochs=None, data_dir=str(tmp_path))


def test_codes_of_a_codec_are_computed_once_for_all_runs(tmp_path, data_dir, monkeypatch):
    def run(seed):
        options = {"codec": "taef2", "epochs": None, "components": 6, "limit": 60, "mixture_components": 2, "tol": 0.5}
        options |= {"data_dir": str(data_dir), "seed": seed, "out": str(tmp_path / f"run-{seed}"), "num_eval": 30}
        return ae_ot.main(ae_ot.Config.smoke(**options, features="pixels", feature_images=24))

    first = run(0)
    assert first["images_per_draw"] == 24
    monkeypatch.setattr(kept, "_fill", lambda *rest: pytest.fail("codes were computed again"))
    again = run(1)
    assert again["rows"]["reconstructed test images"] == pytest.approx(first["rows"]["reconstructed test images"])


@pytest.mark.slow
def test_one_command_makes_the_sheets_and_the_table(tmp_path, folder, capsys):
    results = ae_ot.main(ae_ot.Config.smoke(dataset=str(folder), out=str(tmp_path / "run"), test_share=0.1))
    for name in ("samples", "filter", "reconstructions", "nearest", "classes"):
        assert (tmp_path / "run" / f"{name}.png").stat().st_size > 5_000
    assert results["features"] == "pixels"
    assert results["rows"]["real training images"]["lmem"] < 1e-3
    assert "AE-OT, local" in ae_ot_table.in_words(results)


@pytest.mark.slow
def test_one_class_and_large_images(tmp_path):
    """No labels and averaged pixels: the table has fewer columns, and all the same ends."""
    x = np.random.default_rng(0).integers(0, 256, (80, 3, 3, 3), np.uint8).repeat(7, 1).repeat(7, 2)
    np.save(tmp_path / "set.npy", x)
    config = ae_ot.Config.smoke(dataset=str(tmp_path / "set.npy"), out=str(tmp_path / "run"), latent_dim=4)
    results = ae_ot.main(config)
    assert results["features"] == "pixels averaged to 16 x 16"
    assert "class_tv" not in results["rows"]["AE-OT, local"]
    assert not (tmp_path / "run" / "classes.png").exists()
    assert "AE-OT, local" in ae_ot_table.in_words(results)
