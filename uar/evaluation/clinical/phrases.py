"""What the labeller looks for, after CheXpert's phrase lists (Irvin et al. 2019).

A word that ends in `*` stands for every word that begins so. `~` stands for up to six words of the
same clause; then what comes after it is the finding, and what comes before it only its place, so
that "not" in "the heart is not enlarged" precedes the finding.
"""

# Mentions that assert an observation unless negated.
MENTIONS = {
    "Enlarged Cardiomediastinum": """
        widen* mediastin*, widen* of the mediastin*, mediastin* ~ widen*, mediastin* ~ enlarge*
        enlarge* mediastin*, enlarge* cardiomediastin*, cardiomediastin* ~ enlarge*
        cardiomediastin* ~ widen*, cardiomediastin* ~ prominen*, mediastin* ~ prominen*
    """,
    "Cardiomegaly": """
        cardiomegal*, enlarge* heart, enlarge* cardiac, enlarge* of the heart
        enlarge* of the cardiac, enlarge* cardiomediastin*, heart ~ enlarge*, cardiac ~ enlarge*
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
        valve replacement*, prosthetic valve*, valve prosthe*, hardware, sternotomy wire*
        sternal wire*, device*, leads, lead, drain, drains, tracheostomy*, endotracheal
        surgical clip*, screws, arthroplast*
    """,
}

# Findings beyond CheXpert's, which `Labeller` looks for where it is asked to.
BEYOND = {
    "Hyperinflation": "hyperinflat*, hyperexpan*, overinflat*, hyperlucen*, emphysem*",
    "Hernia": "hernia*",
    "Granuloma": "granuloma*, calcifi*",
    "Degenerative Change": "degenerative, osteophyt*, spondylosis, scolio*, kypho*",
}

# Where findings are: words, as a cleaned report has them.
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

# Mentions of something else in the words of an observation.
OTHERS = {
    "Pleural Effusion": "pericardial effusion*, joint effusion*",
    "Lung Opacity": "no change*",
    "Atelectasis": """
        collapse* vertebra*, collapse* thoracic vertebra*, collapse* lumbar vertebra*
        vertebra* ~ collapse*, collapse* of the vertebra*, collapse* of vertebra*
        collapse* disc, collapse* disk
    """,
    "Support Devices": """
        could lead, may lead, might lead, would lead, can lead, leads to, bronchial tube*
        eustachian tube*
    """,
    "Lung Lesion": "mass effect, body mass",
    "Edema": "soft tissue edema",
}

# Words that `~` does not step over: the clause has turned to something else.
BARRIERS = (
    "normal", "unremarkable", "clear", "but", "with", "without", "however", "although", "aorta",
    "aortic", "lung", "lungs", "hilar", "hila", "there", "vessels", "vascular", "vasculature",
)  # fmt: skip

_TERMINATION = [
    "but", "however", "although", "though", "except", "except for", "apart from", "aside from",
    "other than", "besides", "nevertheless", "yet", "which", "there is", "there are", "otherwise",
    "secondary to", "due to", "related to", "cause for", "cause of", "consistent with",
    "compatible with", "and the heart", "and heart", "and the cardiac", "and the lungs",
    "and the mediastinum", "and the aorta", "and there", "and a", "and mild", "and moderate",
    "and stable", "and unchanged", "while", "whereas",
]  # fmt: skip

_DEGREES = (
    "", "interval ", "significant ", "significant interval ", "interval significant ",
    "appreciable ", "appreciable interval ", "substantial ", "substantial interval ", "definite ",
    "definite interval ", "obvious ", "evident ", "major ", "marked ", "relevant ", "further ",
)  # fmt: skip
_CHANGES = (
    "change", "changes", "worsening", "improvement", "progression", "regression", "increase",
    "decrease", "growth",
)  # fmt: skip
# What is compared with an earlier film is there.
_COMPARED = [
    *(f"{no} {how}{what}" for no in ("no", "without") for how in _DEGREES for what in _CHANGES),
    *(
        f"{have}not {how}{what}"
        for have in ("", "is ", "are ", "was ", "were ", "has ", "have ")
        for how in ("", "significantly ", "appreciably ", "substantially ", "yet ", "fully ",
                    "completely ", "much ")
        for what in ("changed", "resolved", "cleared", "improved", "worsened", "increased",
                     "decreased", "progressed")
    ),
    *(
        f"{have}not {seen} {on}{prior}"
        for have in ("", "is ", "are ", "was ", "were ")
        for seen in ("seen", "present", "visible", "evident", "visualized", "identified")
        for on in ("on ", "on the ", "in the ", "previously ")
        for prior in (("prior", "previous", "earlier", "old") if on != "previously " else ("",))
    ),
]  # fmt: skip
_NOT_EXCLUDED = [
    f"{can} {how}{excluded}"
    for can in ("is not", "are not", "was not", "were not", "not be", "not", "cannot be",
                "can not be", "could not be")
    for how in ("", "entirely ", "completely ", "fully ", "definitely ", "reliably ")
    for excluded in ("excluded", "ruled out")
]  # fmt: skip
_GONE = [
    f"{have}{how} {seen}"
    for have in ("", "is ", "are ", "was ", "were ")
    for how in ("no longer", "not", "n't")
    for seen in ("seen", "present", "visible", "evident", "visualized", "identified",
                 "demonstrated", "apparent", "appreciated", "noted")
] + [
    f"{cannot} be {seen}"
    for cannot in ("cannot", "can not", "could not", "can no longer")
    for seen in ("seen", "identified", "visualized", "detected", "appreciated", "demonstrated")
]  # fmt: skip

# NegEx (Chapman et al. 2001) in the form that negspacy takes.
NEGATION = {
    "pseudo_negations": [
        *_COMPARED, *_NOT_EXCLUDED, "not only", "is not only", "are not only",
        "not rule out", "cannot exclude",
        "can not exclude", "cannot rule out", "not exclude",
    ],
    "preceding_negations": [
        "no", "not", "without", "free of", "clear of", "negative for", "absence of", "absent",
        "lack of", "resolution of", "resolved", "clearing of", "removal of", "rather than",
        "exclude", "neither", "nor", "never", "denies", "interval removal of",
    ],
    "following_negations": [
        *_GONE, "resolved", "has resolved", "have resolved", "is absent", "are absent", "absent",
        "is not", "are not", "was not", "were not", "is n't", "are n't", "was n't", "were n't",
        "has been removed", "have been removed", "removed", "ruled out", "excluded", "has cleared",
        "have cleared", "has now cleared", "have now cleared", "has since cleared",
        "has now resolved",
        "have now resolved", "none", ": no", ": negative", ": absent", "is negative",
    ],
    "termination": _TERMINATION,
}  # fmt: skip

UNCERTAINTY = {
    "pseudo_negations": ["may be related", "could be related"],
    "preceding_negations": [
        "possible", "possibly", "probable", "probably", "may", "might", "could", "suspected",
        "suspicious for", "suspicion of", "suspicion for", "questionable", "question of",
        "question", "cannot exclude", "difficult to exclude", "not exclude", "cannot rule out",
        "concerning for", "concern for", "worrisome for", "suggesting", "suggestive of", "suggest",
        "suggests", "versus", "vs", "presumably", "perhaps", "equivocal", "rule out",
        "evaluate for", "low likelihood of",
    ],
    "following_negations": [
        *_NOT_EXCLUDED, "is possible",
        "are possible", "is questioned", "is suspected", "versus", "vs", "unlikely",
        "less likely", "difficult to exclude",
    ],
    "termination": [t for t in _TERMINATION if t not in ("consistent with", "compatible with")],
}  # fmt: skip
