"""`demo`: a generated data set of chest X-ray phantoms with reports, for a clone without data.

Each study has a frontal (PA) and a lateral (LL) film and a report written from the findings that
were drawn. 56% of the studies are normal; the others have one finding (60%), two (30%) or three
(10%) of the ten in `FINDINGS`, so that 900 studies hold about 600 findings. Half of the films are
8-bit PNG and half 12-bit DICOM, half of those MONOCHROME1. Split 70 / 10 / 20 (train / val / test).

On disk, it is in the R2Gen packaging, with a table of boxes:

    annotation.json            {split: [{id, report, image_path: [frontal, lateral], split}]}
    images/demo0001/0.png      or .dcm; 0 is the frontal film, 1 the lateral
    boxes.parquet              study_id, view, finding, x0, y0, x1, y1 (`BOX_COLUMNS`)

Caveats. The films are drawings of ellipses and lines, not simulated radiographs: they test code,
and whether a model looks at its images. No figure from them says anything about patients or allows
a clinical claim. Findings are large, distinct and independent of each other, unlike disease.
Wording is drawn independently of the film, so which of several wordings a report uses cannot be
predicted, and a normal study's report states things that look the same on every film. A pacemaker's
box is its generator's, without the lead; the box of edema or hyperinflation spans both lungs. A
pneumothorax shows only on the frontal film. By radiological convention the patient's left is on the
frontal film's right; on the lateral film the patient faces left.

The same arguments give the same bytes (with the same library versions). A study depends only on the
seed and its own number, so a larger data set begins with the smaller one.
"""

from uar.data.demo.dataset import write_dataset
from uar.data.demo.findings import FINDINGS

__all__ = ["FINDINGS", "write_dataset"]
