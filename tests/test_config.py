"""params.yaml, the presets that merge into it, and the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.tools.use import use
from tests.conftest import ROOT, committed, override
from uar.core.errors import UserError
from uar.core.params_file import known_keys, load_params, nearest_key, parse_params

PRESETS = sorted(path.stem for path in (ROOT / "presets").glob("*.yaml"))
STAGES = [
    "ingest",
    "preprocess",
    "vocabulary",
    "dvae",
    "tokenize",
    "train_stage_one",
    "train_stage_two",
    "train_stage_three",
    "evaluate",
]


def leaves(raw: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in raw.items():
        name = prefix + key
        flat |= leaves(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def preset(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "presets" / f"{name}.yaml").read_text())


# Values that no stage should ever see.


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("train.lamda3", 1.0, "train.lamda3: unknown key. Did you mean train.lambda3?"),
        ("lambda3", 1.0, "lambda3: unknown key. Did you mean train.lambda3?"),
        ("lamda3", 1.0, "lamda3: unknown key. Did you mean train.lambda3?"),
        ("dataset.demo.film", 1, "dataset.demo.film: unknown key. Did you mean dataset.demo."),
        ("modle", {}, "modle: unknown key. Did you mean model?"),
        ("qqq", 1, "qqq: unknown key. Remove it."),
        ("train.lambda1", -0.5, "train.lambda1: found -0.5. Input should be greater than or equal"),
        ("train.lambda3", -1, "train.lambda3: found -1. Input should be greater than or"),
        ("train.lambda2", float("nan"), "train.lambda2: found nan. "),
        ("train.lambda2", float("inf"), "train.lambda2: found inf. "),
        ("report.max_length", 0, "report.max_length: found 0. Input should be greater than"),
        ("train.batch_size", "many", "train.batch_size: found 'many'. Input should be a valid int"),
        ("train.stage_one.epochs", 1.5, "train.stage_one.epochs: found 1.5. Input should be a"),
        ("model.lsu", "perhaps", "model.lsu: found 'perhaps'. Input should be a valid boolean"),
        ("train.betas", [0.9], "train.betas.1: missing."),
        ("model.fusion", "gate", "model.fusion: found 'gate'. Input should be 'dual_gate', 'none'"),
        ("train", None, "train: found None. "),
        ("model.heads", 7, "model: d_model 128 is not a multiple of heads 7."),
        ("model.basis_size", 64, "model: basis_size 64 is smaller than d_model 128"),
        ("image.crop", 60, "image.crop: found 60. Input should be a multiple of 8."),
        ("image.crop", 72, "image: crop 72 is larger than size 64."),
        ("dvae.train.crop", 128, "dvae.train.crop 128 exceeds image.size 64."),
        ("train.accumulate", 5, "train: accumulate 5 leaves fewer than two of batch_size 8"),
        ("dvae.codebook_size", 65537, "dvae.codebook_size: found 65537. Input should be less than"),
        ("dvae.source", "openai", "dvae: source openai needs encoder and decoder"),
    ],
)
def test_faulty_value_is_named(
    raw_params: dict[str, Any], key: str, value: Any, found: str
) -> None:
    for known, size in {"image.size": 64, "image.crop": 48, "model.d_model": 128}.items():
        override(raw_params, known, size)
    override(raw_params, key, value)
    with pytest.raises(UserError) as caught:
        parse_params(raw_params, "params.yaml")
    lines = str(caught.value).splitlines()
    assert lines[0] == "params.yaml:"
    assert len(lines) == 2
    assert lines[1].startswith(f"  {found}")


def test_crops_of_a_dvae_that_a_network_teaches_have_whole_cells(
    raw_params: dict[str, Any],
) -> None:
    override(raw_params, "dvae.train.crop", 40)
    assert parse_params(raw_params, "params.yaml").dvae.train.crop == 40
    override(raw_params, "dvae.train.feature_weight", 0.3)
    with pytest.raises(UserError, match="train.crop, now 40, to be a multiple of 16"):
        parse_params(raw_params, "params.yaml")


@pytest.mark.parametrize(
    ("size", "crops", "found"),
    [
        (64, 4, None),
        (64, 5, "tokenize.crops 5 exceeds the 4 windows that tokenize.views grid has"),
        (60, 1, "tokenize.views grid needs image.size, now 60, to be a multiple of 8"),
        (128, 9, None),
        (128, 10, "tokenize.crops 10 exceeds the 9 windows"),
    ],
)
def test_a_grid_has_so_many_windows(
    raw_params: dict[str, Any], size: int, crops: int, found: str | None
) -> None:
    changes: dict[str, Any] = {"image.size": size, "image.crop": 112 if size == 128 else 56}
    changes |= {"dvae.source": "train", "tokenize.views": "grid", "tokenize.crops": crops}
    for key, value in changes.items():
        override(raw_params, key, value)
    if found is None:
        assert parse_params(raw_params, "params.yaml").tokenize.crops == crops
        return
    with pytest.raises(UserError, match=found):
        parse_params(raw_params, "params.yaml")


def test_reports_of_credentialed_data_are_not_handed_on(raw_params: dict[str, Any]) -> None:
    raw_params["dataset"]["name"] = "mimic_cxr"
    with pytest.raises(UserError, match="export.index reports .* mimic_cxr.*: choose none or ids"):
        parse_params(raw_params, "params.yaml")
    for kept in ("none", "ids"):
        raw_params["export"]["index"] = kept
        assert parse_params(raw_params, "params.yaml").export.index == kept


def test_faults_are_listed_together(raw_params: dict[str, Any]) -> None:
    override(raw_params, "train.lambda1", -1)
    override(raw_params, "report.max_length", 0)
    override(raw_params, "train.lamda3", 1)
    del raw_params["decode"]["beam_size"]
    with pytest.raises(UserError) as caught:
        parse_params(raw_params, "params.yaml")
    keys = {line.strip().split(":")[0] for line in str(caught.value).splitlines()[1:]}
    assert keys == {"train.lambda1", "report.max_length", "train.lamda3", "decode.beam_size"}


@pytest.mark.parametrize("basis", ["uniform", "normal"])
def test_only_an_orthogonal_basis_needs_as_many_rows_as_columns(
    raw_params: dict[str, Any], basis: str
) -> None:
    override(raw_params, "model.basis_size", raw_params["model"]["d_model"] - 1)
    override(raw_params, "model.basis", basis)
    assert parse_params(raw_params, "params.yaml").model.basis == basis


def test_nearest_key_leads_from_a_section_to_a_section() -> None:
    assert nearest_key("trian") == "train"
    assert nearest_key("train.stage_on") == "train.stage_one"
    assert nearest_key("model.extractor.weight") == "model.extractor.weights"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, "params.yaml is missing. Run from the project's folder."),
        ("seed: [0", "params.yaml is not valid YAML"),
        ("- seed", "params.yaml holds a list, expected the sections"),
        ("", "params.yaml holds nothing, expected the sections"),
        ("a: " + "[" * 700 + "]" * 700, "params.yaml (is nested too deeply|is not valid YAML)"),
        ("seed: 0\nseed: 1", "params.yaml is not valid YAML: the key seed is given twice"),
        ("train:\n  seed: 0\n  seed: 1", "the key seed is given twice; keep one"),
    ],
)
def test_unreadable_params(tmp_path: Path, content: str | None, found: str) -> None:
    path = tmp_path / "params.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=found):
        load_params(path)


# params.yaml itself.


def test_params_yaml_holds_every_known_key_and_is_valid(raw_params: dict[str, Any]) -> None:
    load_params(ROOT / "params.yaml")
    assert sorted(leaves(raw_params)) == sorted(known_keys())


def test_every_key_of_params_yaml_has_a_comment() -> None:
    sections: list[tuple[int, bool]] = []  # indent, and whether it or one around it has a comment
    bare: list[str] = []
    for line in (ROOT / "params.yaml").read_text().splitlines():
        entry = re.match(r"( *)(\w+):([^#]*)(#.*)?$", line)
        if entry is None:
            assert not line.strip() or line.startswith("#") or line.strip().startswith("- "), line
            continue
        indent, key, value, comment = len(entry[1]), entry[2], entry[3].strip(), entry[4]
        sections = [section for section in sections if section[0] < indent]
        if not value:
            sections.append((indent, bool(comment)))
        elif not comment and not any(commented for _, commented in sections):
            bare.append(key)
    assert bare == []


# Presets.


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the demo's params.yaml, which is returned, and presets; the test runs there."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    monkeypatch.chdir(tmp_path)
    use("demo")  # whatever is set in this checkout
    return tmp_path / "params.yaml"


def comments(path: Path) -> list[str]:
    return re.findall(r"#.*", path.read_text())


def test_the_named_presets_exist() -> None:
    assert {"demo", "demo_dvae", "iu_xray", "iu_xray_small", "mimic_cxr"} <= set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_merges_and_keeps_comments_and_other_keys(project: Path, name: str) -> None:
    before, comments_before = leaves(yaml.safe_load(project.read_text())), comments(project)
    use(name)
    load_params(project)
    assert leaves(yaml.safe_load(project.read_text())) == before | leaves(preset(name))
    assert comments(project) == comments_before
    assert [path.name for path in project.parent.iterdir() if "partial" in path.name] == []


def test_presets_name_the_same_keys() -> None:
    """So that switching between presets leaves nothing of the former behind."""
    keys = {name: sorted(leaves(preset(name))) for name in PRESETS}
    assert keys == {name: keys["demo"] for name in PRESETS}


@pytest.mark.parametrize("name", PRESETS)
def test_preset_says_what_it_is(name: str) -> None:
    assert (ROOT / "presets" / f"{name}.yaml").read_text().startswith("# ")


def test_params_yaml_is_the_demo_preset() -> None:
    """As committed: in a checkout its values are the user's."""
    values, demo = (
        leaves(yaml.safe_load(committed(path))) for path in ("params.yaml", "presets/demo.yaml")
    )
    assert demo == {key: values[key] for key in demo}


