"""Mutants of the model, training, inference and evaluation, and which of them no test sees.

python -m tests.mutants [--each 60] [--seed 0]    into .mutants/: results.csv and survivors.diff

mutmut makes and runs them, as `[tool.mutmut]` in pyproject.toml says, in a copy of the tracked
files; of each package a random share, each with the tests that reach its function. docs/mutation.md
judges the survivors.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import libcst as cst
import pandas as pd
from libcst import matchers as m

from tests.conftest import ROOT

FOLDER = ROOT / ".mutants"
PACKAGES = ("model", "training", "inference", "evaluation")
KILLED = {"killed", "timeout", "segfault"}


class Unwrap(cst.CSTTransformer):
    """`@torch.inference_mode()` becomes a block in its function: mutmut skips decorated ones."""

    _OURS = m.Decorator(m.Call(m.Attribute(m.Name("torch"))))

    def leave_FunctionDef(
        self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef
    ) -> cst.FunctionDef:
        """The function without its decorators, if they are torch's."""
        decorators = updated_node.decorators
        if not decorators or not all(m.matches(each, self._OURS) for each in decorators):
            return updated_node
        docstring, *rest = updated_node.body.body
        items = [cst.WithItem(each.decorator) for each in decorators]
        block = cst.With(items=items, body=cst.IndentedBlock(rest))
        body = updated_node.body.with_changes(body=[docstring, block])
        return updated_node.with_changes(decorators=[], body=body)


def copy_tracked_files() -> None:
    """The files that git tracks to `.mutants`, as they are, and ready for mutmut."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().split("\0")[:-1]:
        if (ROOT / name).is_file():
            (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, FOLDER / name)
    for package in PACKAGES:
        for path in (FOLDER / "uar" / package).rglob("*.py"):
            path.write_text(cst.parse_module(path.read_text()).visit(Unwrap()).code)


def sample(each: int, seed: int) -> dict[str, list[str]]:
    """Names of some mutants of each package, and the number of all."""
    from mutmut.configuration import config
    from mutmut.mutation.file_mutation import mutate_file_contents
    from mutmut.utils.format_utils import get_mutant_name

    chosen = {}
    for package in PACKAGES:
        names = [
            get_mutant_name(path, name)
            for path in sorted(Path("uar", package).rglob("*.py"))
            if config().should_mutate(path)
            for name in mutate_file_contents(str(path), path.read_text()).mutant_names
        ]
        print(f"{package}: {len(names)} mutants, {min(each, len(names))} are run", flush=True)
        chosen[package] = random.Random(seed).sample(names, min(each, len(names)))
    return chosen


def write_results(chosen: dict[str, list[str]]) -> None:
    """A row for each mutant to results.csv, what the survivors change to survivors.diff."""
    from mutmut.mutation.diff_apply import find_mutant, get_diff_for_mutant
    from mutmut.stats import status_by_exit_code

    rows, differences = [], []
    for package, names in chosen.items():
        for name in sorted(names):
            found = find_mutant(name)
            status = status_by_exit_code[found.exit_code_by_key[name]]
            rows.append({"package": package, "mutant": name, "status": status})
            if status not in KILLED:
                difference = get_diff_for_mutant(name, path=found.path)
                differences.append(f"# {name}: {status}\n{difference}\n")
    table = pd.DataFrame(rows)
    table.to_csv("results.csv", index=False)
    Path("survivors.diff").write_text("\n".join(differences))
    counts = table.groupby(["package", "status"], sort=False).size().unstack(fill_value=0)
    killed = counts[[status for status in counts if status in KILLED]].sum(axis=1)
    print(counts.assign(score=(killed / counts.sum(axis=1)).round(3)).to_string())


def main() -> None:
    """Copy, draw, run, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=60, help="mutants of each package")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    arguments = parser.parse_args()
    copy_tracked_files()
    os.chdir(FOLDER)
    chosen = sample(arguments.each, arguments.seed)
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", "1"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    names = [name for of_package in chosen.values() for name in of_package]
    subprocess.run([*command, *names], env=environment, check=True)
    write_results(chosen)


if __name__ == "__main__":
    main()
