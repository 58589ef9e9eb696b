"""`arithmetic: portable`: what is set, when it cannot be, and the kernels that it replaces."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from pipeline.provenance import stages
from pipeline.stages import evaluate
from pipeline.tools import checksum
from tests import portable
from tests.conftest import ROOT
from uar.bundle.manifest import arithmetic_of
from uar.core import kernels
from uar.core.arithmetic import PORTABLE, set_up, unsupported
from uar.core.errors import UserError
from uar.core.params_file import parse_params

SUPPORTED = unsupported() is None
needs_avx2 = pytest.mark.skipif(not SUPPORTED, reason=str(unsupported()))
TEXT_ALONE = {"preprocess", "vocabulary"}


def fresh(code: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python in a process that has loaded nothing, in an environment without our settings."""
    inherited = {key: value for key, value in os.environ.items() if key not in PORTABLE}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )


# ---- settings


@needs_avx2
def test_portable_is_set_before_libraries_are_loaded() -> None:
    code = (
        "import os, json\n"
        "from uar.core.arithmetic import PORTABLE, set_up\n"
        "assert set_up(os.environ, 'portable', 2) is None\n"
        "import torch, numpy\n"
        "features = numpy._core._multiarray_umath.__cpu_features__\n"
        "print(json.dumps([torch.backends.cpu.get_cpu_capability(), torch.get_num_threads(),\n"
        "  features['AVX512F'] and features['AVX512_ICL'],\n"
        "  {name: os.environ[name] for name in PORTABLE}]))"
    )
    done = fresh(code, OPENBLAS_CORETYPE="Prescott", MKL_CBWR="AVX2", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["AVX2", 2, False, PORTABLE]


def test_native_leaves_everything_as_it_was() -> None:
    environment = {"MKL_CBWR": "AVX2"}
    assert set_up(environment, "native", None) is None
    assert environment == {"MKL_CBWR": "AVX2"}


@needs_avx2
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_it_is_refused_where_a_library_has_been_loaded_otherwise(library: str) -> None:
    done = fresh(
        f"import os, {library}\nfrom uar.core.arithmetic import set_up\n"
        "before = dict(os.environ)\n"
        "print(set_up(os.environ, 'portable', None)); assert os.environ == before"
    )
    assert done.returncode == 0, done.stderr
    assert f"{library} had been loaded with settings other than those" in done.stdout


@pytest.mark.parametrize(
    ("system", "machine", "flags", "named"),
    [
        ("linux", "aarch64", "", "Linux on aarch64"),
        ("darwin", "x86_64", "", "on x86_64"),
        ("linux", "x86_64", "flags : fpu sse2 avx", "a CPU without avx2 and fma"),
        ("linux", "x86_64", "flags : avx2 sse2", "a CPU without fma"),
        ("linux", "x86_64", "flags : avx2x fma", "a CPU without avx2"),
        ("linux", "x86_64", "", "a CPU without avx2 and fma"),
        ("linux", "x86_64", "model : 1\nflags\t: fma sse2 avx2\nbugs : x", None),
    ],
)
def test_what_a_machine_lacks_is_named(
    system: str, machine: str, flags: str, named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "system", lambda: "Linux" if system == "linux" else "Darwin")
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: flags)
    reason = unsupported()
    if named is None:
        assert reason is None
    else:
        assert named in str(reason)
        environment: dict[str, str] = {}
        assert set_up(environment, "portable", None) == reason
        assert environment == {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"threads": None}, "arithmetic portable needs a number of threads"),
        ({"train": {"compile": True}}, "train.compile true compiles for this CPU"),
        ({"arithmetic": "fast"}, "arithmetic"),
    ],
)
def test_what_cannot_be_portable_is_refused(
    changes: dict[str, Any], said: str, raw_params: dict[str, Any]
) -> None:
    raw_params["arithmetic"] = "portable"
    for key, value in changes.items():
        raw_params[key] = {**raw_params[key], **value} if isinstance(value, dict) else value
    with pytest.raises(UserError, match=said):
        parse_params(raw_params, "x")
    if changes.get("arithmetic") is None:
        assert parse_params({**raw_params, "arithmetic": "native"}, "x").arithmetic == "native"


# ---- stages


def test_every_stage_that_computes_depends_on_it() -> None:
    without = {name for name, stage in stages().items() if "arithmetic" not in stage.params}
    assert without == TEXT_ALONE
    for name, stage in stages().items():
        code = {"uar/core/arithmetic.py", "uar/core/kernels.py"} & set(map(str, stage.code))
        assert len(code) == (0 if name in TEXT_ALONE else 2), name


