"""The one exception that a user's mistake raises, and how it ends a command."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class UserError(ValueError):
    """Bad input. The message names the file, the row, what was found and what to do."""


def plainly(error: Exception) -> str:
    """Say what an error of Python or of a library means for a file, without names of classes.

    Uses the error's own words if they are meant for people, else words for its kind.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError) and error.args:
        said = str(error.args[0])
        return said if " " in said else f"it has no {said!r}"
    words = next((words for kind, words in _KINDS if isinstance(error, kind)), "")
    return words or " ".join(str(error).split()) or "it is damaged"


_KINDS = (
    (UnicodeError, "it is not UTF-8"),
    (RecursionError, "it is nested too deeply"),
    (EOFError, "it ends early"),
    (
        (TypeError, AttributeError, LookupError),
        "a part of it is missing or does not have the expected form",
    ),
)


def form_of(value: Any) -> str:
    """Name the kind of a value read from JSON or YAML: "a list", "nothing"."""
    return _FORMS.get(type(value), "another value")


_FORMS = {
    dict: "an object",
    list: "a list",
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "nothing",
}


@contextmanager
def ended_with_a_sentence(own: tuple[str, ...], advice: str) -> Iterator[None]:
    """End the program with one sentence on standard error, and status 1, instead of a traceback.

    Only if the input is bad or a package is missing: any other error is a bug.

    Args:
        own: the program's own packages, whose absence is a bug.
        advice: what to do if another package is missing, as sentences.
    """
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {error}")
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in ("", *own):
            raise
        sys.exit(f"error: the package {package} is missing. {advice}")
