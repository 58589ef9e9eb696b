"""Devices that are asked for."""

from __future__ import annotations

import pytest
import torch
from typer.testing import CliRunner

from uar.command import app as uar_app
from uar.core.device import resolve_device
from uar.core.errors import UserError


def test_a_device_that_is_not_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in ("cuda", "mps"):
        with pytest.raises(UserError, match=f"device {name}: .* none on this machine, only cpu"):
            resolve_device(name)
    with pytest.raises(UserError, match="device 'gpu' is unknown; expected auto, cuda, mps, cpu"):
        resolve_device("gpu")
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")


def test_auto_takes_the_fastest_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for cuda, found in ((True, "cuda"), (False, "mps")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        assert resolve_device("auto").type == found


@pytest.mark.parametrize("command", ["report", "serve"])
def test_a_command_refuses_it(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path, tiny_raw
) -> None:
    from tests.bundles import make_bundle

    make_bundle(tiny_raw).save(tmp_path / "model.uar")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    films = ["x.png"] if command == "report" else []
    arguments = [command, *films, "--bundle", str(tmp_path / "model.uar"), "--device", "cuda"]
    result = CliRunner().invoke(uar_app, arguments)
    assert isinstance(result.exception, UserError)
    assert "device cuda" in str(result.exception)
