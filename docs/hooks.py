"""mkdocs: CONTRIBUTING.md and CHANGELOG.md are pages; a link to a file that is none is its name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
FROM_ROOT = {"contributing.md": "CONTRIBUTING.md", "changes.md": "CHANGELOG.md"}
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s:]+)(#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie beside docs/."""
    for page, source in FROM_ROOT.items():
        text = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
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
