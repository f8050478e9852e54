import subprocess
import sys

import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.quiver import Quiver

from otgen import plot
from otgen.ot import semidiscrete
from otgen.ot.semidiscrete import extension

X = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
Y = np.array([[0.0, 1.0], [2.0, 1.0]])
PLAN = np.array([[0.4, 0.0], [0.1, 0.02], [0.0, 0.2]])


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def lines_of(ax):
    (lines,) = (it for it in ax.collections if isinstance(it, LineCollection))
    return np.array(lines.get_segments()), lines.get_colors()


def rendered(ax):
    ax.figure.canvas.draw()
    return np.asarray(ax.figure.canvas.buffer_rgba())


# --- images


def test_images_lie_in_rows_and_the_page_shows_between_them():
    images = np.stack([np.full((4, 6, 1), value) for value in (0.1, 0.2, 0.3, 0.4, 0.5)])
    ax = plot.image_grid(images, columns=3, title="five")
    sheet = ax.images[0].get_array()
    assert sheet.shape == (2 * 4 + 1, 3 * 6 + 2, 4)
    assert np.allclose(sheet[0, 7, :3], 0.2)
    assert np.allclose(sheet[5, 0, :3], 0.4)
    assert not sheet[4, :, 3].any()
    assert not sheet[:, 6, 3].any()
    assert not sheet[5:, 14:, 3].any()  # there is no sixth image
    assert sheet[:4, :6, 3].all()
    assert ax.get_title() == "five"


def test_images_of_bytes_and_colours():
    sheet = plot.image_grid(np.full((1, 2, 2, 3), (255, 0, 51), np.uint8)).images[0].get_array()
    assert np.allclose(sheet, (1, 0, 0.2, 1))


def test_a_traversal_has_its_labels_in_the_middle_of_the_images():
    images = np.arange(6).reshape(2, 3, 1, 1, 1) / 6 * np.ones((2, 3, 5, 7, 1))
    ax = plot.traversal(images, rows=["first", "second"], columns=np.array([-1.0, 0.0, 2 / 3]))
    assert [it.get_text() for it in ax.get_xticklabels()] == ["-1", "0", "0.667"]
    assert [it.get_text() for it in ax.get_yticklabels()] == ["first", "second"]
    sheet = ax.images[0].get_array()
    for i, row in enumerate(ax.get_yticks()):
        for j, column in enumerate(ax.get_xticks()):
            assert np.allclose(sheet[int(row), int(column)], [*[images[i, j, 0, 0, 0]] * 3, 1])
    assert not plot.traversal(images).get_xticklabels()


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: plot.image_grid(np.zeros((3, 4, 4))), r"\[n, h, w, c\]"),
        (lambda: plot.image_grid(np.zeros((3, 4, 4, 2))), "1 or 3 channels"),
        (lambda: plot.image_grid(np.zeros((3, 4, 4, 1)), 0), "at least 1"),
        (lambda: plot.traversal(np.zeros((3, 4, 4, 1))), r"\[rows, columns, h, w, c\]"),
        (
            lambda: plot.traversal(np.zeros((2, 3, 4, 4, 1)), rows=["one"]),
            "for 2 rows of images: give a label",
        ),
    ],
)
def test_images_of_other_shapes_are_refused(draw, words):
    with pytest.raises(ValueError, match=words):
        draw()


# --- the plane


def test_points_take_one_colour_or_one_each():
    first = plot.points(X, label="cloud")
    assert np.allclose(first.collections[0].get_facecolor()[:, :3], to_rgb(plot.BLUE))
    assert [it.get_text() for it in first.get_legend().get_texts()] == ["cloud"]
    hue = plot.colours(X)
    assert np.allclose(plot.points(X, color=hue).collections[0].get_facecolor()[:, :3], hue)
    named = plot.points(X, color=["red", "lime", "blue"]).collections[0].get_facecolor()[:, :3]
    assert np.allclose(named, np.eye(3))
    values = plot.points(X, color=np.array([0.0, 1.0, 0.0])).collections[0]
    values.update_scalarmappable()
    shown = values.get_facecolor()
    assert np.allclose(shown[0], shown[2])
    assert not np.allclose(shown[0], shown[1])
    assert plot.points(X, size=np.array([1.0, 2.0, 3.0]), label="x").collections[0].get_sizes().tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="5 numbers for 3 points"):
        plot.points(X, color=np.arange(5.0))
    with pytest.raises(ValueError, match=r"shape \[n, 2\]"):
        plot.points(np.zeros((3, 3)))


