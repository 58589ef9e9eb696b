"""Every command of the pages exists, with these options and parameters, and is run by some test."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
from dvc.cli.parser import get_main_parser
from dvc.utils.hydra import apply_overrides

from pipeline.__main__ import COMMANDS, load_command
from tests.conftest import ROOT
from tests.test_documents import PAGES
from uar.command import app as uar_app
from uar.core.config import Params
from uar.core.params_file import known_keys, load_params

# Where a command is run: a test file, or why no test does.
LONG = "a whole run of minutes, which is recorded in dvc.lock or results/"
CI = ".ci/run"
TOLD = "told of, not to be typed"
RUN_BY = {
    "pipeline ablate": "test_ablations.py",
    "pipeline check_labeller": "test_clinical.py",
    "pipeline compare": "test_results.py",
    "pipeline doctor": "test_doctor.py",
    "pipeline export_predictions": "test_formats.py",
    "pipeline layout": "test_layout.py",
    "pipeline push": "test_push.py",
    "pipeline score": "test_formats.py",
    "pipeline tune": "test_pipeline.py",
    "pipeline use": "test_config.py",
    **{
        f"pipeline {stage}": "test_pipeline.py"
        for stage in (
            "ingest",
            "tokenize",
            "probe",
            "train_stage_one",
            "train_stage_two",
            "train_stage_three",
        )
    },
    "dvc checkout": "test_undo.py",
    "dvc commit": "test_remote.py",
    "dvc exp apply": "test_undo.py",
    "dvc exp remove": "test_undo.py",
    "dvc exp run": "test_shared_tokens.py",
    "dvc exp show": "test_exp_show.py",
    "dvc gc": TOLD,
    "dvc get": "test_undo.py",
    "dvc metrics diff": "test_exp_show.py",
    "dvc plots": "test_remote.py",
    "dvc pull": "test_remote.py",
    "dvc push": "test_remote.py",
    "dvc queue": "test_exp_show.py",
    "dvc remote add": "test_remote.py",
    "dvc remote modify": "test_shared_tokens.py",
    "dvc repro": "test_shared_tokens.py",
    "dvc status": "test_undo.py",
    "uar report": "test_bundle.py",
    "uar serve": "test_web.py",
    "make bench": LONG,
    "make docs": CI,
    "make faults": CI,
    "make lint": CI,
    "make mutants": LONG,
    "make portable": LONG,
    "make repro": LONG,
    "make show": "test_exp_show.py",
    "make test": CI,
    "make venv": CI,
    "benchmarks.arithmetic": LONG,
    "benchmarks.cra": LONG,
    "benchmarks.level": LONG,
    "benchmarks.likeness": LONG,
    "benchmarks.profile": LONG,
    "benchmarks.r2gen": LONG,
    "benchmarks.same_words": LONG,
    "benchmarks.scale": "test_benchmarks.py",
    "benchmarks.views": LONG,
}
NAMES = [n for packages in COMMANDS.values() for names in packages.values() for n in names]
SHELL = {"source", "cp", "cd", "git", "pip", "cat", "for", "break", "done", ".ci/run"}
DVC_WORDS = {"exp": 2, "metrics": 2, "remote": 2}  # words of a command's name
_BLOCK = re.compile(r"```sh\n(.*?)```", flags=re.DOTALL)
_INLINE = re.compile(r"`((?:python -m|dvc|make|uar) [^`\n]+)`")


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command in a page's blocks and sentences, without comments."""
    blocks = "".join(_BLOCK.findall(text)).replace("\\\n", " ")
    for line in [*blocks.splitlines(), *_INLINE.findall(text)]:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.wordchars += ":$,[]@=…"
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in (";", "&&", "||", "|"):
                if words:
                    yield words
                words = []
            elif word != "do":
                words.append(word)


TEXTS = {
    str(page.relative_to(ROOT)): page.read_text(encoding="utf-8")
    for page in PAGES
    if page.name != "CHANGELOG.md"  # which tells of what was
}
PAGE_COMMANDS = sorted(
    {(page, " ".join(words)): words for page in TEXTS for words in commands(TEXTS[page])}.items()
)


