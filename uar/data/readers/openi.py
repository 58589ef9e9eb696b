"""IU X-Ray from Open-i (https://openi.nlm.nih.gov/faq#collection).

    ecgen-radiology/1.xml                  from NLMCXR_reports.tgz
    NLMCXR_png/CXR1_1_IM-0001-3001.png     from NLMCXR_png.tgz, or
    NLMCXR_dcm/1/1_IM-0001-3001.dcm        from NLMCXR_dcm.tgz; the PNG files are used if both exist

A report holds its sections as `AbstractText` by `Label` and claims its films as `parentImage` by
`id`, which is the film's file name; films may be in subfolders. Open-i does not state views, but
those of R2Gen's studies are known (see `iu_xray`). Cite Demner-Fushman et al. (JAMIA 2016).
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from xml.etree.ElementTree import ElementTree, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse

from uar.core.config import DatasetParams
from uar.core.errors import UserError
from uar.core.progress import progress
from uar.data.readers.iu_xray import (
    SECTIONS_OFFERED,
    SPLITS_OFFERED,
    Examination,
    ListedFilm,
    assemble,
)
from uar.data.study import (
    Dataset,
    Layout,
    image_files,
    leaves_folder,
    links_out,
    refuse,
)

_UID = re.compile(r"CXR(\d{1,9})")


def read(params: DatasetParams) -> Dataset:
    """Read the XML reports under `params.root`, and find their films.

    Raises:
        UserError: there is no image folder; a report is not safe, well-formed XML, has no uId or
            another report's; two images share a name; or as in `iu_xray.assemble`. All faulty
            reports are listed at once.
    """
    folder = params.root / "ecgen-radiology"
    kinds = [params.root / name for name in ("NLMCXR_png", "NLMCXR_dcm")]
    images = next((kind for kind in kinds if kind.is_dir()), kinds[0])
    on_disk = {
        PurePosixPath(name).stem: path for name, path in image_files(images, params.root).items()
    }
    examinations: dict[int, Examination] = {}
    faults: list[str] = []
    found = sorted(folder.glob("*.xml"))
    for path in progress(found, "openi", len(found), "report"):
        try:
            if links_out(path, params.root):
                raise UserError("a link that leads out of dataset.root")
            examination = _examination(parse(path, forbid_dtd=True), path.name, on_disk)
        except (ParseError, ValueError, LookupError) as fault:
            faults.append(f"{path.name}: {_explain(fault)}")
            continue
        if examination.uid in examinations:
            other = examinations[examination.uid].source
            faults.append(f"{path.name}: {other} also has the uId CXR{examination.uid}")
        examinations[examination.uid] = examination
    refuse(faults, folder, "Restore or remove these reports.")
    return assemble(examinations, params, images, on_disk.values())


LAYOUT = Layout(
    read,
    "Open-i's own: ecgen-radiology/*.xml, and NLMCXR_png/ or NLMCXR_dcm/",
    marker="ecgen-radiology",
    splits=SPLITS_OFFERED,
    sections=SECTIONS_OFFERED,
)


def _examination(report: ElementTree, source: str, on_disk: dict[str, str]) -> Examination:
    uid_node = report.find(".//uId")
    found = None if uid_node is None else uid_node.get("id")
    uid = _UID.fullmatch(found or "")
    if uid is None:
        raise UserError(f"found the uId {found!r:.40}, expected one like CXR1")
    sections: dict[str, str] = {}
    for node in report.iter("AbstractText"):
        name, text = node.get("Label", "").lower(), "".join(node.itertext())
        sections[name] = f"{sections[name]} {text}" if name in sections else text
    names = {node.get("id", ""): None for node in report.iter("parentImage")}
    for name in names:
        if leaves_folder(name):
            raise UserError(f"parentImage {name!r} leaves the images folder")
    films = tuple(_film(name, uid[0], on_disk) for name in names)
    return Examination(int(uid[1]), sections, films, source)


def _film(parent_image: str, uid: str, on_disk: dict[str, str]) -> ListedFilm:
    name = parent_image.removeprefix(f"{uid}_")  # the DICOM files' names lack the leading CXR1_
    path = on_disk.get(parent_image) or on_disk.get(name)
    return ListedFilm(name, path or f"{parent_image}.png", on_disk=path is not None)


def _explain(fault: Exception) -> str:
    if isinstance(fault, ParseError):
        return f"not well-formed XML ({fault})"
    if isinstance(fault, DefusedXmlException):
        return "XML with a document type or entities, which are refused"
    return str(fault)
