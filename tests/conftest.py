"""Shared set-up: compiled programs are kept, shapes of annotated functions are checked, data come from OTGEN_DATA.

Most of a run is XLA compiling. What was compiled once, in whichever process, is read from `.jax_cache` from then on: by
the other worker, by the processes that tests start, which inherit these variables, and by the next run. An environment
that names a folder of its own keeps it.
"""

import gc
import os
import shutil
import signal
from collections import defaultdict
from pathlib import Path

import jaxtyping
import pytest

CACHE, LIMIT = Path(__file__).parents[1] / ".jax_cache", 2**30
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))  # before anything imports jax
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

jaxtyping.install_import_hook(
    ["otgen.ot", "otgen.eval", "otgen.nn", "otgen.data.toy", "otgen.theory"], "beartype.beartype"
)


def pytest_addoption(parser):
    parser.addoption("--product-bits", type=int, help="round factors of default products: 10 as TF32, 7 as bfloat16")


@pytest.fixture(autouse=True, scope="session")
def product_bits(request):
    """Products are rounded as on an accelerator, if that is asked; those at the highest precision are not."""
    if (bits := request.config.getoption("--product-bits")) is not None:
        from tests.support.rounding import round_products

        round_products(bits)
    return bits


def pytest_configure(config):
    """Start afresh when the folder of compiled programs has grown large: those of other versions stay there unread."""
    if "PYTEST_XDIST_WORKER" in os.environ or not CACHE.is_dir():
        return
    if sum(path.stat().st_size for path in CACHE.iterdir()) > LIMIT:
        shutil.rmtree(CACHE)


def pytest_collection_finish(session):
    """Look for cycles of garbage seldom: tracing makes many objects and few cycles, and a tenth of it went there."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


def pytest_terminal_summary(terminalreporter, config):
    """Below the slowest tests, the slowest files: a test pays for what the later ones of its file find compiled."""
    if not config.option.durations:
        return
    seconds = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid.partition("::")[0]] += report.duration
    slowest = sorted(seconds.items(), key=lambda pair: -pair[1])[: config.option.durations]
    terminalreporter.write_sep("=", f"slowest {len(slowest)} files")
    for name, duration in slowest:
        terminalreporter.write_line(f"{duration:.1f}s {name}")


@pytest.fixture(scope="session")
def data_dir():
    """Folder of the real data; tests that need it are skipped where it is not set."""
    folder = os.environ.get("OTGEN_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("set OTGEN_DATA to the folder that holds mnist/ and lenet_mnist/ to run this test")
    return Path(folder)


@pytest.fixture(scope="session")
def digits():
    from otgen import data

    return data.load("digits")


@pytest.fixture(scope="session")
def small():
    """Sizes of the networks of digits in all tests that train them: their programs are compiled once."""
    return {"latent_dim": 6, "hidden": (64,), "epochs": 40, "batch_size": 128}


@pytest.fixture(scope="session")
def ae_ot_of_digits(digits, small):
    """A small AE-OT of the digits with its labels."""
    import jax

    from otgen.models import ae_ot

    return ae_ot.fit(jax.random.key(0), digits.images, digits.labels, **small)


@pytest.fixture(scope="session")
def half():
    """Half precision can be computed with: XLA's compiler for CPUs cannot convert float16 without the set F16C."""
    import jax
    import jax.numpy as jnp

    try:
        jax.jit(lambda x: x.astype(jnp.float32) + 1)(jnp.zeros(64, jnp.float16)).astype(jnp.float16).block_until_ready()
    except jax.errors.JaxRuntimeError:
        pytest.skip("XLA cannot compile float16 for this instruction set")


@pytest.fixture
def key():
    import jax

    return jax.random.key(0)


@pytest.fixture
def x64():
    import jax

    with jax.enable_x64(True):
        yield


@pytest.fixture
def optimised():
    """What a test compiles is compiled with care: for long runs, which cost more than compiling does."""
    import jax

    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") == "1")


@pytest.fixture(autouse=True, scope="module")
def few_memory_maps():
    """Let compiled programs go: each holds memory maps, and Linux gives a process 65,530; XLA crashes without."""
    yield
    import jax

    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 32_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def heard():
    """Ctrl-C is heard: a shell that starts the tests in the background has Python ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