def options_of_pipeline(arguments: Sequence[str]) -> str:
    """Parse a command of the pipeline without running it; its name."""
    name, *rest = ["train_stage_one" if word == "$stage" else word for word in arguments]
    if name.isupper() or name == "--help":  # COMMAND, STAGE: any
        return ""
    assert name in NAMES, f"no command {name}"
    if rest:  # without arguments it is only named
        load_command(name).make_context(name, rest)
    return f"pipeline {name}"


def name_of(words: Sequence[str]) -> str:
    """Check that a command exists with its options; its name, "" for one of the shell's."""
    words = list(words)
    if words[0] in ("torchrun", "srun"):
        at = words.index("-m")
        return options_of_pipeline(words[at + 2 :])
    if words[:2] == ["python", "-m"]:
        module, *rest = words[2:]
        if module == "pipeline":
            return options_of_pipeline(rest)
        assert find_spec(module), f"no module {module}"
        return module if module.startswith("benchmarks") else ""
    if words[0] == "uar" and words[1].isalpha():
        command = typer.main.get_command(uar_app).get_command(None, words[1])  # type: ignore
        assert command, f"no command uar {words[1]}"
        if words[2:]:  # without arguments it is only named
            command.make_context(words[1], words[2:])
        return f"uar {words[1]}"
    if words[0] == "dvc":
        if len(words) == 2 and not words[1].isalpha():
            return ""
        get_main_parser().parse_args(words[1:])
        return " ".join(words[: 1 + DVC_WORDS.get(words[1], 1)])
    if words[0] == "make":
        targets = [word for word in words[1:] if "=" not in word]
        rules = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert set(targets) <= set(rules)
        return f"make {targets[0]}" if targets else ""
    assert words[0] in SHELL, f"{words[0]} is no command that a page names"
    return ""


@pytest.mark.parametrize("words", [pytest.param(w, id=": ".join(i)) for i, w in PAGE_COMMANDS])
def test_a_documented_command_exists_with_its_options(words: list[str]) -> None:
    name_of(words)


def test_documented_commands_are_run_by_a_test() -> None:
    """Those of blocks and of sentences."""
    names = {name_of(words) for text in TEXTS.values() for words in commands(text)} - {""}
    assert sorted(names - set(RUN_BY)) == []
    for name in names:
        if RUN_BY[name] not in (LONG, CI, TOLD):
            test = (ROOT / "tests" / RUN_BY[name]).read_text(encoding="utf-8")
            assert re.split("[ .]", name)[-1] in test, f"{RUN_BY[name]} does not name {name}"


def value_of(path: Path, key: str) -> Any:
    value: Any = load_params(path)
    for part in key.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize(
    ("page", "override"),
    sorted(
        {
            (page, override.rstrip("'"))
            for page, text in TEXTS.items()
            for override in re.findall(r"(?:-S|--set) '?([\w.]+=[^\s`,]+(?:,[^\s`]+\])?)", text)
            if not override.startswith("section.")
        }
    ),
)
def test_a_documented_override_is_of_a_key(page: str, override: str, tmp_path: Path) -> None:
    """And where a command of README is typed first, it changes something."""
    key = override.split("=")[0]
    assert key in known_keys(), f"{page}: {override}"
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())
    before = value_of(path, key)
    if "..." in override:
        return
    apply_overrides(path, [override])
    if any(override in block for block in _BLOCK.findall(TEXTS["README.md"])):
        assert value_of(path, key) != before, f"{override} is today's value"


def test_pages_name_no_parameter_that_is_gone() -> None:
    keys = known_keys()
    held = {".".join(key.split(".")[:n]) for key in keys for n in range(1, 5)}
    gone = [
        f"{page}: {named}"
        for page, text in TEXTS.items()
        for named in re.findall(r"`([a-z]\w*(?:\.\w+)+)(?:[:=][^`]*)?`", text)
        if named.split(".")[0] in Params.model_fields and named not in held and named != "model.uar"
    ]
    assert gone == []


def test_a_wrong_option_or_target_would_be_found() -> None:
    with pytest.raises(Exception, match="sedes"):
        name_of(["python", "-m", "pipeline", "ablate", "table2", "--sedes", "3"])
    with pytest.raises(AssertionError):
        name_of(["make", "everything"])
    with pytest.raises(Exception):  # noqa: B017 - DVC's own, which it prints
        name_of(["dvc", "exp", "runn"])