def test_full_size_presets_are_the_papers() -> None:
    for name, batch_size, max_length, min_count in (
        ("iu_xray", 16, 60, 3),
        ("mimic_cxr", 64, 100, 11),
    ):
        values = leaves(preset(name))
        model = [values[f"model.{key}"] for key in ("d_model", "heads", "d_ff", "dropout")]
        assert model == [512, 8, 2048, 0.1]
        assert values["model.encoder_layers"] == values["model.decoder_layers"] == 3
        assert (values["image.size"], values["image.crop"]) == (128, 112)
        assert (values["dvae.codebook_size"], values["dvae.hidden"]) == (8192, 256)
        assert values["train.batch_size"] == batch_size
        assert values["report.max_length"] == max_length
        assert values["vocabulary.min_count"] == min_count
        assert values["train.smoothness"] == 0  # the hardest negative
        assert (values["train.mask_reduction"], values["train.mask_learning_rate"]) == ("sum", None)
        assert values["train.stage_two.learning_rate"] == pytest.approx(
            values["train.stage_one.learning_rate"] / 10
        )


def test_switching_there_and_back_restores_every_byte(project: Path) -> None:
    before = project.read_bytes()
    use("iu_xray_small")
    assert project.read_bytes() != before
    use("demo")
    assert project.read_bytes() == before


