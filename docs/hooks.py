"""mkdocs: README.md is the first page; a link to a file that is no page becomes the file's name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s:]+)(#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add README.md as index.md, unless docs/ has one."""
    if files.get_file_from_path("index.md") is None:
        text = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, "index.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links to files of the repository that are no page become their names."""
    folder = ROOT / "docs" / Path(page.file.src_uri).parent
    if page.file.src_uri == "index.md" and not (folder / "index.md").exists():
        folder = ROOT

    def link(match: re.Match[str]) -> str:
        label, target, _ = match.groups()
        path = (folder / target).resolve()
        outside = ROOT in path.parents and ROOT / "docs" not in path.parents and path.exists()
        in_repository = outside and files.get_file_from_path(target) is None
        return f"{label} (`{path.relative_to(ROOT)}`)" if in_repository else match[0]

    return _LINK.sub(link, markdown)