@needs_avx2
@pytest.mark.parametrize("name", ["dvae", "probe", "evaluate"])
def test_a_stage_computes_portably(name: str, tmp_path: Path) -> None:
    """Each has loaded torch when it begins, so that none brings its own kernels later."""
    text = (
        (ROOT / "params.yaml").read_text().replace("\narithmetic: native", "\narithmetic: portable")
    )
    (tmp_path / "params.yaml").write_text(text)
    done = fresh(
        f"from pipeline.__main__ import load_command\nload_command({name!r})\n"
        "import sys; assert 'torch' in sys.modules\n"
        "import torch; print(torch.backends.cpu.get_cpu_capability())",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "AVX2"


@needs_avx2
def test_a_stage_refuses_another_arithmetic_than_params_yaml_says(tmp_path: Path) -> None:
    text = (
        (ROOT / "params.yaml").read_text().replace("\narithmetic: native", "\narithmetic: portable")
    )
    (tmp_path / "params.yaml").write_text(text)
    code = (
        "{}from pipeline.__main__ import app\nfrom uar.core.errors import UserError\n"
        "try: app(['vocabulary'], standalone_mode=False)\n"
        "except UserError as error: print(error)"
    )
    assert (
        "numpy and torch had been loaded" in fresh(code.format("import torch\n"), tmp_path).stdout
    )
    said = fresh(code.format(""), tmp_path).stdout
    assert "loaded" not in said
    assert "reports.parquet" in said  # the next thing that is amiss


def test_a_signature_says_portable_of_a_cpu_alone(
    raw_params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "resolve_device", torch.device)

    def text(arithmetic: str, device: str) -> str:
        given = {**raw_params, "arithmetic": arithmetic, "device": device}
        return evaluate.setup_of(parse_params(given, "x")).text

    assert text("portable", "cpu") == text("native", "cpu") + ",arithmetic:portable"
    assert text("portable", "cuda") == text("native", "cuda") == text("native", "cpu")


# ---- kernels


def plain(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """What elementwise torch makes of a product in float64."""
    a, b = (x.double().unsqueeze(at) for x, at in zip(tensors, (-1, -3), strict=True))
    return (a * b).sum(-2)


def test_the_kernels_are_in_place() -> None:
    if SUPPORTED:
        assert kernels._replaced


SHAPES = [((5, 7), (7, 3)), ((1, 7), (7, 1)), ((0, 7), (7, 3)), ((5, 0), (0, 3)),
          ((2, 5, 7), (2, 7, 3)), ((3, 2, 5, 7), (7, 3)), ((3, 1, 5, 7), (4, 7, 3))]  # fmt: skip


@pytest.mark.parametrize(("left", "right"), SHAPES)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_products(left: tuple[int, ...], right: tuple[int, ...], kind: torch.dtype) -> None:
    a, b = torch.randn(left).to(kind), torch.randn(right).to(kind)
    found = a @ b
    assert found.dtype == kind
    wanted = plain(torch.matmul, a, b).to(kind)
    torch.testing.assert_close(
        found, wanted, rtol=1.6e-2 if kind == torch.bfloat16 else 2e-3, atol=2e-3
    )
    if kind == torch.float64:
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.mT.contiguous().mT,
        lambda x: torch.stack([x, x], -1)[..., 0],
        lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
        lambda x: x[:1].expand(4, -1, -1),
        lambda x: x.flip(0),
    ],
)
def test_products_of_views(view: Callable[[Tensor], Tensor]) -> None:
    a, b = view(torch.randn(4, 6, 5)), view(torch.randn(4, 5, 8))
    torch.testing.assert_close(a @ b, plain(torch.matmul, a, b).float())


def test_sums_with_products() -> None:
    a, b, bias = torch.randn(5, 7), torch.randn(7, 3), torch.randn(3)
    product = plain(torch.matmul, a, b).float()
    torch.testing.assert_close(torch.addmm(bias, a, b), product + bias)
    torch.testing.assert_close(torch.addmm(bias, a, b, beta=0.5, alpha=2), 2 * product + 0.5 * bias)
    unread = torch.full((3,), float("nan"))
    torch.testing.assert_close(torch.addmm(unread, a, b, beta=0), product)
    torch.testing.assert_close(
        torch.baddbmm(bias, a.expand(2, -1, -1), b.expand(2, -1, -1)),
        (product + bias).expand(2, -1, -1),
    )