def test_switching_through_every_preset_restores_every_byte(project: Path) -> None:
    """Also the columns of comments that long values had moved."""
    before = project.read_bytes()
    for name in [*PRESETS, "demo"]:
        use(name)
        assert load_params(project).dataset.name in name
    assert project.read_bytes() == before


def test_same_preset_twice_changes_nothing_more(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    use("iu_xray")
    once = project.read_bytes()
    assert "dataset.name: demo -> iu_xray" in caplog.text
    assert "dvae.encoder: null -> models/openai/encoder.pkl" in caplog.text
    use("iu_xray")
    assert project.read_bytes() == once
    assert "iu_xray (0 keys changed)" in caplog.text


def test_root_option_names_the_raw_folder(project: Path, tmp_path: Path) -> None:
    root = tmp_path / "chest x-rays #1"
    root.mkdir()
    (root / "annotation.json").touch()
    use("iu_xray_small", root=root)
    params = load_params(project)
    assert params.dataset.root == root
    assert params.dataset.name == "iu_xray"


def test_a_relative_root_is_found_from_a_copy_of_the_project(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As DVC makes one for `dvc exp run --temp` and `--queue`."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/annotation.json").touch()
    use("iu_xray_small", root=Path("raw"))
    copy = tmp_path / "elsewhere/copy"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    assert (load_params(project).dataset.root / "annotation.json").is_file()
    assert load_params(project).dataset.root == tmp_path / "raw"


def test_layout_option_names_the_layout(project: Path, tmp_path: Path) -> None:
    (tmp_path / "ecgen-radiology").mkdir()
    (tmp_path / "annotation.json").touch()
    use("iu_xray", root=tmp_path, layout="openi")
    params = load_params(project)
    assert (params.dataset.name, params.dataset.layout) == ("iu_xray", "openi")
    use("mimic_cxr")
    dataset = load_params(project).dataset
    assert (dataset.layout, dataset.split) == ("physionet", "official")
    use("mimic_cxr", root=tmp_path, layout="r2gen")  # that has its own split alone
    dataset = load_params(project).dataset
    assert (dataset.layout, dataset.split) == ("r2gen", "r2gen")


@pytest.mark.parametrize(
    ("name", "root", "layout", "message"),
    [
        (
            "iu_xray_small",
            "nowhere",
            None,
            "nowhere. Unpack the data set there, or name its folder with "
            "`python -m pipeline use PRESET --root FOLDER`.",
        ),
        (
            "iu_xray",
            "held",
            "opeani",
            "dataset.layout: found 'opeani', expected one of ['kaggle', 'openi', 'r2gen'] for "
            "iu_xray.",
        ),
        ("iu_xray", None, "openi", "dataset.root: there is no folder data/raw/iu_xray."),
        ("iu_xray", "held", "openi", "This looks like dataset.name: iu_xray with dataset.layout: "),
        (
            "mimic_cxr",
            "held",
            None,
            "This looks like dataset.name: mimic_cxr with dataset.layout: r2gen.",
        ),
        ("iu_xray", "physionet", None, "dataset.name: mimic_cxr with dataset.layout: physionet."),
        (
            "mimic_cxr",
            "iu",
            None,
            "This looks like dataset.name: iu_xray with dataset.layout: r2gen.",
        ),
        (
            "mimic_cxr",
            "iu",
            "r2gen",
            "iu/annotation.json is of iu_xray, judging by its first film CXR1_IM-0001/0.png; "
            "dataset.name: found mimic_cxr.",
        ),
        (
            "iu_xray_small",
            "mimic",
            None,
            "mimic/annotation.json is of mimic_cxr, judging by its first film p1",
        ),
        ("iu_xray", "mimic", "kaggle", "dataset.name: mimic_cxr with dataset.layout: r2gen."),
    ],
)
def test_a_root_or_layout_that_does_not_fit_is_refused_at_once(
    project: Path, name: str, root: str | None, layout: str | None, message: str
) -> None:
    Path("held").mkdir()
    Path("held/annotation.json").touch()
    Path("physionet").mkdir()
    Path("physionet/mimic-cxr-2.0.0-split.csv").touch()
    for held, film in (
        ("iu", "CXR1_IM-0001/0.png"),
        ("mimic", "p10/p10000032/s50414267/02aa804e.jpg"),
    ):
        Path(held).mkdir()
        record = {"id": "a", "report": "x", "image_path": [film], "split": "train"}
        Path(held, "annotation.json").write_text(json.dumps({"train": [record]}))
    before = project.read_bytes()
    with pytest.raises(UserError) as caught:
        use(name, root=None if root is None else Path(root), layout=layout)
    assert message in str(caught.value)
    assert str(caught.value).count("This looks like") <= 1
    assert project.read_bytes() == before


def test_a_presets_own_root_may_come_later(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    use("iu_xray_small")
    assert "put the data set into data/raw/iu_xray" in caplog.text
    assert "`python -m pipeline use iu_xray_small --root FOLDER`" in caplog.text
    caplog.clear()
    use("demo")
    assert "Next: dvc repro" in caplog.text


def test_use_says_what_the_preset_is(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    use("iu_xray")
    assert "the paper's model and settings" in caplog.text
    assert "TIR is as printed, and so has no effect" in caplog.text


def test_hand_edits_of_other_keys_stay(project: Path) -> None:
    project.write_text(project.read_text().replace("seed: 0 ", "seed: 5 "))
    use("iu_xray_small")
    assert load_params(project).seed == 5


def test_unknown_preset_names_the_existing_ones(project: Path) -> None:
    before = project.read_bytes()
    with pytest.raises(UserError) as caught:
        use("iu_xry")
    assert str(caught.value) == (
        f"no preset 'iu_xry' in presets/; available: {', '.join(PRESETS)}."
    )
    assert project.read_bytes() == before


def test_preset_with_a_faulty_key_leaves_params_yaml_alone(project: Path) -> None:
    before = project.read_bytes()
    Path("presets/wrong.yaml").write_text("train:\n  lamda3: 1.0\n")
    with pytest.raises(UserError) as caught:
        use("wrong")
    assert str(caught.value).startswith("params.yaml with presets/wrong.yaml:")
    assert "Did you mean train.lambda3?" in str(caught.value)
    assert project.read_bytes() == before


# The command line.


def test_help_lists_the_stages_in_order() -> None:
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120", "NO_COLOR": "1"})
    assert result.exit_code == 0, result.output
    listed = re.findall(r"^\W*([a-z_]+)  ", result.output, flags=re.MULTILINE)
    assert [name for name in listed if name in STAGES] == STAGES
    assert "use" in listed


def test_user_error_ends_without_a_traceback(project: Path) -> None:
    project.write_text(project.read_text().replace("  lambda3:", "  lamda3:"))
    result = subprocess.run(
        [sys.executable, "-m", "pipeline", "ingest"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error: params.yaml:\n")
    assert "train.lamda3: unknown key. Did you mean train.lambda3?" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def run_use(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "use", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_uses_at_once_leave_one_of_their_files(project: Path) -> None:
    """The second is refused, or comes after the first."""
    texts = set()
    for name in ("demo", "iu_xray"):
        use(name)
        texts.add(project.read_text())
    running = [run_use(name) for name in ("demo", "iu_xray")]
    said = [process.communicate(timeout=120)[1] for process in running]
    assert project.read_text() in texts
    for process, error in zip(running, said, strict=True):
        assert "Traceback" not in error
        assert process.returncode == 0 or "use is already running in this folder" in error
    assert 0 in [process.returncode for process in running]


def test_use_reads_and_writes_utf8_whatever_the_locale(project: Path) -> None:
    project.write_text(project.read_text().replace("# ", "# λ ", 1))
    running = run_use("iu_xray", PYTHONUTF8="0", LC_ALL="POSIX", PYTHONCOERCECLOCALE="0")
    _, error = running.communicate(timeout=120)
    assert (running.returncode, "Traceback" in error) == (0, False)
    assert "λ" in project.read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["a folder", "a loop", "a key twice", "nested"])
def test_a_params_yaml_that_cannot_be_read_is_one_sentence(project: Path, kind: str) -> None:
    project.unlink()
    if kind == "a folder":
        project.mkdir()
    elif kind == "a loop":
        project.symlink_to(project)
    else:
        project.write_text("a: 1\na: 2" if kind == "a key twice" else "[" * 700)
    for command in (["use", "demo"], ["vocabulary"]):
        result = CliRunner().invoke(app, command)
        assert isinstance(result.exception, UserError)
        assert "params.yaml" in str(result.exception)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocols": ["coco"]}, r"r2gen is missing from \['coco'\]: it is always computed"),
        ({"protocols": ["r2gen", "roco"]}, "evaluate.protocols"),
    ],
)
def test_what_evaluate_computes_is_asked_for_in_one_place(
    raw_params: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    raw_params["evaluate"] |= changes
    with pytest.raises(UserError, match=message):
        parse_params(raw_params, "params.yaml")
