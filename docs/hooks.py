"""mkdocs: CONTRIBUTING.md and CHANGELOG.md are pages; a link to a file that is none is its name;
parameters.md is made of params.yaml's comments and the presets' values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
FROM_ROOT = {"contributing.md": "CONTRIBUTING.md", "changes.md": "CHANGELOG.md"}
INTRODUCTION = """\
# Parameters

`params.yaml` holds every parameter; these tables are made from its comments and from `presets/`.
`dvc exp run -S section.key=value` changes one parameter, `python -m pipeline use PRESET` many. "§"
is a section of the paper. [Results](results.md) and [models](models.md) tell what choices led to.
"""
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s:]+)(#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie beside docs/, and that of the parameters."""
    for page, source in FROM_ROOT.items():
        text = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "parameters.md", content=INTRODUCTION + parameter_tables()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links lead to pages; those to other files of the repository become their names."""
    name = page.file.src_uri
    folder = ROOT if name in FROM_ROOT else ROOT / "docs" / Path(name).parent

    def link(match: re.Match[str]) -> str:
        label, target, _ = match.groups()
        path = (folder / target).resolve()
        page_of = {ROOT / source: page for page, source in FROM_ROOT.items()}.get(path)
        if page_of:
            return f"[{label}]({page_of})"
        outside = ROOT in path.parents and ROOT / "docs" not in path.parents and path.exists()
        in_repository = outside and files.get_file_from_path(target) is None
        return f"{label} (`{path.relative_to(ROOT)}`)" if in_repository else match[0]

    return _LINK.sub(link, markdown)


class Parameter(NamedTuple):
    """One line of params.yaml."""

    key: str  # dotted
    value: Any
    comment: str


def parameters(text: str) -> Iterator[Parameter]:
    """Of params.yaml, or of a preset, in order; a comment is what stands behind the value."""
    lines, loader = text.splitlines(), yaml.SafeLoader(text)

    def walk(node: yaml.MappingNode, path: str) -> Iterator[Parameter]:
        for name, value in node.value:
            key = f"{path}{name.value}"
            if isinstance(value, yaml.MappingNode):
                yield from walk(value, f"{key}.")
            else:
                comment = lines[name.start_mark.line].partition(" # ")[2].strip()
                yield Parameter(key, loader.construct_object(value, deep=True), comment)

    yield from walk(loader.get_single_node(), "")


def parameter_tables() -> str:
    """A table of each section: parameter, the value it comes with, presets that differ, meaning."""
    presets = {
        path.stem: {of.key: of.value for of in parameters(path.read_text(encoding="utf-8"))}
        for path in sorted((ROOT / "presets").glob("*.yaml"))
    }
    tables: dict[str, list[str]] = {}
    for key, value, comment in parameters((ROOT / "params.yaml").read_text(encoding="utf-8")):
        by_value: dict[str, list[str]] = {}
        for name, values in presets.items():
            if values.get(key, value) != value:
                by_value.setdefault(_shown(values[key]), []).append(f"`{name}`")
        others = "; ".join(f"{of} in {', '.join(names)}" for of, names in by_value.items())
        cells = (f"`{key}`", _shown(value), others, comment.replace("|", "\\|"))
        section = key.rpartition(".")[0].split(".")[0] or "all stages"
        tables.setdefault(section, []).append(f"| {' | '.join(cells)} |")
    head = "| parameter | value | in presets | meaning |\n|---|---|---|---|"
    parts = [f"\n## {name}\n\n{head}\n" + "\n".join(rows) for name, rows in tables.items()]
    return "\n".join(parts) + "\n"


def _shown(value: Any) -> str:
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"
