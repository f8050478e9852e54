"""The numbers of README and docs/ are held against the JSON of benchmarks/.

Not held: numbers of prose on the pages that have no ±, but for those of README; what NOT_IN_JSON lists; seconds and
sizes of a command that writes no JSON.
"""

import functools
import json
import re
from pathlib import Path

import pytest

from benchmarks import tables
from experiments.lab.table import written

ROOT = Path(__file__).parents[1]
PAGES = [*tables.pages(), ROOT / "experiments/README.md"]
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
FILES = sorted((ROOT / "benchmarks").glob("*.json"))
ERRORS = ("sd", "standard_error")
MEASURED = re.compile(r"(-?\d*\.?\d+) ± (\d*\.?\d+)")
DECIMAL = re.compile(r"(?<![\w.])-?\d*\.\d+(?:e-?\d+)?(?![\w.]*\d)")
NOT_IN_JSON = {  # tables by the first cell of their first row
    "docs/methods/ae-ot.md": {"targets"},  # 25 Gaussians: least and largest of three runs, whose JSON is not kept
}


def outside(text: str) -> str:
    """A page without the tables of tables.py and without code."""
    text = re.sub(r"^```.*?^```", "", tables.PLACE.sub("", text), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`]*`", "", text)


@functools.cache
def summaries() -> list[tuple[float, float]]:
    """Every mean with its standard deviation or error in the files."""
    found = []

    def walk(value: object) -> None:
        if isinstance(value, dict):
            for mean in ("mean", "frechet", "measured"):
                found.extend((value[mean], value[it]) for it in ERRORS if _number(value.get(mean), value.get(it)))
            found.extend(
                (value[it], value[f"{it}_error"]) for it in value if _number(value[it], value.get(f"{it}_error"))
            )
            [walk(it) for it in value.values()]
        elif isinstance(value, list):
            if len(value) == 2 and _number(*value):
                found.append((value[0], value[1]))
            [walk(it) for it in value]

    for path in FILES:
        content = json.loads(path.read_text())
        walk(content)
        runs = content.get("runs", content.get("seeds", []))
        for part in ("rows", "transport"):
            if part == "rows" and runs and all("rows" in run for run in runs):
                walk(tables.gather(runs))
            elif runs and all(part in run for run in runs):
                walk(tables.gather([{"rows": {part: run[part]}} for run in runs]))
    return found


def numbers() -> list[float]:
    """Every number in the files."""
    found = []

    def walk(value: object) -> None:
        if isinstance(value, dict | list):
            [walk(it) for it in (value.values() if isinstance(value, dict) else value)]
        elif _number(value):
            found.append(value)

    for path in FILES:
        walk(json.loads(path.read_text()))
    return found


def _number(*values: object) -> bool:
    return all(isinstance(it, int | float) and not isinstance(it, bool) for it in values)


def rounds_to(value: float, text: str) -> bool:
    """Whether a number is this text, rounded once."""
    mantissa, _, power = text.partition("e")
    unit = 10.0 ** (int(power or 0) - len(mantissa.partition(".")[2]))
    return abs(value - float(text)) <= 0.5 * unit * (1 + 1e-6) + 1e-12


@pytest.mark.parametrize("path", tables.pages(), ids=NAMES[:-1])
def test_tables_are_those_of_the_files(path):
    text = path.read_text()
    assert tables.filled(text) == text, "python benchmarks/tables.py --write"


def test_every_table_and_every_file_has_its_page(monkeypatch):
    read, asked = tables.read, set()
    monkeypatch.setattr(tables, "read", lambda name: (asked.add(name), read(name))[1])
    [table() for table in tables.TABLES.values()]
    text = "\n".join(path.read_text() for path in tables.pages())
    assert sorted(name for _, name, _ in tables.PLACE.findall(text)) == sorted(tables.TABLES)
    assert [path.name for path in FILES if path.stem not in asked and path.name not in text] == []


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_tables_with_spreads_come_from_files(path):
    known, met = NOT_IN_JSON.get(str(path.relative_to(ROOT)), set()), set()
    for table in re.findall(r"(?:^\|.*\n)+", outside(path.read_text()), re.MULTILINE):
        rows = table.splitlines()[2:]
        measured = [row for row in rows if "±" in row or re.search(r"\| *-?\d*\.\d+ *\|", row)]
        if measured and path.name != "README.md":
            met.add(rows[0].strip("| ").split(" |")[0])
    assert met == known, "a table of numbers needs a comment `<!-- table: NAME -->` and its line in tables.py"


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_spreads_in_prose_are_of_the_files(path):
    found = summaries()
    for mean, sd in MEASURED.findall(outside(path.read_text())):
        assert float(sd) > 0, f"{mean} ± {sd} hides its spread"
        assert any(rounds_to(one, mean) and rounds_to(other, sd) for one, other in found), f"{mean} ± {sd}"


NOT_MEASURED = {"0.2", "0.01", "0.3", "3.11"}  # of README: versions, arguments


def test_decimals_of_the_readme_are_of_the_files():
    text = re.sub(
        r"arXiv [\d., ]+|\b\d+\.\d+\.\d+\S*|^ {4}.*$", "", outside((ROOT / "README.md").read_text()), flags=re.MULTILINE
    )
    shown = [float(it) for table in tables.TABLES.values() for it in re.findall(r"(?<!\S)\d*\.\d+(?!\S)", table())]
    found = numbers() + shown + [value for pair in summaries() for value in pair]
    missing = [it for it in DECIMAL.findall(text) if not any(rounds_to(value, it) for value in found)]
    assert sorted(set(missing) - NOT_MEASURED) == []


def test_rows_that_the_readme_repeats_are_those_of_the_page():
    page = tables.TABLES["sinkhorn"]().splitlines()
    rows = re.findall(r"^\| \d+, \d+ \|.*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(rows) >= 3
    for row in rows:
        name, *cells = [cell.strip() for cell in row.strip("|").split("|")]
        full = next(line for line in page if line.startswith(f"| {name} |"))
        assert set(cells) <= {cell.strip() for cell in full.split("|")}, name


def test_a_spread_is_never_rounded_away():
    assert written({"mean": 0.048, "sd": 0.0004}, 3) == "0.0480 ± 0.0004"
    assert written({"mean": 0.113, "sd": 0.0009}, 3) == "0.113 ± 0.001"
    assert written({"mean": 25.0, "sd": 1e-9}, 0) == written({"mean": 25.0, "sd": None}, 0) == "25"


def test_rounding_twice_is_seen():
    assert rounds_to(0.05045, "0.050")
    assert not rounds_to(0.05045, "0.051")
    assert rounds_to(-0.0101, "-.010")
    assert rounds_to(8.2e-5, "8e-5")
    assert not rounds_to(0.0004, "0.001")
