"""Sentences with the labels that a radiologist would give; all are invented.

A line holds letters for what is said, a tab, and the text. A letter stands for an observation
(`LETTERS`) and is followed by + (asserted), - (denied) or ? (uncertain). Text escapes: \\n, \\t.
"""

from __future__ import annotations

import re

LETTERS = {
    "M": "Enlarged Cardiomediastinum",
    "C": "Cardiomegaly",
    "O": "Lung Opacity",
    "L": "Lung Lesion",
    "E": "Edema",
    "K": "Consolidation",
    "P": "Pneumonia",
    "A": "Atelectasis",
    "X": "Pneumothorax",
    "F": "Pleural Effusion",
    "R": "Fracture",
    "D": "Support Devices",
}

LINES = r"""
F-C+	No pleural effusion..Mild cardiomegaly.
F-C+	No pleural effusion...Mild cardiomegaly.
F-C+	No pleural effusion…Mild cardiomegaly.
F-C+	No pleural effusion\n\nMild cardiomegaly.
F-C+	No pleural effusion\nMild cardiomegaly.
F-C+	No pleural effusion\n- Mild cardiomegaly.
F-C+	No pleural effusion - Mild cardiomegaly.
F-C+	No pleural effusion — Mild cardiomegaly.
F-C+	No pleural effusion—Mild cardiomegaly.
F-C+	No pleural effusion | Mild cardiomegaly.
F-C+	No pleural effusion\tMild cardiomegaly.
F-C+	No pleural effusion.Mild cardiomegaly.
F-C+	No pleural effusion; Mild cardiomegaly.
F-C+	No pleural effusion. . Mild cardiomegaly.
F-C+	No pleural effusion • Mild cardiomegaly.
F-C+	No pleural effusion\n* Mild cardiomegaly.
F-C+	No pleural effusion -- Mild cardiomegaly.
F-C+	No pleural effusion 2) Mild cardiomegaly.
F-C+	No pleural effusion 2. Mild cardiomegaly.
F-C+	No pleural effusion\n\n2. Mild cardiomegaly.
F-C+	No pleural effusion.\nMild cardiomegaly.
F-C+	No pleural effusion! Mild cardiomegaly.
F-C+	No pleural effusion\n\n - Mild cardiomegaly.
F-C+	No pleural effusion.mild cardiomegaly.
F-C+	no pleural effusion.. mild cardiomegaly.
X-A+	1) No pneumothorax 2) Bibasilar atelectasis
X-A+	1. No pneumothorax 2. Bibasilar atelectasis
F-X-	No pleural effusion or\n pneumothorax.
F-X-	No pleural\n effusion or pneumothorax.
K-F-X-	No consolidation,\n effusion, or pneumothorax
X-F+	No pneumothorax... small effusion.
P-R+	No pneumonia | healed rib fracture
X-F+	(1) No pneumothorax (2) Small effusion
X-	Pneumothorax is no longer seen.
X-	Pneumothorax is no longer present.
X-	Pneumothorax is no longer visible.
X-	Pneumothorax: none.
X-	Pneumothorax isn't seen.
X-	Pneumothorax is not seen.
X-	Pneumothorax cannot be seen.
X-	Pneumothorax could not be identified.
X-	Pneumothorax is excluded.
X-	Pneumothorax has now cleared.
X-	Pneumothorax has cleared.
X-	Pneumothorax has resolved.
X-	Pneumothorax has now resolved.
X-	No pneumothorax.
X-	No evidence of pneumothorax.
X-	Without pneumothorax.
X-	Negative for pneumothorax.
X-	There is no pneumothorax.
X-	Pneumothorax is absent.
X-	Never any pneumothorax.
F-	Pleural effusion is no longer seen.
F-	Pleural effusion is no longer present.
F-	Pleural effusion is no longer visible.
F-	Pleural effusion: none.
F-	Pleural effusion isn't seen.
F-	Pleural effusion is not seen.
F-	Pleural effusion cannot be seen.
F-	Pleural effusion could not be identified.
F-	Pleural effusion is excluded.
F-	Pleural effusion has now cleared.
F-	Pleural effusion has cleared.
F-	Pleural effusion has resolved.
F-	Pleural effusion has now resolved.
F-	No pleural effusion.
F-	No evidence of pleural effusion.
F-	Without pleural effusion.
F-	Negative for pleural effusion.
F-	There is no pleural effusion.
F-	Pleural effusion is absent.
F-	Never any pleural effusion.
K-	Consolidation is no longer seen.
K-	Consolidation is no longer present.
K-	Consolidation is no longer visible.
K-	Consolidation: none.
K-	Consolidation isn't seen.
K-	Consolidation is not seen.
K-	Consolidation cannot be seen.
K-	Consolidation could not be identified.
K-	Consolidation is excluded.
K-	Consolidation has now cleared.
K-	Consolidation has cleared.
K-	Consolidation has resolved.
K-	Consolidation has now resolved.
K-	No consolidation.
K-	No evidence of consolidation.
K-	Without consolidation.
K-	Negative for consolidation.
K-	There is no consolidation.
K-	Consolidation is absent.
K-	Never any consolidation.
F-X-	Neither effusion nor pneumothorax is present.
A-K-	Neither atelectasis nor consolidation.
F-X-	There is neither pleural effusion nor pneumothorax.
F+	No change in the left effusion.
A+	No change in the atelectasis.
F+	No appreciable change in left effusion.
A+	No appreciable change in atelectasis.
F+	No interval change in left effusion.
A+	No interval change in atelectasis.
F+	No substantial change in the left effusion.
A+	No substantial change in the atelectasis.
F+	No significant interval change in left effusion.
A+	No significant interval change in atelectasis.
F+	No worsening of the left effusion.
A+	No worsening of the atelectasis.
F+	No improvement in the left effusion.
A+	No improvement in the atelectasis.
F+	No progression of left effusion.
A+	No progression of atelectasis.
F+	No increase in left effusion.
A+	No increase in atelectasis.
F+	Left effusion not changed.
A+	Atelectasis not changed.
F+	Left effusion is not changed.
A+	Atelectasis is not changed.
F+	Left effusion has not resolved.
A+	Atelectasis has not resolved.
F+	Left effusion has not significantly changed.
A+	Atelectasis has not significantly changed.
F+	Left effusion was not seen on the prior.
A+	Atelectasis was not seen on the prior.
F+	Left effusion not seen on the previous study.
A+	Atelectasis not seen on the previous study.
F+	Left effusion unchanged.
A+	Atelectasis unchanged.
F+	Without interval change in left effusion.
A+	Without interval change in atelectasis.
F+	Persistent left effusion.
A+	Persistent atelectasis.
F+	Left effusion is not only present but larger.
A+	Atelectasis is not only present but larger.
P?	Pneumonia is not excluded.
K?	Consolidation is not excluded.
P?	Pneumonia cannot be excluded.
K?	Consolidation cannot be excluded.
P?	Pneumonia is not entirely excluded.
K?	Consolidation is not entirely excluded.
P?	Pneumonia can not be ruled out.
K?	Consolidation can not be ruled out.
P?	Pneumonia is not ruled out.
K?	Consolidation is not ruled out.
P?	Possible pneumonia.
K?	Possible consolidation.
P?	Cannot exclude pneumonia.
K?	Cannot exclude consolidation.
P?	Questionable pneumonia.
K?	Questionable consolidation.
P?	Pneumonia is possible.
K?	Consolidation is possible.
P?	May represent pneumonia.
K?	May represent consolidation.
	The lungs are not clear.
	Lungs are not entirely clear.
	The lungs aren't clear.
O-	The lungs are clear.
O-	Clear lungs.
C+	The heart is larger than normal.
C+	Cardiac silhouette is larger than normal.
C-	The heart is normal.
C-	Heart size is within normal limits.
	The heart is not normal.
C-	The heart is not enlarged.
X-C+	No pneumothorax and the heart is enlarged.
F-C+	No effusion and heart is enlarged.
F-X-	No effusion and no pneumothorax.
F-X-	No effusion and pneumothorax.
X-F+	No pneumothorax and there is a small effusion.
X-F+	No pneumothorax and a small effusion.
X-A+	No pneumothorax but atelectasis.
X-A+	No pneumothorax, however atelectasis persists.
	This could lead to confusion.
	Delay may lead to harm.
D+	Pacemaker leads in place.
D+	The lead tip projects over the right ventricle.
	Collapsed vertebral body.
	Vertebral body is collapsed.
	Collapse of the vertebral body.
A+	Collapsed right lower lobe.
A+	Right lower lobe collapse.
	Bronchial tubes are normal.
D+	Endotracheal tube in place.
D+	Chest tube on the left.
	Small pericardial effusion.
M-C-	Cardiomediastinal silhouette is normal.
R+	Old rib fracture.
R-	No displaced fracture.
L+	Calcified nodule.
L-	No mass.
E+	Pulmonary edema.
E-	No edema.
E?	Possible edema.
"""

