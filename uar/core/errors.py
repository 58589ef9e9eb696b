"""The one exception that a user's mistake raises, and how a command ends with it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Bad input. The message names the file, the row, what was found and what to do."""


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
