"""What README and docs/ say: links, commands, names and code are held against the project."""

import ast
import contextlib
import functools
import importlib
import importlib.util
import io
import json
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest
import tyro

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "experiments/README.md", *ROOT.glob("docs/**/*.md")]
)
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")


def hook(name: str) -> types.ModuleType:
    """A module of docs/hooks/."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / "hooks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def generated() -> dict[str, str]:
    """Pages that are made while the site is built."""
    notebooks = [f"notebooks/{path.stem}.md" for path in hook("gallery").notebooks()]
    return {**hook("reference").pages(), **dict.fromkeys(["notebooks/index.md", *notebooks] if notebooks else [], "")}


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w]+", "-", heading.lower().replace(".", "")).strip("-") for heading in headings}


def python_blocks(text: str) -> list[str]:
    return [code for language, code in FENCE.findall(text) if language == "python"]


def commands(text: str) -> list[list[str]]:
    """Words of every `python -m experiments.NAME ...`, in blocks and in the text."""
    blocks = [code for language, code in FENCE.findall(text) if language != "python"]
    blocks += re.findall(r"^ {4}.*$", FENCE.sub("", text), re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    spans = [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", FENCE.sub("", text))]
    found = []
    for line in (*lines, *spans):
        if "python -m experiments." in line:
            command = line[line.index("python -m experiments.") :].split("  #")[0].split(" # ")[0]
            found.append(shlex.split(command.replace(r"\|", "|"))[2:])
    return found


def options_of(module: types.ModuleType) -> set[str]:
    """Options of a script that reads them by argparse."""
    return set(re.findall(r"add_argument\(\"(--[\w-]+)\"", Path(module.__file__).read_text()))


RUN_BY = {"experiments.sweep": "experiments.sweep.launch", "experiments.gpu_check": "experiments.gpu_check.checks"}


def check(words: list[str]) -> None:
    """Raise unless a module has the options that a command gives it, with values of their type."""
    module = importlib.import_module(RUN_BY.get(words[0], words[0]))
    arguments = [{"SEED": "0", "N": "1"}.get(word, word) for word in words[1:] if word not in ("--help", "...")]
    if hasattr(module, "Config"):
        heard = io.StringIO()
        try:
            with contextlib.redirect_stderr(heard), contextlib.redirect_stdout(heard):
                tyro.cli(module.Config, args=arguments)
        except SystemExit:
            raise AssertionError(f"{' '.join(words)}\n{heard.getvalue()}") from None
        return
    nested = next((k for k, word in enumerate(arguments) if (ROOT / "experiments" / f"{word}.py").exists()), None)
    own = arguments if nested is None else arguments[:nested]
    assert {word for word in own if word.startswith("--")} <= options_of(module), words
    if nested is not None:
        check([f"experiments.{arguments[nested]}", *arguments[nested + 1 :]])


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_links_and_images_exist(path):
    for target in (one or two for one, two in LINK.findall(without_code(path.read_text()))):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        inside = str(there.relative_to(ROOT / "docs")) if there.is_relative_to(ROOT / "docs") else ""
        assert there.exists() or inside in generated(), f"{path.name} links to {target}"
        if anchor and there.suffix == ".md" and there.exists():
            assert anchor in anchors(there.read_text()), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_prose_has_the_spelling_of_the_api(path):
    assert "arycentre" not in re.sub(r"^\|.*$", "", without_code(path.read_text()), flags=re.MULTILINE)


def test_every_figure_of_the_docs_is_shown():
    text = "\n".join(path.read_text() for path in PAGES)
    assert [it.name for it in (ROOT / "docs").glob("*.png") if it.name not in text] == []


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_commands_name_modules_and_options_that_exist(path):
    for words in commands(path.read_text()):
        check(words)


def test_a_wrong_command_is_found():
    assert commands("x `python -m experiments.ae_ot\n--sead 0` y") == [["experiments.ae_ot", "--sead", "0"]]
    assert commands("    python -m experiments.sweep ae_ot  # here") == [["experiments.sweep", "ae_ot"]]
    for words in (["experiments.ae_ot", "--sead", "0"], ["experiments.ae_ot", "--seed", "many"]):
        with pytest.raises(AssertionError):
            check(words)
    with pytest.raises(AssertionError):
        check(["experiments.local_hosts", "--num", "2", "ae_ot", "--sead", "0"])
    with pytest.raises(ModuleNotFoundError):
        check(["experiments.ae_to"])


def test_the_two_lock_files_agree():
    pins = []
    for name in ("requirements.lock", "requirements-docs.lock"):
        lines = (ROOT / name).read_text().split()
        assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in lines), name
        pins.append(dict(line.split("==") for line in lines))
    both = pins[0].keys() & pins[1].keys()
    assert "ruff" in both
    assert [name for name in both if pins[0][name] != pins[1][name]] == []


def test_targets_of_make_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in PAGES:
        text = path.read_text()
        said = re.findall(r"`make ([\w-]+)", text) + re.findall(r"^ {4}make ([\w-]+)", text, re.MULTILINE)
        assert set(said) <= targets, path.name


def test_make_and_the_page_agree_on_the_time_of_the_tests():
    for name in ("Makefile", "CONTRIBUTING.md"):
        told = (ROOT / name).read_text()
        assert "quick tests: six to twelve minutes on two cores, half of it when run again" in told, name


def resolved(chain: str) -> None:
    value, name = importlib.import_module("otgen"), "otgen"
    for part in chain.split(".")[1:]:
        name = f"{name}.{part}"
        value = getattr(value, part) if hasattr(value, part) else importlib.import_module(name)


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_names_in_code_exist(path):
    text = path.read_text()
    now = (
        re.sub(r"^\|[^|]*\|", "|", text, flags=re.MULTILINE) if path.name == "from-0.1.md" else text
    )  # without the names of then
    chains = set(
        re.findall(r"`(og(?:\.\w+)+)", FENCE.sub("", text)) + re.findall(r"`(otgen(?:\.\w+)+)", FENCE.sub("", now))
    )
    for code in python_blocks(text):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute):
                chain = ast.unparse(node)
                if re.fullmatch(r"og(\.\w+)+", chain):
                    chains.add(chain)
    for chain in chains:
        resolved(chain)


@pytest.mark.parametrize("package", hook("reference").packages())
def test_every_public_name_is_in_the_reference(package):
    reference, module = hook("reference"), importlib.import_module(package)
    table = generated()[reference.page_of(package)]
    for name in dir(module):
        value = getattr(module, name)
        if name.startswith("_") or (isinstance(value, types.ModuleType) and not value.__name__.startswith("otgen")):
            continue
        if isinstance(value, types.ModuleType):
            assert reference.page_of(value.__name__) in generated(), name
        else:
            assert f"[`{name}`]" in table, name
            home = reference.offered(package).get(name, f"{package}.{name}").rpartition(".")[0]
            assert reference.page_of(home) in generated(), name
            assert getattr(importlib.import_module(home), name) is value


def test_every_module_has_a_page_in_the_navigation():
    reference = hook("reference")
    said = json.dumps(reference.nav())
    for path in (ROOT / "otgen").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if not parts[-1].startswith("_"):  # neither packages nor what `python -m` runs
            assert f'"{reference.page_of(".".join(parts))}"' in said


def test_the_reference_follows_a_name_to_where_it_is_defined():
    reference = hook("reference")
    assert reference.offered("otgen")["sinkhorn_divergence"] == "otgen.ot.sinkhorn.divergence.sinkhorn_divergence"
    assert reference.offered("otgen")["save"] == "otgen.store.folder.save"
    assert reference.offered("otgen.models.baselines.vae")["sample"] == "otgen.models.apply.sample"
    assert reference.escaped("a <b, c> `<d>` |e|") == "a &lt;b, c> `<d>` &#124;e&#124;"


def test_docstrings_are_made_safe_for_markdown():
    pytest.importorskip("griffe", reason="the documentation tools are not installed: make docs")
    plain = hook("docstrings").plain
    assert plain("min <C, P> of [K] [M], `<x>` and 2*a") == r"min &lt;C, P> of [K] \[M], `<x>` and 2\*a"
    assert plain("a *new word*, f(*args)") == r"a *new word*, f(\*args)"
    assert plain("* a list\n\n    code <x>\n") == "* a list\n\n    code <x>\n"
    doctest = "Example:\n  >>> f(a * b) < 2\n  True * 1\n\n"
    assert plain(f"{doctest}2 * 3") == rf"{doctest}2 \* 3"
    assert plain("  x: first,\n    then <x, y>.") == "  x: first,\n    then &lt;x, y>."


def test_equations_become_mathml():
    pytest.importorskip("latex2mathml", reason="the documentation tools are not installed: make docs")
    convert = hook("equations").on_page_content
    made = convert(r'<div class="arithmatex">\[\min_x \lvert x \rvert \&lt; 1\]</div>', None, None, None)
    assert made.startswith('<div class="equation"><math')
    assert "<munder>" in made
    assert "arithmatex" not in made
    paired = r'<span class="arithmatex">\(|x - y|^2 + f(a | b)\)</span>'
    assert convert(paired, None, None, None).count('fence="true"') == 2
    assert convert("<p>no $5$ here</p>", None, None, None) == "<p>no $5$ here</p>"


def test_cells_show_bars_and_keep_numbers_in_a_line():
    made = functools.partial(hook("tables").on_page_content, page=None, config=None, files=None)
    assert made(r"<td><code>|a\|b</code> \|</td> <code>\|</code>") == r"<td><code>|a|b</code> \|</td> <code>\|</code>"
    assert made("<td>0.1 ± 0.02</td><td>a 1 ± 2</td>") == "<td>0.1&nbsp;±&nbsp;0.02</td><td>a 1&nbsp;±&nbsp;2</td>"
    assert (
        made("<td>0.97 to 1.2</td><td>0.71 / 4.5 / -</td>")
        == "<td>0.97&nbsp;to&nbsp;1.2</td><td>0.71&nbsp;/&nbsp;4.5&nbsp;/&nbsp;-</td>"
    )
    assert made("<td>0.0073 (1.6 s; 0)</td>") == "<td>0.0073&nbsp;(1.6&nbsp;s;&nbsp;0)</td>"


def test_notebooks_become_pages(tmp_path):
    gallery = hook("gallery")
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
    picture = {"output_type": "display_data", "data": {"image/png": pixel, "text/plain": "<Figure>"}}
    shown = "What it shows, see [tour](00_tour.ipynb)."
    printed = {"output_type": "stream", "name": "stdout", "text": ["half\r", "done\n"]}
    warned = {"output_type": "stream", "name": "stderr", "text": ["noise\n"]}
    cells = [
        {
            "cell_type": "markdown",
            "source": ["# A title\n", "\n", "What it shows, see [tour](00_tour.ipynb). By this\n", "\n", "$$x$$"],
        },
        {"cell_type": "code", "source": ["print(1)"], "outputs": [printed, warned, picture]},
    ]
    path = tmp_path / "01_example.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    text, pictures = gallery.page(path)
    assert gallery.title_of(path) == ("A title", shown)
    assert "[tour](00_tour.md)" in text
    assert "```python\nprint(1)\n```" in text
    assert "```text\ndone\n```" in text
    assert "noise" not in text
    assert pictures["01_example_0.png"].startswith(b"\x89PNG")
    assert "](01_example_0.png)" in text


def run_blocks(path: Path, first: int | None = None) -> dict:
    """Run the Python blocks of a page one after the other; `first` for so many of them."""
    module = types.ModuleType("page")
    sys.modules["page"] = module
    for code in python_blocks(path.read_text())[:first]:
        exec(compile(code, str(path), "exec"), module.__dict__)
    return module.__dict__


def test_the_six_lines_of_the_readme_run():
    names = run_blocks(ROOT / "README.md", 1)
    assert names["z"].shape == (64, 8)
    assert names["info"].status == 0


@pytest.mark.slow
def test_getting_started_runs(capsys):
    names = run_blocks(ROOT / "docs" / "getting-started.md")
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("CONVERGED")
    before, after = (float(it) for it in said[2].split())
    assert after < 0.1 * before
    assert said[3].startswith("True")
    assert said[-2] == "True"  # the model that was loaded draws the same images
    assert float(names["jnp"].mean(names["distance"] < 0.3)) > 0.95
    assert names["sevens"].shape == (16, 8, 8, 1)


@pytest.mark.slow
def test_the_page_on_embeddings_runs(capsys):
    """The blocks from that heading on; those before it need PyTorch."""
    text = (ROOT / "docs" / "latents_in_a_pipeline.md").read_text()
    head, _, tail = text.partition("## Noise for any embedding")
    names = {"__name__": "page"}
    exec("import jax, jax.numpy as jnp, numpy as np\nimport otgen as og", names)
    assert "import jax, jax.numpy as jnp, numpy as np" in head
    for code in python_blocks(tail):
        exec(compile(code, "latents_in_a_pipeline.md", "exec"), names)
    assert capsys.readouterr().out.startswith("CONVERGED")
    assert bool(names["found"].all())
    assert names["transport"].assign(names["path"][::8]).tolist() == [0, 1]
    assert names["images"].shape == (9, 64)
    assert names["smooth"].shape == (9, 8)
    assert bool((names["again"] == names["new"]).all())
    assert names["velocity"].shape == (256, 8)


@pytest.mark.slow
def test_the_page_on_minibatches_runs(capsys):
    """All blocks but that of PyTorch."""
    names = {"__name__": "page"}
    blocks = python_blocks((ROOT / "docs" / "minibatch-ot.md").read_text())
    for code in blocks[:-1]:
        exec(compile(code, "minibatch-ot.md", "exec"), names)
    assert "import torch" in blocks[-1]
    compile(blocks[-1], "minibatch-ot.md", "exec")
    jnp, np = names["jnp"], names["np"]
    assert np.mean(names["losses"][-20:]) < 0.3 * names["losses"][0]
    assert len(set(np.asarray(names["match"].index).tolist())) == 128
    costs = names["costs"]
    assert costs[8] > 1.3 * costs[128] > 1.3 * 0.95 * costs["all data"]
    assert jnp.abs(names["unbiased"]) < 0.5 * names["biased"]
    assert names["value"] < 1e-3
    assert capsys.readouterr().out.startswith("60 of 60 CONVERGED")


@pytest.mark.slow
def test_the_page_on_flows_runs():
    names = run_blocks(ROOT / "docs" / "methods" / "flow.md")
    jnp, points = names["jnp"], names["points"]
    assert names["new"].shape == (500, 2)
    nearest = jnp.min(jnp.sum((names["new"][:, None] - points) ** 2, -1), 1)
    assert float(jnp.median(nearest)) < 0.05
    assert float(jnp.abs(names["again"] - names["data"][:5]).max()) < 1e-2
    assert float(names["bent"]) < 0.3
    assert float(jnp.mean(names["right"][:, 0] * names["scale"] + names["mean"][0] > -0.3)) > 0.95
    assert names["metrics"]["loss"] < 1


GUIDE = ROOT / "docs" / "adding-a-model.md"


def test_the_model_of_the_guide_is_short():
    assert 80 < sum(len(code.splitlines()) for code in python_blocks(GUIDE.read_text())) < 120


@pytest.mark.slow
def test_a_generator_is_scored_as_the_page_of_results_says(capsys):
    text = (ROOT / "docs" / "results.md").read_text().partition("## Score a generator")[2]
    names = {"__name__": "page"}
    exec(compile(python_blocks(text)[0], "results.md", "exec"), names)
    found, real, said = names["found"], names["real"], capsys.readouterr().out
    assert said.startswith("frechet: ")
    assert "'images_per_draw': 360, 'draws': 3" in said
    assert real.mean["lmem"] == 0 < found.mean["lmem"]
    assert real.mean["frechet"] < found.mean["frechet"] < 1


@pytest.mark.slow
def test_the_model_of_the_guide_learns_and_shares_its_batch(key):
    """The page's promise: a tenth of the untrained divergence, and rows of several devices count as one batch."""
    import jax
    import jax.numpy as jnp

    page = run_blocks(GUIDE)
    module, model, fresh, og = page["model"].module, page["model"], page["fresh"], page["og"]
    params = module.init(key, jnp.zeros((1, 2)), jnp.zeros(1, int))["params"]
    start = {**model.variables, "params": params}
    drawn = [page["sample"](key, model._replace(variables=it), 1000).reshape(-1, 2) for it in (start, model.variables)]
    untrained, trained = (float(og.sinkhorn_divergence(x, fresh, epsilon=0.05)) for x in drawn)
    assert trained < 0.1 * untrained
    spread, real = (float(points.var(0).sum()) for points in (drawn[1], page["moons"]))
    assert 0.9 < spread / real < 1.1  # .89 with one batch for both sides of the draws' own term

    for label, inside in (
        (0, lambda x: x < 0.5),
        (1, lambda x: x > 0.5),
    ):  # half of them by chance, and 0.016 its error
        points = page["sample"](key, model, 1000, label=label).reshape(-1, 2)
        assert float(inside(points[:, 0]).mean()) > 0.9

    images, classes = fresh[:8].reshape(8, 1, 1, 2), jnp.arange(8) % 2
    noise, second = jax.random.normal(key, (2, 8, 2))
    params = model.variables["params"]
    whole, _ = page["loss"](params, module, images, noise, second, classes)
    halves = [it.reshape(2, 4, *it.shape[1:]) for it in (images, noise, second, classes)]
    shared = jax.vmap(lambda *rows: page["loss"](params, module, *rows, "i")[0], axis_name="i")(*halves)
    assert jnp.allclose(shared, whole, rtol=1e-4)