# The same for several findings, by kind: the sign of X, and invented sentences that give it.
KINDS = {
    "excluded in other words": (
        "?",
        """
        X cannot be confidently excluded.
        X cannot entirely be excluded.
        X cannot be entirely excluded.
        X can't be excluded.
        X can’t be ruled out.
        X couldn't be excluded.
        X could not be reliably excluded.
        X is not definitively excluded.
        X is difficult to exclude.
        Unable to exclude X.
        Unable to completely exclude X.
        We are not able to exclude X.
        Difficult to exclude X.
        It is hard to rule out X.
        Cannot definitively exclude X.
        Cannot completely rule out X.
        Can't exclude X.
        This does not exclude X.
        It is not possible to exclude X.
        It is impossible to exclude X.
    """,
    ),
    "the film's limits": (
        "",
        """
        Evaluation for X is limited.
        Evaluation for X is limited by rotation.
        Assessment for X is limited.
        Sensitivity for X is reduced.
        Sensitivity for a small X is reduced.
        Limited evaluation of X.
        The portable technique limits evaluation for X.
        X may be missed.
        A small X could be missed.
        X might be overlooked.
        X may easily be missed.
        X cannot be assessed.
        X can't be reliably assessed.
        The film is insensitive for X.
    """,
    ),
    "asked for": (
        "",
        """
        CT to exclude X.
        CT is recommended to exclude X.
        Please exclude X.
        CT to rule out X.
        Correlate for X.
        Correlate for signs of X.
        Please correlate clinically for X.
        Clinical correlation for X is recommended.
        Recommend correlation with symptoms of X.
        CT to evaluate for X.
        Follow up to assess for X.
    """,
    ),
    "advised, open": (
        "?",
        """
        Consider X.
        Consideration of X is advised.
        r/o X
        R/O X.
        rule out X
        ? X
        ?X
        Shadow at the base (? X)
    """,
    ),
    "not well seen": (
        "+",
        """
        The known X is not well seen.
        The known left X is not well visualized.
        Known X, not well demonstrated.
        The X was not fully seen.
        The X isn't well seen.
        The X is not completely imaged.
        The X is not optimally visualized.
        The X is not entirely included.
    """,
    ),
    "gone in part": (
        "+",
        """
        The X has nearly resolved.
        The X has almost completely resolved.
        The X has partially cleared.
        The X has mostly resolved.
        The X has largely cleared.
        The X is nearly gone.
        Near complete resolution of the X.
        Near-complete resolution of X.
        Partial resolution of X.
        Incomplete clearing of the X.
        Incompletely resolved X.
        Partially resolved X.
        The X hasn't resolved.
        The X has not resolved.
        Resolving X.
    """,
    ),
    "gone": (
        "-",
        """
        The X has completely resolved.
        Complete resolution of X.
        Interval resolution of the X.
        The X has since resolved.
        Resolved X.
        The X is not seen.
        The X is not clearly seen.
    """,
    ),
    "negated in other words": (
        "-",
        """
        Don't see X.
        We don't see any X.
        Do not see X.
        There isn't any X.
        There isn't X.
        Doesn't show X.
        The film does not show X.
        X - none.
        X – none.
        X: none.
        X: no.
        X - no.
        X - absent.
        X: absent.
        X - negative.
    """,
    ),
    "compared": (
        "?",
        """
        More likely X than anything else.
        Less likely X.
        Unlikely to represent X.
        This is unlikely to be X.
        X is unlikely.
        X is considered unlikely.
        X is less likely.
        X is more likely.
        Not typical of X.
        Not entirely typical for X.
        Atypical for X.
    """,
    ),
    "unlike one and so another": (
        "+",
        """
        Not typical of sarcoidosis, suggesting X.
        Not characteristic for sarcoidosis, which suggests X.
        Atypical for sarcoidosis and suggestive of X.
        This is not classic for sarcoidosis, but rather suggests X.
    """,
    ),
    "a not that ends": (
        "?",
        """
        The film is not clearly worse, and may be X.
        Not larger and may represent X.
        Not normal, possibly X.
        Not sharp, suggesting X.
        The bases are not clear, suggestive of X.
        Not expanded, concerning for X.
    """,
    ),
    "compared with before": (
        "+",
        """
        The X is not clearly worse.
        The X is not larger.
        The X is not any smaller.
        The X isn't worse.
        The X hasn't changed.
        The X has not significantly increased.
        The X is not new.
        X does not change.
    """,
    ),
}
FINDINGS = {"X": "pneumothorax", "F": "pleural effusion", "P": "pneumonia", "K": "consolidation"}
MORE = r"""
R?	It is difficult to exclude rib fractures.
	Small nodules may be missed.
	CT to exclude malignancy.
	Correlate for signs of infection.
D+	The tip of the tube is not well seen.
L?	The previous nodule is not well-seen on today's study.
F-	Effusions - none.
P?	The findings are not clearly worse, and may be pneumonia.
E+P?	Not typical of infection, suggesting edema.
E+P?	not typical of infection suggesting edema
E+P?	Not characteristic of pneumonia, suggesting edema.
E+P?	Atypical for pneumonia, suggesting edema.
E+P?	The appearance is not typical for pneumonia and suggests edema.
E+P?	Findings are atypical for infection, and rather suggest pulmonary edema.
E+P?	These changes aren't characteristic of bacterial pneumonia, but suggestive of edema.
E+O+P?	Opacities that are not classic for infection, which suggests edema.
O+P?	The infiltrate is not typical of infection.
E-P?	Not typical of infection, suggesting no edema.
E?P?	Not typical of infection, suggesting possible edema.
E?P?	Not typical of infection, suggesting edema versus pneumonia.
E?P?	Not entirely typical of infection, suggesting edema.
E?P?	Less typical of infection, more suggestive of edema.
E?P?	Not specific for infection, suggesting edema.
E?P?	Not typical of infection, suggesting against edema.
E?P?	Not typical of infection, suggest follow up for edema.
E?O+P?	Not typical of infection. Haziness suggesting edema.
E?O+P?	Not typical of infection, while the haziness suggests edema.
E?P?	Suggesting edema, not typical of infection.
P?	Uncharacteristic of pneumonia.
O+P?	Opacities which are untypical for pneumonia.
A?P?	More likely atelectasis than pneumonia.
F+	Evaluation of the left base is limited by a large effusion.
X-	Evaluation for effusion is limited, no pneumothorax.
X-F+	No pneumothorax, and there may be more; the effusion is not larger.
L+	Noncalcified nodule.
L+	Non-calcified nodule.
R-	No non-displaced fracture.
D+	Right subclavian in place.
D+	Left internal jugular terminates in the SVC.
D+	Dialysis line in place.
D+	ETT in place.
D+	Prosthetic valve.
D+	Prosthetic aortic valve.
D+	Mechanical mitral valve.
D+	Bioprosthetic valve.
D+	Spinal rods.
D+	Harrington rod.
D+	Fractured sternal wire.
D+	Sternal wires are fractured.
D+	Fractured pacemaker lead.
D+R+	Sternal wires, and an old rib fracture.
D+R+	Median sternotomy wires and a rib fracture.
	Subclavian artery calcification.
	Jugular venous distension.
C+	Enlargement of the cardiac silhouette.
C+	Enlargement of cardiac silhouette.
C+	Enlargement of the heart.
M+	Widened superior mediastinum.
M+	Widening of the superior mediastinum.
M+	Widened upper mediastinum.
M+	Prominent mediastinum.
M+	Prominent superior mediastinum.
M+	Prominence of the mediastinum.
M-	No widened superior mediastinum.
E+	Vascular engorgement.
E+	Engorged pulmonary vessels.
E+	Pulmonary venous engorgement.
E-	The vasculature is not engorged.
	Pulmonary vascular engorgement appears within limits of normal.
	Collapse of L1.
	Collapse of the T12 vertebra.
	L1 collapse.
	Collapse of T8.
	Collapsed lumbar vertebra.
A+	Collapse of the left lower lobe.
A+	Right lung collapse.
"""


def sentences() -> dict[str, dict[str, str]]:
    """Each text with what it says, by observation."""
    signs = {"+": "positive", "-": "negative", "?": "uncertain"}
    table = {}
    listed = [line.partition("\t")[::2] for line in LINES.strip("\n").splitlines()]
    listed += [line.partition("\t")[::2] for line in MORE.strip("\n").splitlines()]
    listed += [
        (letter + sign if sign else "", re.sub(r"\bX\b", finding, line.strip()))
        for sign, lines in KINDS.values()
        for line in lines.strip().splitlines()
        for letter, finding in FINDINGS.items()
    ]
    for said, text in listed:
        text = text.replace("\\n", "\n").replace("\\t", "\t")
        pairs = zip(said[::2], said[1::2], strict=True)
        table[text] = {LETTERS[letter]: signs[sign] for letter, sign in pairs}
    return table
