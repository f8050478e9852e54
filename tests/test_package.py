"""What is released: one version everywhere, and a wheel of the package alone."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import otgen

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_there_is_one_version():
    said = {
        "pyproject.toml": PROJECT["project"]["version"],
        "CITATION.cff": re.search(r"^version: (\S+)", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1],
        "CHANGELOG.md": re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1],
    }
    assert said == dict.fromkeys(said, otgen.__version__)
    assert f"Version {otgen.__version__.rpartition('.')[0]}:" in (ROOT / "README.md").read_text()


def test_the_wheel_holds_the_package_alone():
    build = PROJECT["tool"]["hatch"]["build"]["targets"]
    assert build["wheel"] == {"packages": ["otgen"]}
    assert PROJECT["project"]["license-files"] == ["LICENSE"]
    assert all((ROOT / name).exists() for name in (*build["sdist"]["include"], "otgen/py.typed"))


def test_no_data_lie_in_the_package():
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(["git", "ls-files", "otgen"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [name for name in listed.stdout.split() if not name.endswith((".py", "py.typed"))] == []
