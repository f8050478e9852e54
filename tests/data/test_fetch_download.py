"""Downloads, from a server on this machine that breaks off, forgets ranges, and changes its files."""

import hashlib

import numpy as np
import pytest

from otgen.data.fetch.download import download
from tests.support.server import serve

BODY = np.random.default_rng(0).bytes(1_000_000)
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def site():
    with serve({"/file": BODY}) as site:
        yield site


def get(site, path, sha256=SHA, names=("file",), **rest):
    return download([f"{site.url}/{name}" for name in names], path, sha256, wait=0.0, **rest)


def left(path):
    return sorted(it.name for it in path.parent.iterdir())


def test_transfers_that_break_off_go_on_where_they_were(site, tmp_path):
    site.breaks, seen = [300_000, 1], []
    path = get(site, tmp_path / "below" / "it", report=seen.append)
    assert path.read_bytes() == BODY
    assert site.asked == [("/file", None), ("/file", "bytes=300000-"), ("/file", "bytes=300001-")]
    assert seen == sorted(seen)
    assert seen[-1] == len(BODY)
    assert left(path) == ["it"]


def test_another_call_resumes_what_was_kept(site, tmp_path):
    site.breaks = [100_000] + [0] * 4
    path = tmp_path / "it"
    with pytest.raises(ConnectionError, match=r"100,000 of 1,000,000 bytes.*the same command again resumes it.*--from"):
        get(site, path)
    assert left(path) == ["it.part"]
    site.asked.clear()
    assert get(site, path).read_bytes() == BODY
    assert site.asked == [("/file", "bytes=100000-")]


def test_a_part_that_is_whole_is_only_checked(site, tmp_path):
    (tmp_path / "it.part").write_bytes(BODY)
    assert get(site, tmp_path / "it").read_bytes() == BODY
    assert site.asked == [("/file", f"bytes={len(BODY)}-")]


def test_a_server_without_ranges_sends_all_of_it_again(site, tmp_path):
    site.breaks, site.ranges = [300_000], False
    assert get(site, tmp_path / "it").read_bytes() == BODY


@pytest.mark.parametrize("begun", [b"of another file", bytes(1_000_001)])
def test_what_was_begun_with_another_file_is_begun_anew(site, tmp_path, begun):
    (tmp_path / "it.part").write_bytes(begun)
    assert get(site, tmp_path / "it").read_bytes() == BODY
    assert len(site.asked) == 2


def test_a_file_of_another_checksum_is_not_kept(site, tmp_path):
    path = tmp_path / "it"
    with pytest.raises(ValueError, match=rf"SHA-256 {SHA[:12]}\.\.\., expected 000000000000"):
        get(site, path, "0" * 64)
    assert left(path) == []
    assert len(site.asked) == 1


def test_addresses_are_tried_in_turn(site, tmp_path):
    site.files["/wrong"] = b"wrong"
    assert get(site, tmp_path / "it", names=("none", "wrong", "file")).read_bytes() == BODY
    assert [path for path, _ in site.asked] == ["/none", "/wrong", "/file"]
    with pytest.raises(ConnectionError, match="none: 404 Not Found"):
        get(site, tmp_path / "other", names=("none",))
    with pytest.raises(ConnectionError, match="refused"):
        download(["http://127.0.0.1:9/file"], tmp_path / "other", wait=0.0)
