"""docs/migration.md: every pair of code blocks is run, and what the two libraries return compared."""

import re
from pathlib import Path

import numpy as np
import pytest

PAGE = Path(__file__).parent.parent / "docs" / "migration.md"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
SLOW = {  # to compile, most of them
    "A relative epsilon",
    "The default epsilon",
    "Gradient in the points",
    "Potentials",
    "Quadratic regularisation",
    "Plan times vectors",
    "Sinkhorn divergence",
    "Other costs",
    "Barycenter of Gaussians",
    "Distance between Gaussian mixtures",
    "Transport on the line",
    "Sliced transport",
    "Semi-discrete transport",
}
NEWS = pytest.mark.filterwarnings("ignore")  # what the other libraries warn about on import is theirs


def sections():
    """Title, tolerance and the two blocks of every section that has them."""
    for section in PAGE.read_text().split("\n### ")[1:]:
        section = section.split("\n## ")[0]
        title, tolerance = section.split("\n", 1)[0].rsplit(", to ", 1)
        theirs, ours = BLOCK.findall(section)
        marks = [NEWS] + [pytest.mark.slow] * (title in SLOW)
        yield pytest.param(theirs, ours, float(tolerance), id=title, marks=marks)


def result_of(block):
    names = {}
    exec(BLOCK.search(PAGE.read_text()).group(1), names)  # the data that all blocks start from
    exec(block, names)
    return np.asarray(names["result"], np.float64)


@pytest.mark.parametrize(("theirs", "ours", "tolerance"), sections())
def test_both_sides_of_the_page_agree(theirs, ours, tolerance):
    assert theirs.startswith(("# OTT-JAX", "# POT", "# GeomLoss"))
    assert ours.startswith("# otgen")
    expected, result = result_of(theirs), result_of(ours)
    assert expected.shape == result.shape
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


def test_every_library_is_compared():
    page = PAGE.read_text()
    assert page.count("\n# OTT-JAX") >= 10
    assert page.count("\n# POT") >= 5
    assert "\n# GeomLoss" in page


def test_every_name_of_otgen_on_the_page_exists():
    import otgen as og

    for name in set(re.findall(r"\bog\.([a-z_A-Z0-9.]+[a-zA-Z0-9])", PAGE.read_text())):
        found = og
        for part in name.split("."):
            found = getattr(found, part)
        assert found is not og


@pytest.mark.slow
def test_the_flow_from_eight_gaussians_to_two_moons_arrives_in_one_step():
    """Nearer to fresh moons than a tenth of what the source is away from them, in squared distances of transport."""
    import otgen as og

    section = PAGE.read_text().partition("## From torchcfm")[2]
    names = {}
    exec(BLOCK.search(PAGE.read_text()).group(1), names)
    exec(BLOCK.search(section).group(1), names)
    fresh = og.data.toy.two_moons(names["jax"].random.key(9), 1000)
    start, end = (float(og.exact.assignment(og.PairwiseCost(it, fresh)).value) for it in (names["x"], names["moved"]))
    assert end < 0.1 * start
