"""Reports of demo studies, in varied wording."""

from __future__ import annotations

from numpy.random import Generator

from uar.data.demo.findings import Finding

# The wordings of one sentence and their probabilities, most common first; "" leaves it out.
Wordings = tuple[tuple[float, str], ...]

NORMAL: dict[str, Wordings] = {  # a normal study, in the order of its report
    "heart": (
        (0.40, "The heart is normal in size."),
        (0.16, "Heart size within normal limits."),
        (0.10, "The cardiomediastinal silhouette is unremarkable."),
        (0.08, "Normal cardiac contour."),
        (0.06, "No cardiac enlargement."),
        (0.05, "Normal appearance of the heart and great vessels in both projections."),
        (0.04, "Cardiothoracic ratio is below one half."),
        (0.04, "Cardiac and mediastinal borders are well defined along their whole course."),
        (0.04, "Cardiac chambers have the expected shape."),
        (0.03, "Cardiac shadow is not widened."),
    ),
    "mediastinum": (
        (0.60, ""),
        (0.08, "The mediastinum is unremarkable."),
        (0.08, "Hilar structures appear normal without adenopathy."),
        (0.08, "The trachea is midline."),
        (0.08, "Thoracic aorta has regular caliber and is not tortuous."),
        (0.08, "Aortic knob is sharply outlined."),
    ),
    "lungs": (
        (0.40, "The lungs are clear."),
        (0.16, "No focal airspace disease."),
        (0.10, "Both lungs are well expanded without infiltrate."),
        (0.08, "Clear lung fields bilaterally."),
        (0.06, "There is nothing to suggest pneumonia."),
        (0.05, "Pulmonary parenchyma appears normal."),
        (0.04, "No suspicious mass, nodule or other air space process is demonstrated today."),
        (0.04, "Symmetric aeration throughout."),
        (0.04, "Lung volumes are adequate and no active pulmonary process is recognized."),
        (0.03, "Apices and bases are free of disease."),
    ),
    "vessels": (
        (0.68, ""),
        (0.08, "Pulmonary vascularity is normal."),
        (0.08, "No vascular congestion."),
        (0.08, "Vessels taper regularly towards the periphery."),
        (0.08, "Bronchovascular markings are evenly distributed."),
    ),
    "pleura": (
        (0.40, "No pneumothorax or pleural effusion."),
        (0.16, "There is no effusion."),
        (0.10, "Pleural spaces are clear."),
        (0.08, "Negative for pneumothorax."),
        (0.06, "Costophrenic angles are sharp."),
        (0.05, "No free fluid or air is detected in either side of the chest cavity."),
        (0.04, "Pleura shows no thickening."),
        (0.04, "Diaphragm is smooth on both views."),
        (0.04, "Neither hemithorax contains a collection."),
        (0.03, "Lateral and posterior sulci are free."),
    ),
    "bones": (
        (0.36, ""),
        (0.08, "No acute bony abnormality."),
        (0.08, "The osseous structures are intact."),
        (0.08, "Bony thorax unremarkable."),
        (0.08, "Visualized skeleton shows no fracture."),
        (0.08, "Soft tissues are within normal limits."),
        (0.08, "Alignment of the spine is preserved."),
        (0.08, "Ribs and clavicles demonstrate no displaced fracture or destructive lesion."),
        (0.08, "Vertebral body heights are maintained."),
    ),
}

OTHERWISE: dict[str, Wordings] = {  # normal parts of an abnormal study, said in fewer ways
    "heart": (
        (0.60, "The heart is normal in size."),
        (0.20, "Heart size within normal limits."),
        (0.20, ""),
    ),
    "lungs": (
        (0.70, ""),
        (0.16, "The lungs are otherwise clear."),
        (0.14, "Remaining lung fields are clear."),
    ),
    "pleura": (
        (0.60, "No pneumothorax or pleural effusion."),
        (0.20, "There is no effusion or pneumothorax."),
        (0.20, "Pleural spaces are clear."),
    ),
    "effusion": (
        (0.60, "No pleural effusion."),
        (0.20, "There is no effusion."),
        (0.20, ""),
    ),
    "pneumothorax": (
        (0.60, "No pneumothorax."),
        (0.20, "Negative for pneumothorax."),
        (0.20, ""),
    ),
}

