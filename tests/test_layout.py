"""Imports run one way, and a command loads only what it needs."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import networkx as nx
import pandas as pd
import pytest

from pipeline import paths
from pipeline.__main__ import COMMANDS, LazyCommands, load_command
from pipeline.tools.layout import draw, read_arrows
from tests.conftest import ROOT, run_code
from uar.core.threads import limit_spinning

HEAVY = {"torch", "transformers", "lightning_fabric", "matplotlib", "spacy", "dall_e"}


def lint_imports(folder: Path) -> tuple[int, str]:
    """import-linter's exit status and report on the `uar` and `pipeline` that lie in a folder."""
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def test_no_import_runs_up() -> None:
    status, report = lint_imports(ROOT)
    assert status == 0, report
    assert "Contracts: 7 kept, 0 broken." in report


def test_an_import_that_runs_up_is_found(tmp_path: Path) -> None:
    """One fault for each contract, one within a function, and a room that stands nowhere."""
    for package in ("uar", "pipeline"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    faults = [
        ("uar.core.files", "import uar.data.text", "uar.data.text"),
        ("uar.data.text", "def f():\n    from pipeline import paths", "pipeline.paths"),
        ("uar.evaluation.metrics", "from uar.data import text", "uar.data.text"),
        ("uar.model.attention", "from uar.tokens import cache", "uar.tokens.cache"),
        ("uar.training.losses", "import uar.tokens.cache", "uar.tokens.cache"),
        ("uar.analysis.basis", "from uar.training.losses import mask_loss", "uar.training.losses"),
        ("pipeline.paths", "import pipeline.tools.use", "pipeline.tools.use"),
    ]
    for module, line, _ in faults:
        with (tmp_path / f"{module.replace('.', '/')}.py").open("a") as file:
            file.write(f"\n{line}\n")
    (tmp_path / "uar/attic").mkdir()
    (tmp_path / "uar/attic/__init__.py").touch()
    status, report = lint_imports(tmp_path)
    assert status == 1
    assert "Contracts: 0 kept, 7 broken." in report
    assert "uar.attic" in report
    for module, _, imported in faults:
        assert f"{module} -> {imported} (l." in report, module


def cycles(root: Path) -> list[list[str]]:
    """Modules of `uar` that cannot be loaded without each other, whichever comes first."""
    files = {}
    for path in sorted((root / "uar").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph = nx.DiGraph()
    for module, path in files.items():
        for node in ast.parse(path.read_text()).body:  # not those in functions
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [node.module, *inner]
            for name in names:  # a package's __init__ runs before its modules
                steps = name.split(".")
                loaded = [".".join(steps[: i + 1]) for i in range(len(steps))]
                own = [m for m in loaded if m == module or module.startswith(f"{m}.")]
                graph.add_edges_from((module, m) for m in loaded if m in files and m not in own)
    return [sorted(group) for group in nx.strongly_connected_components(graph) if len(group) > 1]


def test_every_module_can_be_imported_first() -> None:
    assert cycles(ROOT) == []


def test_a_cycle_through_a_package_is_found(tmp_path: Path) -> None:
    for name, text in {
        "uar/__init__.py": "",
        "uar/a/__init__.py": "from uar.a import x\n",
        "uar/a/x.py": "from uar.b import y\n",
        "uar/b/__init__.py": "import uar.a\n",
        "uar/b/y.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cycles(tmp_path) == [["uar.a", "uar.a.x", "uar.b"]]


def test_the_arrows_are_the_imports_between_rooms() -> None:
    arrows = read_arrows()
    assert arrows["uar.model", "uar.networks"] >= 1
    assert arrows["uar.evaluation", "uar.model"] == 0
    assert all(source != target for source, target in arrows)
    rooms = {room for arrow in arrows for room in arrow}
    assert {"uar.core", "pipeline.stages", "pipeline.__main__"} < rooms
    assert "uar" not in rooms


def test_the_picture_shows_each_arrow(tmp_path: Path) -> None:
    one = Counter({("uar.data", "uar.core"): 3, ("uar.tokens", "uar.data"): 1})
    pictures = []
    for arrows in (one, one, one | Counter({("uar.tokens", "uar.core"): 1})):
        draw(arrows, tmp_path / "layout.svg")
        text = (tmp_path / "layout.svg").read_text()
        pictures.append(text.count("<path "))
    assert pictures[0] == pictures[1] < pictures[2]


def test_every_command_is_where_the_table_says() -> None:
    names = [n for packages in COMMANDS.values() for modules in packages.values() for n in modules]
    assert len(names) == len(set(names))
    shown = LazyCommands(name="pipeline")
    for name in names:
        command = load_command(name)
        assert command.name == name
        summary = shown.get_command(None, name)  # type: ignore[arg-type]
        assert summary is not None
        assert summary.help == command.help


def test_light_commands_import_nothing_heavy() -> None:
    code = (
        "import sys; from pipeline.__main__ import app\n"
        "for name in ('', 'use', 'compare', 'preprocess', 'vocabulary', 'ablate'):\n"
        "    try: app([*name.split(), '--help'])\n"
        "    except SystemExit as end: assert not end.code\n"
        f"    print('heavy:', name, sorted(set(sys.modules) & {HEAVY!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("heavy:")]
    assert len(said) == 6
    assert all(line.endswith(" []") for line in said), said


def test_scoring_by_rules_alone_loads_no_network_of_texts() -> None:
    """CheXbert's and RadGraph's loaders, and BERT, take longer to load than all else together."""
    code = (
        "import sys, torch, yaml\n"
        "import pipeline.stages.evaluate, pipeline.tools.score, pipeline.experiments.paired\n"
        "from pipeline.measures import open_measures\n"
        "from uar.core.config import EvaluateParams\n"
        "asked = yaml.safe_load(open('params.yaml'))['evaluate'] | {'meteor': False}\n"
        "asked |= {'protocols': ['r2gen'], 'chexbert': None, 'radgraph': None}\n"
        "measures = open_measures(EvaluateParams.model_validate(asked), torch.device('cpu'))\n"
        "assert list(measures.labellers) == ['clinical'] and not measures.graphs\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('transformers', 'radgraph')"
        " or name.endswith(('clinical.chexbert', 'clinical.radgraph'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_text_stages_run_without_torch(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    text = "The heart is enlarged. No effusion."
    table = {"study_id": list("abc"), "split": ["train"] * 3, "report": [text] * 3}
    pd.DataFrame({**table, "image_paths": [["a.png"]] * 3, "views": [["frontal"]] * 3}).to_parquet(
        tmp_path / paths.STUDIES
    )
    code = (
        "import sys; from pipeline.stages.preprocess import preprocess\n"
        "from pipeline.stages.vocabulary import vocabulary\n"
        "preprocess(); vocabulary()\n"
        f"print('heavy:', sorted(set(sys.modules) & {HEAVY!r}))\n"
        "import torch"  # is there for who needs it
    )
    done = run_code(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: ['spacy']"
    findings = pd.read_parquet(tmp_path / paths.REPORTS)["findings"]
    assert [list(of_report) for of_report in findings] == [["Cardiomegaly"]] * 3


def test_threads_spin_little_unless_the_user_says_otherwise() -> None:
    environment: dict[str, str] = {}
    limit_spinning(environment)
    assert environment == {"GOMP_SPINCOUNT": "5000"}
    for chosen in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        environment = {chosen: "7"}
        limit_spinning(environment)
        assert environment == {chosen: "7"}


@pytest.mark.skipif(sys.platform != "linux", reason="asks GNU's OpenMP what it has read")
def test_openmp_has_read_it_when_a_stage_loads_torch() -> None:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "tokenize", "--help"],
        cwd=ROOT,
        env={**plain, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "GOMP_SPINCOUNT = '5000'" in done.stderr


@pytest.mark.parametrize(("threads", "counted"), [("3", 3), ("null", 2)])
def test_a_stage_computes_with_the_threads_of_params_yaml(
    tmp_path: Path, threads: str, counted: int
) -> None:
    """Whatever the environment says, so that another machine rounds alike; null leaves it that."""
    text = (ROOT / "params.yaml").read_text()
    assert "\nthreads: 1 " in text
    text = text.replace("\nthreads: 1 ", f"\nthreads: {threads} ")
    (tmp_path / "params.yaml").write_text(
        text.replace("\narithmetic: portable", "\narithmetic: native")
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from pipeline.__main__ import load_command; load_command('dvae')\n"
            "import torch; print(torch.get_num_threads())",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == counted