@pytest.mark.slow
def test_samples_of_the_guide_are_drawn_from_averaged_weights(key, tmp_path):
    """A fit in a folder leaves its last state there: of that the average is the model's, and not the parameters."""
    import jax
    import numpy as np

    page = run_blocks(GUIDE, -1)
    images = page["og"].data.toy.two_moons(key, 200).reshape(-1, 1, 1, 2)
    sizes = {"output": "real", "latent_dim": 2, "hidden": (8,), "batch_size": 50, "epochs": 5}
    model = page["fit"](key, images, checkpoints=tmp_path, **sizes)
    _, state = page["init"](key, model.module.config, images, 20)
    with page["og"].train.Checkpoints(
        tmp_path / "generator", json.loads((tmp_path / "generator/config.json").read_text())
    ) as saved:
        state = saved.restore(state)
    assert int(state.step) == 20
    jax.tree.map(np.testing.assert_array_equal, model.variables["params"], state.average)
    drawn = [page["sample"](key, model._replace(variables={"params": it}), 10) for it in (state.average, state.params)]
    np.testing.assert_array_equal(page["sample"](key, model, 10), drawn[0])
    assert not np.allclose(*drawn)


@pytest.mark.slow
def test_the_site_builds(tmp_path):
    for name in ("mkdocs", "material", "mkdocstrings", "latex2mathml"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: `make docs` installs the documentation tools")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reference = hook("reference")
    for module in reference.modules():
        page = (tmp_path / "site" / reference.page_of(module)).with_suffix(".html").read_text()
        assert [name for name in reference.defined(module) if f'id="{module}.{name}"' not in page] == []
    assert (tmp_path / "site/search/search_index.js").read_text().startswith("var __index")  # for pages in a folder
    for path in (tmp_path / "site").rglob("*.html"):
        text = path.read_text()
        assert re.search(r"src=\"?[./]*assets/iframe-worker.js", text), f"{path} cannot be searched from a folder"
        assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=\"?https?://", text), f"{path} fetches something"
        assert "arithmatex" not in text, f"{path} has an equation that was not converted"
