"""Every numeric parameter has a range, and values outside of it are refused by name."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel

from tests.conftest import override
from uar.core.config import Params, Section
from uar.core.errors import UserError
from uar.core.params_file import load_params, parse_params


def numbers(section: type[BaseModel] = Params, prefix: str = "") -> Iterator[tuple[Any, ...]]:
    """(dotted key, position or None, type, constraints) of each number of params.yaml."""
    for name, field in section.model_fields.items():
        kind, key = field.annotation, prefix + name
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from numbers(kind, f"{key}.")
        elif kind in (int, float):
            yield key, None, kind, tuple(field.metadata)
        elif get_origin(kind) is tuple:
            for position, item in enumerate(get_args(kind)):
                bare = get_args(item)[0] if get_origin(item) is Annotated else item
                if bare in (int, float):
                    held = item.__metadata__[0].metadata if bare is not item else ()
                    yield key, position, bare, tuple(held)


def outside(kind: type, constraints: tuple[Any, ...]) -> list[float]:
    """Values next to each end of a range and far beyond it."""
    step = 1 if kind is int else 1e-6
    values: list[float] = []
    for rule in constraints:
        match rule:
            case Ge(ge=low):
                values += [low - step, low - 1000]
            case Gt(gt=low):
                values += [low, low - step, low - 1000]
            case Le(le=high):
                values += [high + step, high + 1000]
            case Lt(lt=high):
                values += [high, high + step, high + 1000]
    return values


NUMBERS = list(numbers())
OUTSIDE = [
    pytest.param(key, position, value, id=f"{key}{'' if position is None else position}={value:g}")
    for key, position, kind, constraints in NUMBERS
    for value in [*outside(kind, constraints), *([] if kind is int else [math.nan, math.inf])]
]


def test_every_number_has_a_least_value() -> None:
    without = [
        key for key, _, _, rules in NUMBERS if not any(isinstance(r, Ge | Gt) for r in rules)
    ]
    assert without == []
    assert {"train.betas", "model.extractor.depths", "seed"} <= {key for key, *_ in NUMBERS}


@pytest.mark.parametrize(("key", "position", "value"), OUTSIDE)
def test_values_outside_are_refused_by_name(
    raw_params: dict[str, Any], key: str, position: int | None, value: float
) -> None:
    raw = copy.deepcopy(raw_params)
    if position is None:
        override(raw, key, value)
        named = key
    else:
        whole = raw
        for part in key.split("."):
            whole = whole[part]
        override(raw, key, [value if i == position else old for i, old in enumerate(whole)])
        named = f"{key}.{position}"
    with pytest.raises(UserError) as caught:
        parse_params(raw, "params.yaml")
    assert f"  {named}: found {value!r}." in str(caught.value)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "cp1252", "utf-32"])
def test_params_in_another_encoding_are_a_sentence(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes("seed: 0  # für alle\n".encode(encoding))
    with pytest.raises(UserError, match=r"params.yaml is not (UTF-8|valid YAML)"):
        load_params(path)


def test_a_byte_order_mark_is_no_key(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes("seed: 0\n".encode("utf-8-sig"))
    with pytest.raises(UserError) as caught:
        load_params(path)
    assert "unknown key" not in str(caught.value)


@pytest.mark.parametrize(
    "key",
    ["dataset.root", "dvae.encoder", "dvae.decoder", "evaluate.chexbert", "evaluate.radgraph"],
)
def test_a_tilde_is_the_users_home(raw_params: dict[str, Any], key: str) -> None:
    override(raw_params, key, "~/some/folder")
    value: Any = parse_params(raw_params, "params.yaml")
    for part in key.split("."):
        value = getattr(value, part)
    assert value == Path.home() / "some/folder"


def test_a_tilde_of_nobody_is_named(raw_params: dict[str, Any]) -> None:
    override(raw_params, "dataset.root", "~nobody-of-that-name/x")
    with pytest.raises(UserError, match="dataset.root: .*home"):
        parse_params(raw_params, "params.yaml")