def test_a_plan_is_drawn_by_lines_as_opaque_as_their_mass():
    segments, colours = lines_of(plot.plan(X, Y, PLAN, threshold=0.04))
    assert len(segments) == 4
    drawn = {(*start, *end): colour[3] for (start, end), colour in zip(segments.tolist(), colours, strict=True)}
    assert drawn[0, 0, 0, 1] == pytest.approx(1)
    assert drawn[2, 0, 2, 1] == pytest.approx(0.5)
    assert drawn[1, 0, 0, 1] == pytest.approx(0.25)
    assert drawn[1, 0, 2, 1] == pytest.approx(0.05)
    assert (np.diff(colours[:, 3]) >= 0).all()  # the strongest are drawn last


def test_weak_lines_of_a_plan_are_left_out_and_both_clouds_drawn():
    ax = plot.plan(X, Y, PLAN, threshold=0.3)
    assert len(lines_of(ax)[0]) == 2
    clouds = [it.get_offsets() for it in ax.collections if not isinstance(it, LineCollection)]
    assert [len(it) for it in clouds] == [3, 2]
    assert len(lines_of(plot.plan(X, Y, PLAN, threshold=0))[0]) == 4  # never a line without mass


def test_a_plan_of_pairs_counts_them():
    segments, colours = lines_of(plot.plan(X, Y, (np.array([0, 2, 2]), np.array([1, 0, 0]))))
    assert segments.tolist() == [[[0, 0], [2, 1]], [[2, 0], [0, 1]]]
    assert np.allclose(colours[:, 3], [0.5, 1])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"plan": PLAN.T}, r"need masses \[3, 2\]"),
        ({"plan": -PLAN}, "negative"),
        ({"plan": 0 * PLAN}, "all zero"),
        ({"plan": PLAN * np.nan}, "not finite"),
        ({"plan": ([0, 3], [0, 1])}, "i in 0..2 and j in 0..1"),
        ({"plan": ([0, -1], [0, 1])}, "not there"),
        ({"plan": ([0, 1], [0])}, "two arrays"),
        ({"plan": ([0.0], [0.0])}, "integers"),
        ({"plan": PLAN, "threshold": 2}, r"give a number from 0 to 1"),
        ({"plan": PLAN, "x": X[:, :1]}, "x has shape"),
    ],
)
def test_plans_that_do_not_fit_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        plot.plan(**{"x": X, "y": Y, **given})


def test_cells_show_who_wins_and_the_singular_faces():
    y = jnp.array([[-1.0, 0.0], [-1.02, 0.01], [1.0, 0.0]])
    state = semidiscrete.from_heights(jnp.array([0.0, 0.0, -1 / 3]))  # the twins meet the other at x = 1/6
    ax = plot.cells(state, y, resolution=100)
    picture = ax.images[0].get_array()
    where = np.array([[-0.4, 0.2], [0.4, -0.3]])
    pixel = ((where + 0.5) * 100).astype(int)
    winner = np.asarray(semidiscrete.assign(state, y, jnp.asarray(where)))
    assert np.allclose(picture[pixel[:, 1], pixel[:, 0], :3], plot.colours(y)[winner])
    faces = picture[..., 3] < 1
    assert 100 < faces.sum() < 400
    assert len(ax.images) == 1
    sharp = extension.dihedral_angle(y[0] - y.mean(0), y[2] - y.mean(0))
    marked = plot.cells(state, y, resolution=100, angle=0.5).images[1].get_array()[..., 3] > 0
    assert float(sharp) > 0.5
    assert marked[:, 60:75].any()
    assert not marked[:, :50].any()  # the face between the twins is not singular
    assert faces[:, :50].any()
    assert not plot.cells(state, y, resolution=100, angle=3.0).images[1].get_array()[..., 3].any()
    with pytest.raises(ValueError, match="points of the plane"):
        plot.cells(state, jnp.zeros((3, 3)))


def test_arrows_of_a_field_are_the_displacements():
    matrix = jnp.array([[1.5, 0.2], [0.0, 0.5]])
    ax = plot.field(lambda x: x @ matrix, limits=(-1, 1), resolution=5)
    (arrows,) = (it for it in ax.collections if isinstance(it, Quiver))
    start = np.stack([arrows.X, arrows.Y], 1)
    assert start.min() == -1
    assert len(start) == 25
    moved = start @ (np.asarray(matrix) - np.eye(2))
    assert np.allclose(np.stack([arrows.U, arrows.V], 1), moved, atol=1e-6)
    assert (arrows.scale, arrows.angles, arrows.scale_units) == (1, "xy", "xy")
    assert ax.get_xlim()[1] >= 1.5


def test_contours_of_a_potential_have_its_values():
    ax = plot.potential(lambda x: x[:, 0] + 10 * x[:, 1], limits=(0, 1), resolution=11, levels=np.arange(12.0))
    (contours,) = (it for it in ax.collections if hasattr(it, "levels"))
    assert contours.zmin == 0
    assert contours.zmax == pytest.approx(11)
    for level, path in zip(contours.levels, contours.get_paths(), strict=False):
        values = path.vertices @ (1, 10)
        assert values.min() >= level - 1e-4
        assert values.max() <= level + 1 + 1e-4
    assert len(ax.figure.axes) == 2


