"""What cannot be read, or not safely: the error names the file and what to do, and nothing is left behind."""

import io
import struct
import tarfile
import zipfile
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from otgen import data
from otgen.data import archives
from tests.data.test_own_images import fill, load, png, tar, zipped

GOOD = {f"{i}.png": png(np.full((4, 4, 3), 20 * i, np.uint8)) for i in range(8)}


@pytest.fixture(autouse=True)
def nothing_left(tmp_path, monkeypatch):
    """After each test there are only whole sets in the cache, and where the images are nothing is new."""
    monkeypatch.setenv("OTGEN_CACHE", str(tmp_path / "cache"))
    yield
    for folder in (tmp_path / "cache").glob("*"):
        assert (folder / "about.json").is_file(), f"{folder} is half-written"
    outside = {it for it in tmp_path.rglob("*.npy") if not it.is_relative_to(tmp_path / "cache")}
    assert not {it.name for it in outside} - {"given.npy"}


def refused(given, message, error=ValueError, **options):
    with pytest.raises(error, match=message):
        load(given, **options)


def test_nothing_there_nothing_in_it_or_one_image(tmp_path):
    refused(tmp_path / "none.zip", r"none\.zip: nothing is there; give a folder", FileNotFoundError)
    fill(tmp_path / "texts", {"a.txt": b"", ".hidden.png": GOOD["0.png"]})
    refused(tmp_path / "texts", r"texts holds no images \(\.jpg, .*\): is it the right place\?")
    refused(tar(tmp_path / "a.tar", {"a.txt": b""}), r"a\.tar holds no images: is it the right place\?")
    refused(fill(tmp_path / "one", {"a.png": GOOD["0.png"]}), "one holds one image: give at least 2")
    refused(fill(tmp_path, {"a.doc": b""}) / "a.doc", r"a\.doc is no set of images: give a folder")
    refused([], "there are no images|holds no images")


def test_names_are_no_paths():
    refused("mnits", "name = 'mnits': choose one of 'digits', .*or give the path of a folder")
    refused(3, "name = 3: choose one of")
    with pytest.raises(ValueError, match="size: digits is prepared in one way"):
        data.load("digits", size=4)


def test_options_that_cannot_be_meant(tmp_path):
    folder = fill(tmp_path / "set", GOOD)
    refused(folder, "no option 'sise': choose among size, crop", TypeError, sise=4)
    refused(folder, "size = 0: give a whole number", size=0)
    refused(folder, "crop = 'center': choose one of 'centre', 'random'", crop="center")
    refused(folder, "background = 'whit': give a name or #rrggbb", background="whit")
    refused(folder, "channels = 4: choose one of None, 1, 3", channels=4)
    refused(folder, "on_corrupt = 'ignore'", on_corrupt="ignore")
    refused(folder, "test_share = 1.0", test_share=1.0)
    with pytest.raises(ValueError, match="split = 'tset': choose one of 'train', 'test'"):
        load(folder, "tset")
    with pytest.raises(ValueError, match="no set of one's own images"):
        data.about(data.load("digits"))


def test_different_sides_without_a_size(tmp_path):
    folder = fill(tmp_path / "set", {**GOOD, "9.png": png(np.zeros((6, 5, 3), np.uint8))})
    refused(folder, r"0\.png is 4 x 4 and 9\.png is 6 x 5: give size=32 \(--size 32\)")
    assert load(folder, size=3).images.shape[1:] == (3, 3, 3)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(side):
    """A PNG of few bytes that announces side x side pixels."""
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


CORRUPT = {
    "empty": (b"", "cannot identify image file"),
    "text": (b"<html>not found</html>", "cannot identify image file"),
    "truncated": (png(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))[:-700], "truncated|not enough"),
    "bomb": (bomb(60_000), "decompression bomb.*MAX_IMAGE_PIXELS"),
    "smaller bomb": (bomb(11_000), "decompression bomb.*11000 x 11000 pixels"),
}


@pytest.mark.parametrize("fault", CORRUPT)
@pytest.mark.parametrize("pack", ["folder", "tar", "zip"])
def test_corrupt_images_are_named_or_skipped(tmp_path, fault, pack):
    content, told = CORRUPT[fault]
    files = {**GOOD, "bad.png": content}
    make = {"folder": lambda: fill(tmp_path / "set", files), "tar": lambda: tar(tmp_path / "a.tar", files)}
    given = make.get(pack, lambda: zipped(tmp_path / "a.zip", files))()
    refused(
        given,
        rf"{given.name}: bad\.png is not a readable image \((?s:.*)({told}).*\): remove .*--on-corrupt skip",
        size=4,
    )
    with pytest.warns(UserWarning, match=r"1 images are left out, see .*about.json: bad\.png is not a readable image"):
        found = load(given, on_corrupt="skip", size=4, test_share=0)
    assert sorted(found.images[:, 0, 0, 0].tolist()) == [20 * i for i in range(8)]
    assert list(data.about(found)["skipped"]) == ["bad.png"]


def test_where_nothing_can_be_read_skipping_does_not_help(tmp_path):
    folder = fill(tmp_path / "set", {"a.png": b"", "b.png": b"", "c.png": GOOD["1.png"]})
    refused(folder, r"of 3 images 1 can be read \(a\.png is not a readable image", on_corrupt="skip")


def link_to(path, name, kind):
    with tarfile.open(path, "w") as archive:
        for good, content in GOOD.items():
            info = tarfile.TarInfo(good)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    return path


