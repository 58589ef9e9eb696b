"""The one exception that a user's mistake raises, and how a command ends with it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class UserError(ValueError):
    """Bad input. The message names the file, the row, what was found and what to do."""


def plainly(error: Exception) -> str:
    """What an error of Python or of a library says of a file, without the names of classes.

    Its own words where they are for people, else words for its kind.
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
        "a part of it is missing or has another form than expected",
    ),
)


def form_of(value: Any) -> str:
    """What a value read from JSON or YAML is, in words: "a list", "nothing"."""
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

    Only where the input is bad or a package is missing: any other error is a fault of the code.

    Args:
        own: the program's own packages, whose absence is such a fault.
        advice: what to do where another package is missing, as sentences.
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
