"""The 14 observations of CheXpert (Irvin et al. 2019), and what a report can say of one."""

from enum import IntEnum

NO_FINDING = "No Finding"
OBSERVATIONS = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
    NO_FINDING,
)
FINDINGS = OBSERVATIONS[:-1]  # all but No Finding
FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")  # CheXpert's


class Label(IntEnum):
    """The classes of CheXbert (Smit et al. 2020), in its order."""

    BLANK = 0  # not mentioned
    POSITIVE = 1
    NEGATIVE = 2
    UNCERTAIN = 3
