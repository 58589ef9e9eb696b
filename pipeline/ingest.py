"""Raw layout to study table and packed image array."""

from pipeline import paths
from uar.config import load_params
from uar.datasets import read_dataset
from uar.datasets.study import SPLITS, refuse
from uar.files import whole_file, write_json, write_table
from uar.images import drop_studies, pack_images


def ingest() -> None:
    """Read the raw data set into one study table and one packed image array."""
    params = load_params(paths.PARAMS)
    dataset = read_dataset(params.dataset)
    files = [dataset.images / path for study in dataset.studies for path in study.image_paths]
    per_study = params.dataset.images_per_study
    with whole_file(paths.IMAGES) as out:
        bad = pack_images(files, params.image.size, out)
        if params.dataset.on_bad_image == "error":
            refuse(
                [f"study {dataset.studies[row // per_study].study_id}: {bad[row]}" for row in bad],
                params.dataset.root,
                "Restore these images, or leave their studies out with dataset.on_bad_image: skip.",
            )
        skipped = {row // per_study for row in bad}
        dataset = dataset.without(skipped)
        if skipped:
            drop_studies(out, skipped, per_study)
    write_table(paths.STUDIES, dataset.table())
    write_table(paths.BOXES, dataset.boxes)
    counts = {split: sum(s.split == split for s in dataset.studies) for split in SPLITS}
    summary = {
        "studies": counts,
        "images": len(dataset.studies) * per_study,
        "boxes": len(dataset.boxes),
        "skipped_studies": len(skipped),
        "bad_images": len(bad),
    }
    write_json(paths.INGEST_SUMMARY, summary)
    print(f"ingest: {counts}, {len(skipped)} studies skipped for {len(bad)} bad images")
    for row, reason in bad.items():
        print(f"  row {row}: {reason}")