@pytest.mark.parametrize("draw", [plot.field, plot.potential])
def test_functions_of_other_shapes_are_refused(draw):
    with pytest.raises(ValueError, match="it must map"):
        draw(lambda x: x[:, :1])
    with pytest.raises(ValueError, match="NaN"):
        draw(lambda x: jnp.nan * (x if draw is plot.field else x[:, 0]))
    with pytest.raises(ValueError, match="limits"):
        draw(lambda x: x, limits=(1, 0))


# --- charts


def test_a_matrix_is_drawn_with_its_values():
    ax = plot.plan_matrix(np.array([[1.0, np.inf], [3.0, 4.0], [5.0, 6.0]]))
    shown = ax.images[0].get_array()
    assert shown.mask.tolist() == [[False, True], [False, False], [False, False]]
    assert ax.images[0].get_clim() == (1, 6)
    assert len(ax.figure.axes) == 2
    with pytest.raises(ValueError, match=r"\[n, m\]"):
        plot.plan_matrix(np.zeros(3))
    with pytest.raises(ValueError, match="NaN"):
        plot.plan_matrix(np.full((2, 2), np.nan))


def test_curves_differ_without_colour_and_the_legend_has_the_order_of_their_ends():
    given = {f"curve {i}": np.full(3, float(i)) for i in range(9)}
    ax = plot.curves(given, ylabel="loss")
    looks = [(line.get_color(), line.get_linestyle()) for line in ax.lines]
    assert len(set(looks)) == 9
    assert len({style for _, style in looks[:4]}) == 4
    assert [it.get_text() for it in ax.get_legend().get_texts()] == [f"curve {i}" for i in reversed(range(9))]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "loss")
    assert ax.lines[0].get_xdata().tolist() == [0, 1, 2]


def test_a_curve_with_deviations_has_a_band():
    x, y, sd = np.arange(3.0) * 10, np.array([3.0, 2.0, 1.0]), np.array([0.5, 0.5, 0.25])
    ax = plot.curves({"loss": (x, y, sd), "bound": (x, y - 1)}, log=False)
    (band,) = ax.collections
    corners = {tuple(it) for it in band.get_paths()[0].vertices.tolist()}
    assert {(0, 2.5), (0, 3.5), (20, 0.75), (20, 1.25)} <= corners
    assert ax.get_yscale() == "linear"
    assert plot.curves({"loss": y}, log=True).get_yscale() == "log"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "no curves"),
        ({"a": np.zeros((2, 2))}, "curve 'a'"),
        ({"a": (np.arange(3), np.arange(4))}, "shapes"),
        ({"a": ()}, "curve 'a'"),
        ({"a": (np.arange(3),) * 4}, "values, deviations"),
    ],
)
def test_curves_of_other_shapes_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        plot.curves(given)


def test_curves_in_decades_need_a_positive_value():
    with pytest.raises(ValueError, match="no positive value"):
        plot.curves({"a": -np.ones(3)}, log=True)


def texts_of(ax):
    cells = ax.tables[0].get_celld()
    rows, columns = (max(place[k] for place in cells) + 1 for k in (0, 1))
    return [[cells[i, k].get_text().get_text() for k in range(columns)] for i in range(rows)]


def test_a_table_writes_its_numbers_with_the_decimals_of_the_column():
    rows = {
        "ours": {"frechet": (1.234, 0.05), "n": 3, "chi2": 2e-5},
        "other": {"frechet": (12.5, 1.05), "n": 12345, "share": jnp.float32(0.5)},
    }
    assert texts_of(plot.table(rows)) == [
        ["", "frechet", "n", "chi2", "share"],
        ["ours", "1.23 ± 0.05", "3", "2.00e-05", "-"],
        ["other", "12.50 ± 1.05", "12,345", "-", "0.500"],
    ]
    shares = {"a": {"x": 0.5556}, "b": {"x": 0.0146}, "c": {"x": 0.0643}}
    assert [row[1] for row in texts_of(plot.table(shares))[1:]] == ["0.556", "0.015", "0.064"]
    wide = {"a": {"x": 0.00012}, "b": {"x": 250.0}, "c": {"x": 0.0}}
    assert [row[1] for row in texts_of(plot.table(wide, digits=2))[1:]] == ["0.00", "250.00", "0.00"]


