"""Which findings a demo study has."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.random import Generator

NORMAL_SHARE = 0.56
FINDINGS_PER_ABNORMAL_STUDY = {1: 0.6, 2: 0.3, 3: 0.1}


@dataclass(frozen=True)
class Finding:
    """One finding of a study; `detail` is its size or its zone."""

    name: str  # a key of KINDS
    side: str = ""  # the patient's: left | right
    detail: str = ""  # small | large | mild | marked | upper | lower


SIDES = ("left", "right")
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # name: sides, details
    "cardiomegaly": (("",), ("mild", "marked")),
    "pleural effusion": (SIDES, ("small", "large")),
    "pneumothorax": (SIDES, ("small", "large")),
    "consolidation": (SIDES, ("upper", "lower")),
    "nodule": (SIDES, ("upper", "lower")),
    "atelectasis": (SIDES, ("",)),
    "edema": (("",), ("",)),
    "hyperinflation": (("",), ("",)),
    "pacemaker": (SIDES, ("",)),
    "hiatal hernia": (("",), ("",)),
}
FINDINGS: tuple[str, ...] = tuple(KINDS)


def regions_of(finding: Finding) -> set[str]:
    """The regions that a finding occupies; two findings of a study never share one."""
    side, detail = finding.side, finding.detail
    match finding.name:
        case "cardiomegaly" | "hiatal hernia":
            return {"heart"}
        case "hyperinflation":
            return {"heart", "left lower", "right lower"}
        case "edema":
            return {f"{a_side} {zone}" for a_side in SIDES for zone in ("upper", "lower")}
        case "consolidation" | "nodule":
            return {f"{side} {detail}"}
        case "pacemaker":
            return {f"{side} upper"}
        case "atelectasis":
            return {f"{side} lower"}
        case _:  # pleural effusion, pneumothorax
            small_effusion = finding.name == "pleural effusion" and detail == "small"
            return {f"{side} lower"} | (set() if small_effusion else {f"{side} upper"})


def sample_findings(rng: Generator) -> tuple[Finding, ...]:
    """The findings of one study, in the order of `FINDINGS`; empty for a normal one."""
    if rng.random() < NORMAL_SHARE:
        return ()
    count = rng.choice(
        list(FINDINGS_PER_ABNORMAL_STUDY), p=list(FINDINGS_PER_ABNORMAL_STUDY.values())
    )
    chosen: list[Finding] = []
    taken: set[str] = set()
    for name in rng.permutation(FINDINGS):
        sides, details = KINDS[name]
        finding = Finding(str(name), str(rng.choice(sides)), str(rng.choice(details)))
        if not taken & regions_of(finding) and len(chosen) < count:
            chosen.append(finding)
            taken |= regions_of(finding)
    return tuple(sorted(chosen, key=lambda finding: FINDINGS.index(finding.name)))