@pytest.mark.parametrize("name", ["../x.png", "/x.png", "a/../../x.png", "..\\x.png"])
def test_members_that_leave_the_folder(tmp_path, name):
    message = r"a\.(tar|zip) has a member .*x\.png', which leaves its folder: pack it again"
    refused(tar(tmp_path / "a.tar", {**GOOD, name: GOOD["0.png"]}), message)
    refused(zipped(tmp_path / "a.zip", {**GOOD, name: GOOD["0.png"]}), message)


def test_links_in_archives(tmp_path):
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        refused(link_to(tmp_path / "a.tar", "x.png", kind), r"a\.tar has a member 'x\.png', which is a link: pack the")
    path = zipped(tmp_path / "a.zip", GOOD)
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("x.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    refused(path, r"a\.zip has a member 'x\.png', which is a link")


def test_members_larger_than_an_image_or_than_they_say(tmp_path, monkeypatch):
    content = png(Image.new("RGB", (500, 500)), compress_level=0)
    path = zipped(tmp_path / "a.zip", {**GOOD, "big.png": content})
    raw = path.read_bytes()
    said = struct.pack("<I", len(content))
    path.write_bytes(raw.replace(said, struct.pack("<I", 1000)))  # it expands to more than it states
    refused(path, r"big\.png is not a readable image \(Bad CRC-32", size=4)
    path.write_bytes(raw)
    monkeypatch.setattr(archives, "MOST_BYTES", 10_000)
    refused(path, r"big\.png is not a readable image \(7\d\d,\d\d\d bytes, more than the 10,000 of any", size=4)


def test_archives_that_are_damaged_or_locked(tmp_path):
    whole = tar(tmp_path / "a.gz", GOOD).rename(tmp_path / "a.tgz").read_bytes()
    for name, content in {
        "a.tgz": whole[:-200],
        "b.tar": b"no archive",
        "c.zip": b"PK no archive",
    }.items():
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, rf"{name} cannot be read \(.*\): it is truncated or damaged; fetch it again")
    path = zipped(tmp_path / "e.zip", GOOD)
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    refused(path, r"e\.zip is encrypted: unpack it")


def test_arrays_that_are_no_images(tmp_path):
    good = np.zeros((5, 4, 4, 3), np.uint8)

    def saved(**arrays):
        np.savez(tmp_path / "set.npz", **arrays)
        return tmp_path / "set.npz"

    refused(saved(a=good, b=good), r"set\.npz holds the arrays a, b: call the images 'images'")
    refused(saved(images=good.reshape(5, -1)), r"array images has shape \(5, 48\): give images \[n, height, width\]")
    refused(saved(images=np.moveaxis(good, -1, 1)[:, :, :, :].repeat(2, -1)), "channels first")
    refused(saved(images=good, labels=np.zeros(4, int)), r"has 5 images and there are 4 labels: give one for each")
    refused(
        saved(images=good, labels=np.zeros((5, 3))), r"array labels has shape \(5, 3\) and type float64: give one class"
    )
    refused(
        saved(images=np.full((5, 4, 4), 255.0)), r"0 is not a readable image \(float64 from 255 to 255, where floats"
    )
    refused(saved(images=np.asfortranarray(good)), "lies column by column: save np.ascontiguousarray")
    np.save(tmp_path / "given.npy", np.array([good, 1], object), allow_pickle=True)
    refused(tmp_path / "given.npy", r"given\.npy is of type object: save the images as uint8")
    np.save(tmp_path / "given.npy", good)
    (tmp_path / "given.npy").write_bytes((tmp_path / "given.npy").read_bytes()[:-5])
    refused(tmp_path / "given.npy", r"given\.npy is truncated: 5 images of shape \(4, 4, 3\) are announced")
    (tmp_path / "given.npy").write_bytes(b"no array")
    refused(tmp_path / "given.npy", r"given\.npy is no array of NumPy")
    (tmp_path / "b.npz").write_bytes(saved(images=good).read_bytes()[:-50])
    refused(tmp_path / "b.npz", r"b\.npz cannot be read \(.*\): it is truncated or damaged")


def test_lists_and_objects_that_are_none(tmp_path):
    (tmp_path / "list.txt").write_text("a.png\nb.png\n")
    refused(
        tmp_path / "list.txt",
        r"list\.txt: .*a\.png is missing, or is no file \(2 of 2 are\): correct",
        FileNotFoundError,
    )
    image = np.zeros((4, 4), np.uint8)
    refused(
        [{"picture": image}] * 3, r"item 0 of the list of 3 has the columns picture: call that of the images 'image'"
    )
    refused([(image, [1, 0])] * 3, r"item 0 of the list of 3 has the label \[1, 0\]: give one class")
    refused([(image, 1), (image, "a"), image], "some images have another kind of label than others")
    refused({"images": [image], "labels": [0]}, r"a dictionary with .*: give \{'train': images, 'test': images\}")
    refused([np.zeros(3)] * 3, r"0 is not a readable image \(an array of shape \(3,\), where an image is")


def test_a_full_disk_is_told_before(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100))
    refused(
        fill(tmp_path / "set", GOOD), r"8 images of shape \(4, 4, 3\) take 0\.0 GiB, .* free: give another cache_dir"
    )
    monkeypatch.undo()


def test_what_is_stopped_half_way_leaves_nothing(tmp_path, monkeypatch):
    folder = fill(tmp_path / "set", GOOD)
    from otgen.data import own

    decode, count = own.decode, []

    def stopped(*arguments):
        count.append(1)
        if len(count) == 5:
            raise KeyboardInterrupt
        return decode(*arguments)

    monkeypatch.setattr(own, "decode", stopped)
    with pytest.raises(KeyboardInterrupt):
        load(folder, cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    monkeypatch.setattr(own, "decode", decode)
    assert len(load(folder, cache_dir=tmp_path / "cache", test_share=0).images) == 8
