"""Executed notebooks become pages of the site: text and code as they are, outputs as they were saved."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PICTURES = ("image/png", "image/jpeg", "image/svg+xml")
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST = 40  # lines of an output that are shown


def notebooks() -> list[Path]:
    """The notebooks, in the order of their names."""
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def page(path: Path) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and its pictures by name."""
    cells = json.loads(path.read_text())["cells"]
    parts, pictures = [], {}
    for cell in cells:
        source = "".join(cell["source"]).strip()
        if not source:
            continue
        if cell["cell_type"] == "markdown":
            parts.append(_relinked(source))
        elif cell["cell_type"] == "code":
            parts.append(_fenced(source, "python"))
            for output in cell.get("outputs", []):
                parts += _output(output, path.stem, pictures)
    parts.append(f"---\n\nThis page is `notebooks/{path.name}`, as it was saved after it ran.")
    return "\n\n".join(parts) + "\n", pictures


def title_of(path: Path) -> tuple[str, str]:
    """The heading of a notebook, and the whole sentences of the first paragraph after it."""
    first = next(("".join(it["source"]) for it in json.loads(path.read_text())["cells"]), "")
    blocks = [block.strip() for block in first.split("\n\n") if block.strip()]
    heading = blocks[0].splitlines()[0].lstrip("# ") if blocks else path.stem
    below = " ".join(blocks[0].splitlines()[1:]) if blocks else ""
    text = (below or (blocks[1] if len(blocks) > 1 else "")).replace("\n", " ").strip()
    sentences = re.split(r"(?<=[.?!]) (?=[A-Z*`$\[])", text)
    if len(sentences) > 1 and sentences[-1][-1:] not in ".?!":  # it leads to what stands below
        sentences.pop()
    return heading, re.sub(r"\s*[:,;]$", ".", " ".join(sentences))


def on_config(config):
    """Put the notebooks into the navigation, if there are any (called by MkDocs)."""
    if notebooks():
        entries = [{title_of(it)[0]: f"notebooks/{it.stem}.md"} for it in notebooks()]
        config.nav = [*config.nav, {"Notebooks": ["notebooks/index.md", *entries]}]
    return config


def on_files(files, config):
    """Add the pages and their pictures (called by MkDocs)."""
    from mkdocs.structure.files import File

    cards = []
    for path in notebooks():
        text, pictures = page(path)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
        cards.append(_card(path, list(pictures)))
    if cards:
        index = "# Notebooks\n\nEach was run from top to bottom; its outputs are saved with it in `notebooks/`.\n\n"
        index += '<div class="grid cards" markdown>\n\n' + "\n".join(cards) + "\n</div>\n"
        files.append(File.generated(config, "notebooks/index.md", content=index))
    return files


def _card(path: Path, pictures: list[str]) -> str:
    heading, text = title_of(path)
    shown = f"\n\n    [![{heading}]({pictures[0]})]({path.stem}.md)" if pictures else ""
    return f"-   **[{heading}]({path.stem}.md)**{shown}\n\n    {text}\n"


def _relinked(source: str) -> str:
    """Links of a notebook to its neighbours and into docs/, as links of the site."""
    source = re.sub(r"\]\((?:\./)?(\d\d_\w+)\.ipynb\)", r"](\1.md)", source)
    return re.sub(r"\]\(\.\./docs/", "](../", source)


def _output(output: dict, stem: str, pictures: dict[str, bytes]) -> list[str]:
    if output["output_type"] == "stream":
        return [_fenced(_clipped("".join(output["text"])), "text")] if output["name"] == "stdout" else []
    data = output.get("data", {})
    for kind in _PICTURES:
        if kind in data:
            content = "".join(data[kind])
            ending = kind.split("/")[1].split("+")[0]
            name = f"{stem}_{len(pictures)}.{ending}"
            pictures[name] = content.encode() if ending == "svg" else base64.b64decode(content)
            return [f"![Output of the cell above]({name})"]
    if "text/html" in data:
        return ['<div class="notebook-output">\n' + "".join(data["text/html"]) + "\n</div>"]
    if "text/plain" in data:
        return [_fenced(_clipped("".join(data["text/plain"])), "text")]
    return []


def _clipped(text: str) -> str:
    lines = [_ESCAPES.sub("", line).split("\r")[-1] for line in text.rstrip("\n").split("\n")]
    return "\n".join(lines if len(lines) <= _LONGEST else [*lines[:_LONGEST], "..."])


def _fenced(text: str, language: str) -> str:
    return f"```{language}\n{text}\n```"
