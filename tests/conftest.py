"""Shared set-up: shapes of annotated functions are checked in every test; data come from OTGEN_DATA."""

import os
import signal
from pathlib import Path

import jaxtyping
import pytest

jaxtyping.install_import_hook(["otgen.ot", "otgen.eval", "otgen.nn", "otgen.data.toy"], "beartype.beartype")


@pytest.fixture(scope="session")
def data_dir():
    """Folder of the real data; tests that need it are skipped where it is not set."""
    folder = os.environ.get("OTGEN_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("set OTGEN_DATA to the folder that holds mnist/ and lenet_mnist/ to run this test")
    return Path(folder)


@pytest.fixture
def key():
    import jax

    return jax.random.key(0)


@pytest.fixture
def x64():
    import jax

    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def few_memory_maps():
    """Let compiled programs go: each holds memory maps, and Linux gives a process 65,530; XLA crashes without."""
    yield
    import gc

    import jax

    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def heard():
    """Ctrl-C is heard: a shell that starts the tests in the background has Python ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