def test_whole_numbers_are_multiplied_exactly() -> None:
    a = torch.randint(-99, 99, (5, 7))
    assert torch.equal(a @ a.T, (a.unsqueeze(1) * a).sum(-1))


def test_gradients_pass_through_the_kernels() -> None:
    a, b, bias = (torch.randn(*s, dtype=torch.float64, requires_grad=True)
                  for s in ((5, 7), (7, 3), (3,)))  # fmt: skip
    assert gradcheck(lambda a, b, c: torch.addmm(c, a, b, beta=0.5, alpha=2), (a, b, bias))
    assert gradcheck(lambda a, b: torch.einsum("ik,kj->ji", a, b), (a, b))
    assert gradcheck(lambda a: (a.square() + 1).sqrt(), (a,))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_square_roots_are_rounded_to_the_nearest(kind: torch.dtype) -> None:
    x = torch.arange(1, 5000).to(kind)
    exact = torch.tensor([math.sqrt(value) for value in range(1, 5000)], dtype=torch.float64)
    exact = exact if kind != torch.bfloat16 else x.double().apply_(math.sqrt)
    wanted = exact.to(kind if kind.is_floating_point else torch.get_default_dtype())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(x.sqrt(), wanted)
        assert torch.tensor(4.0).sqrt().shape == ()
        assert torch.tensor([-1.0, 0.0]).sqrt().isnan().tolist() == [True, False]


# ---- bundles


def bundle_that_says(path: Path, provenance: Any) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", json.dumps({"provenance": provenance}))
    return path


@pytest.mark.parametrize(
    ("provenance", "found"),
    [
        ({"arithmetic": "portable", "threads": 3}, ("portable", 3)),
        ({"arithmetic": "native", "threads": None}, ("native", None)),
        ({"dataset": "demo"}, ("native", None)),
        ([], ("native", None)),
    ],
)
def test_a_bundle_says_how_it_was_made(
    provenance: Any, found: tuple[str, int | None], tmp_path: Path
) -> None:
    assert arithmetic_of(bundle_that_says(tmp_path / "b", provenance)) == found


def test_of_no_bundle_nothing_is_known(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("no archive")
    assert arithmetic_of(tmp_path / "b") == arithmetic_of(tmp_path / "none") == ("native", None)


@needs_avx2
def test_a_bundle_is_opened_with_its_arithmetic(tmp_path: Path) -> None:
    bundle_that_says(tmp_path / "b", {"arithmetic": "portable", "threads": 1})
    code = (
        "{}import uar\nfrom uar.core.errors import UserError\n"
        "try: uar.load('b', {!r})\n"
        "except UserError: import torch; print(torch.backends.cpu.get_cpu_capability())"
    )
    done = fresh(code.format("", "auto"), tmp_path)
    assert done.stdout.strip() == "AVX2", done.stderr
    assert "loaded with settings other than" not in done.stderr
    marked = "import sys; print('now on the CPU', file=sys.stderr)\n"
    late = fresh(
        code.format("import torch\n", "cuda") + "\n" + marked + code.format("", "cpu"), tmp_path
    )
    elsewhere, here = late.stderr.split("now on the CPU")
    assert "loaded with settings other than" not in elsewhere
    assert "numpy and torch had been loaded with settings other than those" in here


# ---- the recorded pieces and the table of CPUs


@needs_avx2
def test_this_machine_computes_what_was_recorded() -> None:
    assert checksum.differing() == []


def test_a_library_that_differs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = json.dumps({**checksum.RECORDED, "MKL": "0" * 12})
    done = subprocess.CompletedProcess([], 0, computed)
    monkeypatch.setattr(checksum.subprocess, "run", lambda *_, **__: done)
    assert checksum.differing() == ["MKL"]


def test_every_piece_is_recorded() -> None:
    assert list(checksum.RECORDED) == list(checksum.PIECES)


def test_the_table_says_which_stage_differs(capsys: pytest.CaptureFixture[str]) -> None:
    def of(last: str) -> dict[str, dict[str, str]]:
        return {"dvae": {"encoder": "a1", "decoder": "a2"}, "probe": {"probe.csv": last}}

    assert portable.compare({portable.HERE: of("b"), "EPYC": of("b")}, "portable") == 0
    said = capsys.readouterr().out
    assert "2 of 2 stages" in said
    assert "not equal" not in said
    made = {portable.HERE: of("b"), "Haswell": of("b"), "EPYC": of("c")}
    assert portable.compare(made, "portable") == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1] for line in lines if "not equal" in line] == ["probe.csv"]
    assert "1 of 2 stages" in lines[-1]