def test_a_table_is_right_aligned_with_few_rules():
    cells = plot.table({"a": {"x": 1.0}, "b": {"x": 2.0}, "c": {"x": 2.0}}).tables[0].get_celld()
    assert {cells[i, 1].get_text().get_horizontalalignment() for i in range(4)} == {"right"}
    assert [cells[i, 1].visible_edges for i in range(4)] == ["BT", "", "", "B"]


@pytest.mark.parametrize("entry", ["word", (1.0, 2.0, 3.0), [[]] * 3])
def test_entries_of_a_table_that_are_no_numbers_are_refused(entry):
    if entry == [[]] * 3:
        with pytest.raises(ValueError, match="no rows"):
            plot.table({})
    else:
        with pytest.raises(ValueError, match="column 'x'"):
            plot.table({"a": {"x": entry}})


# --- light and dark


def test_the_dark_style_is_dark_and_ends():
    before = dict(matplotlib.rcParams)
    with plot.style(dark=True):
        ax = plot.curves({"a": np.arange(3.0), "b": np.ones(3)}, title="title")
        assert np.mean(rendered(ax)[..., :3]) < 60
        assert min(to_rgb(ax.title.get_color())) > 0.7
        assert min(to_rgb(ax.get_legend().get_texts()[0].get_color())) > 0.7
    assert dict(matplotlib.rcParams) == before
    with plot.style():
        assert np.mean(rendered(plot.curves({"a": np.arange(3.0)}))[..., :3]) > 220


def contrast(one, other):
    """The WCAG contrast of two colours."""

    def luminance(colour):
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return np.dot(linear, (0.2126, 0.7152, 0.0722))

    bright, faint = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (faint + 0.05)


STYLES = {
    "light": plot.style,
    "dark": lambda: plot.style(dark=True),
    "matplotlib's dark": lambda: plt.style.context("dark_background"),
    "matplotlib's own": lambda: plt.style.context("default"),
}


@pytest.mark.parametrize("context", STYLES.values(), ids=STYLES)
def test_every_line_can_be_seen_on_its_page(context):
    with context():
        ax = plot.curves({str(i): np.arange(3.0) for i in range(7)})
        page = matplotlib.rcParams["figure.facecolor"]
        least = min(contrast(line.get_color(), page) for line in ax.lines)
        plan = lines_of(plot.plan(X, Y, PLAN))[1]
        assert contrast(plan[0][:3], page) > 12
    assert least > 2  # Okabe and Ito's amber on white has 2.2


@pytest.mark.parametrize("page", ["black", "white", "none"])
def test_gaps_of_a_grid_have_the_colour_of_the_page(page):
    with plt.rc_context({"figure.facecolor": page, "axes.facecolor": page}):
        picture = rendered(plot.image_grid(np.full((4, 20, 20, 1), 0.5)))
    middle = picture[picture.shape[0] // 2 - 3 : picture.shape[0] // 2 + 3, picture.shape[1] // 2]
    expected = (*(255 * np.array(to_rgb(page)) if page != "none" else (255, 255, 255)), 255 * (page != "none"))
    assert any(np.array_equal(pixel, expected) for pixel in middle)


def test_singular_faces_and_tables_take_the_colour_of_text():
    y = jnp.array([[-1.0, 0.0], [1.0, 0.0]])
    state = semidiscrete.from_heights(jnp.zeros(2))
    for dark in (False, True):
        with plot.style(dark=dark):
            bold = plot.cells(state, y, resolution=20, angle=0.1).images[1].get_array()
            cell = plot.table({"a": {"x": 1.0}}).tables[0].get_celld()[1, 1]
        assert (bold[bold[..., 3] > 0][:, :3] > 0.5).all() == dark
        assert cell.get_facecolor()[3] == 0
        assert (min(to_rgb(cell.get_text().get_color())) > 0.5) == dark
        assert (min(to_rgb(cell.get_edgecolor())) > 0.5) == dark


def test_what_is_given_is_drawn_on():
    ax = plt.subplots()[1]
    state = semidiscrete.from_heights(jnp.zeros(2))
    assert plot.points(X, ax) is ax
    assert plot.plan(X, Y, PLAN, ax) is ax
    assert plot.plan_matrix(PLAN, ax) is ax
    assert plot.cells(state, Y, ax, resolution=10) is ax
    assert plot.field(lambda x: 2 * x, ax, resolution=3) is ax
    assert plot.potential(lambda x: x[:, 0], ax, resolution=3) is ax
    assert plot.curves({"a": np.ones(2)}, ax) is ax
    assert plot.table({"a": {"x": 1.0}}, ax) is ax
    assert plot.image_grid(np.zeros((1, 2, 2, 1)), ax=ax) is ax
    assert plot.traversal(np.zeros((1, 1, 2, 2, 1)), ax, "last") is ax
    assert ax.get_title() == "last"


def test_the_library_comes_without_matplotlib():
    code = "import sys, otgen; import otgen.plot; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