ABNORMAL: dict[str, Wordings] = {
    "cardiomegaly": (
        (0.85, "There is {detail} cardiomegaly with enlargement of the cardiac silhouette."),
        (0.10, "The heart is enlarged, {detail} in degree."),
        (0.05, "The heart shows {detail} enlargement."),
    ),
    "pleural effusion": (
        (0.85, "A {detail} {side} pleural effusion is present with blunting of the {side} angle."),
        (0.10, "Layering fluid forms a {detail} effusion on the {side}."),
        (0.05, "There is a {detail} {side} pleural effusion."),
    ),
    "pneumothorax": (
        (0.85, "A {detail} {side} pneumothorax is identified with a visible pleural line."),
        (0.10, "{side} sided pneumothorax which is {detail}."),
        (0.05, "There is a {detail} pneumothorax on the {side}."),
    ),
    "consolidation": (
        (0.85, "Dense consolidation occupies the {side} {detail} lobe suspicious for pneumonia."),
        (0.10, "Focal consolidation in the {side} {detail} lung."),
        (0.05, "{side} {detail} lobe airspace consolidation."),
    ),
    "nodule": (
        (0.85, "A round well circumscribed nodule projects over the {side} {detail} zone."),
        (0.10, "There is a solitary nodule in the {side} {detail} lung."),
        (0.05, "{side} {detail} lung nodule."),
    ),
    "atelectasis": (
        (0.85, "Bandlike atelectasis or scarring at the {side} lung base."),
        (0.10, "Streaky {side} basilar opacity reflects subsegmental atelectasis."),
        (0.05, "There is mild {side} basilar atelectasis."),
    ),
    "edema": (
        (0.85, "Diffuse bilateral perihilar interstitial opacities compatible with edema."),
        (0.10, "Increased interstitial markings suggest pulmonary edema."),
        (0.05, "There is interstitial edema."),
    ),
    "hyperinflation": (
        (0.85, "Hyperinflation with flattened hemidiaphragms consistent with emphysema."),
        (0.10, "Lungs are hyperexpanded, hyperinflation suggests chronic obstructive disease."),
        (0.05, "There is hyperinflation of the lungs."),
    ),
    "pacemaker": (
        (0.85, "A {side} chest wall pacemaker generator has its lead tip in the right ventricle."),
        (0.10, "Cardiac pacemaker noted on the {side}."),
        (0.05, "{side} subclavian pacemaker in place."),
    ),
    "hiatal hernia": (
        (0.85, "Retrocardiac air fluid level represents a hiatal hernia."),
        (0.10, "Moderate hiatal hernia behind the heart."),
        (0.05, "There is a hiatal hernia."),
    ),
}


def write_report(findings: tuple[Finding, ...], rng: Generator | None) -> str:
    """The report of a study, in the order heart, lungs, pleura, then bones or devices.

    Args:
        rng: draws each sentence's wording; None selects the most common ones.
    """

    def word(wordings: Wordings) -> str:
        if rng is None:
            return wordings[0][1]
        return wordings[rng.choice(len(wordings), p=[share for share, _ in wordings])][1]

    def say(sentence: str) -> None:
        if sentence:
            sentences.append(sentence[0].upper() + sentence[1:])

    def describe(*names: str) -> None:
        for finding in (by_name[name] for name in names if name in by_name):
            sentence = word(ABNORMAL[finding.name])
            say(sentence.format(side=finding.side, detail=finding.detail))

    by_name = {finding.name: finding for finding in findings}
    sentences: list[str] = []
    if not findings:
        for wordings in NORMAL.values():
            say(word(wordings))
        return " ".join(sentences)

    describe("cardiomegaly", "hiatal hernia")
    if "cardiomegaly" not in by_name:
        say(word(OTHERWISE["heart"]))
    lungs = ("hyperinflation", "edema", "consolidation", "nodule", "atelectasis")
    describe(*lungs)
    say(word(OTHERWISE["lungs"] if by_name.keys() & set(lungs) else NORMAL["lungs"]))
    describe("pleural effusion", "pneumothorax")
    match "pleural effusion" in by_name, "pneumothorax" in by_name:
        case False, False:
            say(word(OTHERWISE["pleura"]))
        case False, True:
            say(word(OTHERWISE["effusion"]))
        case True, False:
            say(word(OTHERWISE["pneumothorax"]))
    describe("pacemaker")
    return " ".join(sentences)
