"""Mutants of the model, training, inference and evaluation, and which of them no test notices.

python -m tests.mutants [PACKAGE ...] [--each 40] [--seed 0]

mutmut makes and runs them in copies of the tracked files, `.mutants/PACKAGE`: a random sample of
each package's, with those of its tests that reach the changed function. results.csv and
survivors.diff are written there; docs/mutation.md discusses the survivors.
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
WRITING = "training.py::test_validation_and_evaluation_write_as_decode_says"
TESTS = {  # of each package
    "model": [
        *("equations.py", "decoding.py", "missing_view.py", "looking.py", "weights.py"),
        *("autocast.py", "ensemble.py", "extractor.py", "distilled.py"),
        "self_critical.py::test_several_reports_of_a_study_are_read_as_studies_of_their_own",
    ],
    "training": [
        *("training.py", "self_critical.py", "looking.py", "equations.py", "extractor.py"),
        *("regularisation.py", "ensemble.py", "speed.py"),
    ],
    "inference": [
        *("inference.py", "decoding.py", "missing_view.py", "choice.py", "judge.py", "probe.py"),
        *("ensemble.py", WRITING),
    ],
    "evaluation": [
        *("metrics.py", "clinical.py", "baselines.py", "bootstrap.py", "formats.py", "summary.py"),
        *("calibration.py", "crossed.py", "choice.py", "judge.py", "looking.py", "radeval.py"),
        *("self_critical.py", "tables_and_files.py", "certainty.py"),
    ],
}
KILLED = {"killed", "timeout", "segfault"}


class Unwrap(cst.CSTTransformer):
    """Turn `@torch.inference_mode()` into a block: mutmut skips decorated functions."""

    _OURS = m.Decorator(m.Call(m.Attribute(m.Name("torch"))))

    def leave_FunctionDef(
        self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef
    ) -> cst.FunctionDef:
        """The function without its decorators, if they are torch's."""
        decorators = updated_node.decorators
        if not decorators or not all(m.matches(each, self._OURS) for each in decorators):
            return updated_node
        first = int(updated_node.get_docstring() is not None)
        docstring, rest = updated_node.body.body[:first], updated_node.body.body[first:]
        items = [cst.WithItem(each.decorator) for each in decorators]
        block = cst.With(items=items, body=cst.IndentedBlock(rest))
        body = updated_node.body.with_changes(body=[*docstring, block])
        return updated_node.with_changes(decorators=[], body=body)


def copy_tracked_files(package: str) -> None:
    """Copy the files that git tracks to the folder of `package`, and prepare it for mutmut."""
    folder = FOLDER / package
    shutil.rmtree(folder, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().split("\0")[:-1]:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    for path in (folder / "uar" / package).rglob("*.py"):
        path.write_text(cst.parse_module(path.read_text()).visit(Unwrap()).code)
    tests = [f"tests/test_{name}" for name in TESTS[package]]
    with (folder / "pyproject.toml").open("a") as file:  # [tool.mutmut] is its last section
        file.write(f'only_mutate = ["uar/{package}/*"]\n')
        file.write(f"pytest_add_cli_args_test_selection = {tests}\n")


def sample(each: int, seed: int) -> list[str]:
    """Draw names of mutants of the package whose folder is the current one."""
    from mutmut.configuration import config, reset_config
    from mutmut.mutation.file_mutation import mutate_file_contents
    from mutmut.utils.format_utils import get_mutant_name

    reset_config()
    names = [
        get_mutant_name(path, name)
        for path in sorted(Path("uar").rglob("*.py"))
        if config().should_mutate(path)
        for name in mutate_file_contents(str(path), path.read_text()).mutant_names
    ]
    each = min(each, len(names))
    print(f"{Path().resolve().name}: {len(names)} mutants, {each} are run", flush=True)
    return random.Random(seed).sample(names, each)


def write_results(names: list[str]) -> None:
    """Write a row for each mutant to results.csv, and the survivors' changes to survivors.diff."""
    from mutmut.mutation.diff_apply import find_mutant, get_diff_for_mutant
    from mutmut.stats import status_by_exit_code

    rows, differences = [], []
    for name in sorted(names):
        found = find_mutant(name)
        status = status_by_exit_code[found.exit_code_by_key[name]]
        rows.append({"mutant": name, "status": status})
        if status not in KILLED:
            difference = get_diff_for_mutant(name, path=found.path)
            differences.append(f"# {name}: {status}\n{difference}\n")
    table = pd.DataFrame(rows)
    table.to_csv("results.csv", index=False)
    Path("survivors.diff").write_text("\n".join(differences))
    killed = table["status"].isin(KILLED)
    print(f"{killed.sum()} of {len(table)} killed; others: {table[~killed]['status'].to_list()}")


def main() -> None:
    """Copy, draw, run, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", nargs="*", default=list(TESTS))
    parser.add_argument("--each", type=int, default=40, help="mutants of each package")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    arguments = parser.parse_args()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    for package in arguments.packages:
        copy_tracked_files(package)
        os.chdir(FOLDER / package)
        names = sample(arguments.each, arguments.seed)
        command = [sys.executable, "-m", "mutmut", "run", "--max-children", "1", *names]
        subprocess.run(command, env=environment, check=True)
        write_results(names)


if __name__ == "__main__":
    main()
