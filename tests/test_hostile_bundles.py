"""Bundles whose makers mean harm are refused by name, and cost nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile_bundles import cost_of_opening, hostile_bundles, sealed, whole_parts
from uar.bundle.bundle import Bundle, Preprocessing
from uar.core.config import DecodeParams, ModelParams
from uar.core.errors import UserError
from uar.core.params_file import known_keys
from uar.core.weights import refuse_absurd

MEMORY = 150_000_000  # bytes; a bomb unpacks to 200 million

BUNDLES = dict(hostile_bundles())
# Those that cost most before they were refused; every fifth of the rest. `make faults` has all.
WORST = [
    name for name in BUNDLES
    if "deflated" in name or "over another" in name or "header" in name or "thin" in name
    or name.endswith(("0000000000000", "100000", "2000", "1e+308", "1000000000"))
]  # fmt: skip


ODD = ["a part twice", "a part over another"]


@pytest.mark.parametrize("name", sorted({*ODD, *WORST[::2], *list(BUNDLES)[::5]}))
def test_a_hostile_bundle_is_refused_by_name_and_costs_no_memory(name: str, tmp_path: Path) -> None:
    path = tmp_path / "their.uar"
    path.write_bytes(BUNDLES[name]())
    cost = cost_of_opening(path)
    assert cost.ended == "refused"
    assert cost.memory < MEMORY


def test_the_bundle_that_they_are_made_of_opens(tmp_path: Path) -> None:
    (tmp_path / "x.uar").write_bytes(sealed(whole_parts()))
    assert cost_of_opening(tmp_path / "x.uar").ended == "accepted"
    assert Bundle.load(tmp_path / "x.uar").provenance["dataset"] == "invented"


@pytest.mark.parametrize("section", [ModelParams, DecodeParams, Preprocessing])
def test_every_number_of_a_bundle_has_both_ends(section: type) -> None:
    for key in known_keys(section):
        field = section.model_fields.get(key)
        if field is not None and field.annotation in (int, float):
            ends = {type(rule).__name__ for rule in field.metadata}
            bounded = bool(ends & {"Ge", "Gt"}) and bool(ends & {"Le", "Lt"})
            assert bounded or key == "heads", key  # heads divide d_model


def test_weights_of_a_network_are_let_through() -> None:
    import torch

    good = {"a": torch.tensor([[1e9, -3.0]]), "b": torch.zeros(3), "n": torch.tensor(7)}
    refuse_absurd("x", good)
    for name, bad in {
        "2e\\+10": torch.tensor([[2e10]]), "not finite": torch.tensor([torch.inf]),
        "is empty": torch.empty(0, 3), "float8": torch.ones(2).to(torch.float8_e5m2),
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=f"x: c .*{name}"):
            refuse_absurd("x", {**good, "c": bad})
    with pytest.raises(UserError, match="every weight is zero"):
        refuse_absurd("x", {"a": torch.zeros(2, 2), "b": torch.ones(3)})
