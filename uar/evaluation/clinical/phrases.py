"""The phrases that the labeller looks for, based on CheXpert's lists (Irvin et al. 2019).

A word that ends in `*` stands for every word with that beginning. `~` stands for up to six words of
the same clause: what comes after it is the finding, and what comes before it is only the place, so
that the "not" in "the heart is not enlarged" precedes the finding. A word in angle brackets stands
for any word of that group in `GROUPS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

# Mentions that assert an observation unless they are negated.
MENTIONS = {
    "Enlarged Cardiomediastinum": """
        widen* mediastin*, widen* of the mediastin*, mediastin* ~ widen*, mediastin* ~ enlarge*
        enlarge* mediastin*, enlarge* cardiomediastin*, cardiomediastin* ~ enlarge*
        cardiomediastin* ~ widen*, cardiomediastin* ~ prominen*, mediastin* ~ prominen*
        widen* superior mediastin*, widen* upper mediastin*, widen* of the superior mediastin*
        widen* of the upper mediastin*, enlarge* superior mediastin*, enlarge* of the mediastin*
        prominen* mediastin*, prominen* superior mediastin*, prominen* upper mediastin*
        prominen* cardiomediastin*, prominen* of the mediastin*
        prominen* of the superior mediastin*
    """,
    "Cardiomegaly": """
        cardiomegal*, enlarge* heart, enlarge* cardiac, enlarge* of the heart
        enlarge* of the cardiac, enlarge* of cardiac, enlarge* of heart
        enlarge* cardiomediastin*, heart ~ enlarge*, cardiac ~ enlarge*
        cardiomediastin* ~ enlarge*, large heart, heart ~ large, heart ~ borderline
        cardiac ~ borderline, borderline heart, heart ~ larger than, cardiac ~ larger than
        ventricular enlarge*, atrial enlarge*
        cardiac ~ prominen*, heart ~ prominen*, prominen* heart, prominen* cardiac
    """,
    "Lung Opacity": """
        opaci*, infiltrat*, airspace disease*, air space disease*, airspace process*
        air space process*, interstitial marking*, interstitial pattern*, interstitial lung
        interstitial disease, interstitial prominence, interstitial thickening, interstitial change*
        interstitial infiltrat*, reticula*, increased density, airspace densit*, lung* ~ haz*
        haziness, parenchymal scar*, peribronchial thickening, scar, scars, scarring
    """,
    "Lung Lesion": """
        mass, masses, masslike, nodul*, lump, lumps, cavitary lesion*, lung lesion*
        pulmonary lesion*, carcinoma*, neoplas*, tumor*, metasta*, malignan*
    """,
    "Edema": """
        edema*, heart failure, chf, vascular congestion, pulmonary congestion, venous congestion
        vascular engorge*, venous engorge*, engorge* vascul*, engorge* pulmonary, engorge* vessel*
        engorge* of the pulmonary, engorge* of the vessel*, vascul* ~ engorge*, vessel* ~ engorge*
        fluid overload, volume overload, kerley, cephaliz*, vascul* ~ indistinct*
        indistinct* ~ vascul*
    """,
    "Consolidation": "consolidat*",
    "Pneumonia": "pneumonia*, bronchopneumonia*, pneumonitis, infectio*",
    "Atelectasis": "atelecta*, collapse*, volume loss",
    "Pneumothorax": "pneumothora*, hydropneumothora*",
    "Pleural Effusion": """
        effusion*, pleural fluid, hydropneumothora*
    """,
    "Pleural Other": """
        pleural thicken*, thicken* of the pleura*, pleural scar*, pleural plaque*, pleural fibrosis
        pleural based, pleural parenchymal scar*, pleuroparenchymal scar*, apical thicken*
        apical capping, pleural capping, fissur* thicken*, thicken* of the fissure*, fibrothora*
    """,
    "Fracture": "fractur*",
    "Support Devices": """
        pacer*, pacemaker*, defibrillator*, icd, aicd, catheter*, picc, central line*, venous line*
        tube*, port a cath, portacath*, mediport*, infusion port*, chest port*, port tip, stent*
        subclavian, jugular, dialysis line*, dialysis access, permcath*, arterial line*, ett, ngt
        nasogastric, orogastric, dobhoff, swan ganz, lvad, balloon pump, loop recorder*
        valve replacement*, prosthetic valve*, prosthetic aortic valve*, prosthetic mitral valve*
        prosthetic heart valve*, prosthetic cardiac valve*, prosthetic tricuspid valve*
        mechanical valve*, mechanical aortic valve*, mechanical mitral valve*, bioprosthe*
        spinal rod*, fixation rod*, harrington rod*, stabilization rod*, rods, valve prosthe*
        hardware, sternotomy wire*
        sternal wire*, device*, leads, lead, drain, drains, tracheostomy*, endotracheal
        surgical clip*, screws, arthroplast*
    """,
}

# Findings beyond CheXpert's, for which `Labeller` looks only on request.
BEYOND = {
    "Hyperinflation": "hyperinflat*, hyperexpan*, overinflat*, hyperlucen*, emphysem*",
    "Hernia": "hernia*",
    "Granuloma": "granuloma*, calcifi*",
    "Degenerative Change": "degenerative, osteophyt*, spondylosis, scolio*, kypho*",
}

# Words for the places of findings, as they appear in a cleaned report.
PLACES = (
    "heart", "cardiac", "cardiomediastinal", "mediastinum", "mediastinal", "aorta", "lungs", "lung",
    "pulmonary", "pleural", "costophrenic", "diaphragm", "bony", "osseous", "spine", "ribs",
)  # fmt: skip

# Mentions that say an observation is absent.
ABSENCES = {
    "Enlarged Cardiomediastinum": """
        mediastin* ~ normal, mediastin* ~ unremarkable, normal mediastin*, unremarkable mediastin*
        cardiomediastin* ~ normal, cardiomediastin* ~ unremarkable, normal cardiomediastin*
        unremarkable cardiomediastin*
    """,
    "Cardiomegaly": """
        heart ~ normal, heart ~ unremarkable, normal heart, unremarkable heart, cardiac ~ normal
        cardiac ~ unremarkable, normal cardiac, unremarkable cardiac, cardiomediastin* ~ normal
        cardiomediastin* ~ unremarkable, normal cardiomediastin*, unremarkable cardiomediastin*
    """,
    "Lung Opacity": "lung* ~ clear, clear lung*",
}

# Sets of words, each as a regular expression for one word.
GROUPS = {
    "<vertebra>": r"[clt]\d{1,2}|vertebra\w*|body|bodies|endplates?|disc|disk|discs|disks|spine",
    "<device>": r"wires?|leads?|screws?|rods?|hardware|catheters?|clips?|sutures?|pins?",
    "<typical>": "typical|characteristic|classic|classical",
    "<atypical>": "atypical|untypical|uncharacteristic",
    "<of>": "of|for",
    "<comma>": ",",
    "<and>": "and|but|which|rather|instead",
    "<suggesting>": "suggesting|suggestive",
    "<suggests>": "suggests?|suggesting|suggestive",
    # what is suggested is a finding: neither denied nor an examination
    "<finding>": r"(?!(?:against|ct|mri?|follow|followup|repeat|dedicated|clinical|correlation"
                 r"|evaluation|otherwise)$).+",
}  # fmt: skip

# Mentions of something else in words that otherwise stand for an observation.
OTHERS = {
    "Pleural Effusion": "pericardial effusion*, joint effusion*",
    "Lung Opacity": "no change*",
    "Atelectasis": """
        collapse* <vertebra>, collapse* thoracic <vertebra>, collapse* lumbar <vertebra>
        collapse* of <vertebra>, collapse* of the <vertebra>, <vertebra> ~ collapse*
        collapse* of a <vertebra>, collapse* of the thoracic <vertebra>
        collapse* of the lumbar <vertebra>, collapse* of a thoracic <vertebra>
        collapse* of a lumbar <vertebra>
    """,
    "Support Devices": """
        could lead, may lead, might lead, would lead, can lead, leads to, bronchial tube*
        eustachian tube*, subclavian arter*, subclavian vessel*, jugular venous, jugular notch
        jugular vein distention, jugular vein distension
    """,
    "Lung Lesion": "mass effect, body mass",
    "Fracture": """
        fractur* <device>, fractur* sternal <device>, fractur* sternotomy <device>
        fractur* pacer <device>, fractur* pacemaker <device>, fractur* of the <device>
        fractur* of a <device>, fractur* of the sternal <device>, fractur* of a sternal <device>
        fractur* of the pacemaker <device>, <device> fractur*, <device> is fractur*
        <device> are fractur*, <device> appears fractur*, <device> appear fractur*
    """,
    "Edema": """
        soft tissue edema, vascular engorge* within, vascular engorge* is within
        vascular engorge* appear* within, vascular engorge* is normal
    """,
}

# Words at which `~` stops, because the clause turns to something else.
BARRIERS = (
    "normal", "unremarkable", "clear", "but", "with", "without", "however", "although", "aorta",
    "aortic", "lung", "lungs", "hilar", "hila", "there", "vessels", "vascular", "vasculature",
)  # fmt: skip


def _each(*parts: Sequence[str]) -> list[str]:
    """Every phrase made of one entry from each part, in order; "" is left out."""
    return [" ".join(filter(None, words)) for words in product(*parts)]


# ---- context: the lists of NegEx (Chapman et al. 2001), by kind; "n't" is read as "not"

# What starts another clause.
_TERMINATION = [
    "but", "however", "although", "though", "except", "except for", "apart from", "aside from",
    "other than", "besides", "nevertheless", "yet", "which", "there is", "there are", "otherwise",
    "secondary to", "due to", "related to", "cause for", "cause of", "consistent with",
    "compatible with", "and the heart", "and heart", "and the cardiac", "and the lungs",
    "and the mediastinum", "and the aorta", "and there", "and a", "and mild", "and moderate",
    "and stable", "and unchanged", "while", "whereas",
]  # fmt: skip
# What a preceding "not" does not reach.
_RUNS_ON = [
    *_each((", and", "and", ","), ("may", "might", "could", "likely", "probably", "possibly")),
    *_each((", more", ", rather", ", instead"), ("likely", "suggesting", "suggestive")),
    *_each((",",), ("suggesting", "suggestive of", "suggests", "concerning for", "raising",
                    "favoring", "representing", "reflecting", "probable", "possible", "consider")),
]  # fmt: skip

_BE = ("", "is", "are", "was", "were", "be", "has", "have", "had", "does", "do", "did")
_SEEN = (
    "seen", "present", "visible", "evident", "visualized", "identified", "demonstrated", "apparent",
    "appreciated", "noted",
)  # fmt: skip
_ENTIRELY = (
    "", "entirely", "completely", "fully", "definitely", "definitively", "reliably", "confidently",
    "absolutely", "totally", "safely", "easily", "clearly",
)  # fmt: skip

# Compared with an earlier film: what is compared is present.
_COMPARED = [
    *_each(
        ("no", "without"),
        ("", "interval", "significant", "significant interval", "interval significant",
         "appreciable", "appreciable interval", "substantial", "substantial interval", "definite",
         "definite interval", "obvious", "evident", "major", "marked", "relevant", "further"),
        ("change", "changes", "worsening", "improvement", "progression", "regression", "increase",
         "decrease", "growth"),
    ),
    *_each(
        _BE, ("not",),
        ("", "significantly", "appreciably", "substantially", "yet", "fully", "completely", "much",
         "clearly", "definitely", "any"),
        ("changed", "resolved", "cleared", "improved", "worsened", "increased", "decreased",
         "progressed", "worse", "better", "larger", "smaller", "bigger", "different", "new",
         "change", "resolve", "clear up", "improve", "worsen", "increase", "decrease", "progress"),
    ),
    *_each(
        ("", "is", "are", "was", "were"), ("not",), _SEEN[:6],
        ("on prior", "on previous", "on earlier", "on old", "on the prior", "on the previous",
         "on the earlier", "on the old", "in the prior", "in the previous", "in the earlier",
         "in the old", "previously"),
    ),
]  # fmt: skip
# Hard to see: it is present.
_BADLY_SEEN = _each(
    _BE, ("not",),
    ("well", "fully", "completely", "entirely", "optimally", "adequately", "ideally"),
    ("", "be"), (*_SEEN, "defined", "delineated", "imaged", "included", "depicted"),
) + _each(_BE, ("not",), ("imaged", "included", "in the field of view"))  # fmt: skip
# Partly gone: it is present.
_PARTLY_GONE = [
    *_each(
        ("nearly", "near", "almost", "partially", "partly", "incompletely", "mostly", "largely",
         "near completely", "nearly completely", "almost completely", "almost entirely",
         "substantially", "virtually"),
        ("resolved", "cleared", "gone", "removed"),
    ),
    *_each(
        ("near", "nearly", "near complete", "nearly complete", "almost complete", "partial",
         "incomplete", "subtotal", "near total", "some", "ongoing", "continued", "continuing"),
        ("", "interval"), ("resolution", "clearing"),
    ),
]  # fmt: skip
# Gone, or never present.
_GONE = [
    *_each(("", "is", "are", "was", "were"), ("no longer", "not"), _SEEN),
    *_each(
        ("can not be", "could not be", "can no longer be"),
        ("seen", "identified", "visualized", "detected", "appreciated", "demonstrated"),
    ),
    *_each(
        ("", "has", "have", "has now", "have now", "has since", "have since"),
        ("resolved", "cleared", "been removed"),
    ),
]  # fmt: skip
# Not excluded.
_NOT_EXCLUDED = [
    *(
        phrase
        for order in ((_ENTIRELY, ("", "be")), (("be",), _ENTIRELY))
        for phrase in _each(
            ("is not", "are not", "was not", "were not", "not", "can not", "could not", "may not"),
            *order, ("excluded", "ruled out"),
        )
    ),
    *_each(("difficult to", "hard to", "impossible to"), ("exclude", "rule out")),
]  # fmt: skip
_CANNOT_EXCLUDE = _each(
    ("can not", "could not", "not", "unable to", "inability to", "not able to", "difficult to",
     "hard to", "impossible to", "not possible to"),
    _ENTIRELY, ("exclude", "rule out"),
)  # fmt: skip
# Not typical of it, which leaves it open.
_UNTYPICAL = _each(
    _BE[:5], ("not", "not entirely", "not completely", "less"),
    ("typical", "characteristic", "classic", "classical", "diagnostic", "specific"), ("of", "for"),
)  # fmt: skip
# Not typical of one finding but of another, which is asserted: up to the latter's first word.
_PLAINLY_UNTYPICAL = ("not <typical> <of> ~", "<atypical> <of> ~")
CONTRASTS = ", ".join(
    _each(_PLAINLY_UNTYPICAL, ("<suggesting> <finding>",))
    + _each(
        _PLAINLY_UNTYPICAL,
        ("<comma>", "<comma> <and>", "<comma> <and> <and>", "<and>", "<and> <and>"),
        ("<suggests> <finding>",),
    )
)
_EVALUATED = ("evaluated", "assessed", "determined", "excluded or confirmed")

# NegEx's lists in the form that negspacy takes.
NEGATION = {
    "pseudo_negations": [
        *_COMPARED, *_NOT_EXCLUDED, *_CANNOT_EXCLUDE, *_BADLY_SEEN, *_PARTLY_GONE, *_UNTYPICAL,
        "not only", "is not only", "are not only", "not necessarily", "is not necessarily",
    ],
    "preceding_negations": [
        "no", "not", "without", "free of", "clear of", "negative for", "absence of", "absent",
        "lack of", "resolution of", "resolved", "clearing of", "removal of", "rather than",
        "neither", "nor", "never", "denies", "interval removal of", "excludes",
    ],
    "following_negations": [
        *_GONE, "is absent", "are absent", "absent", "is not", "are not", "was not", "were not",
        "removed", "ruled out", "excluded", "none", ": no", ": negative", ": absent", ": nil",
        "is negative",
    ],
    "termination": [*_TERMINATION, *_RUNS_ON],
}  # fmt: skip

UNCERTAINTY = {
    "pseudo_negations": [
        "may be related", "could be related", "may be missed", "may be seen",
        *_each(
            ("consider",),
            ("ct", "chest", "follow up", "followup", "further", "repeat", "dedicated", "additional",
             "pa", "lateral", "short", "a", "an", "obtaining", "correlation", "evaluation"),
        ),
    ],
    "preceding_negations": [
        *_CANNOT_EXCLUDE, *_UNTYPICAL,
        "possible", "possibly", "probable", "probably", "may", "might", "could", "suspected",
        "suspicious for", "suspicion of", "suspicion for", "questionable", "question of",
        "question", "concerning for", "concern for", "worrisome for", "suggesting",
        "suggestive of", "suggest", "suggests", "versus", "vs", "presumably", "perhaps",
        "equivocal", "rule out", "r o", "low likelihood of", "more likely", "less likely",
        "unlikely", "doubtful", "consider", "consideration of", "considerations include",
        *_each(("atypical", "untypical", "uncharacteristic"), ("of", "for")),
    ],
    "following_negations": [
        *_NOT_EXCLUDED, "is possible", "are possible", "is questioned", "is suspected", "versus",
        "vs", "unlikely", "less likely", "more likely", "is a consideration", "is considered",
        "is doubtful", "is questionable",
        *_each(("not well",), _SEEN, ("on today", "on the current", "on current", "on this",
                                      "on the present", "today", "currently")),
    ],
    "termination": [t for t in _TERMINATION if t not in ("consistent with", "compatible with")],
}  # fmt: skip

# Named without saying whether it is present: what a film cannot show, requests and advice.
UNSTATED = {
    "pseudo_negations": [*_CANNOT_EXCLUDE, *_NOT_EXCLUDED],
    "preceding_negations": [
        *_each(("evaluation", "assessment", "sensitivity", "evaluate", "assess", "look", "screen",
                "monitor", "screening", "correlate", "correlation", "correlate clinically",
                "clinical correlation", "insensitive", "not sensitive"), ("for",)),
        *_each(("limited", "limits", "limits the", "limit", "limit the", "limiting",
                "limiting the"), ("evaluation", "assessment", "detection"), ("of",)),
        *_each(("correlate", "correlation", "correlate clinically"), ("with",),
               ("signs", "symptoms", "clinical signs", "clinical symptoms", "any signs")),
        "sensitivity to", "insensitive to", "to exclude", "to rule out", "please exclude",
        "exclude", "detection of",
    ],
    "following_negations": [
        *_each(("may be", "might be", "could be", "can be", "may easily be"),
               ("missed", "overlooked", "undetected")),
        *_each(_BE[:5], ("not",), ("", "well", "fully", "adequately", "optimally", "reliably"),
               _EVALUATED),
        *_each(("can not be", "could not be"), _ENTIRELY, _EVALUATED),
    ],
    "termination": [
        *_TERMINATION, *_RUNS_ON, "limited", "is limited", "is reduced", "by", "given", "because",
        "no", "without", "none", ", and",
    ],
}  # fmt: skip
