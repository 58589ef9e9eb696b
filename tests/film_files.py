"""Film files for tests: PNG and JPEG by Pillow, DICOM by pydicom, compressed by GDCM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def save_dicom(path: Path, pixels: np.ndarray | None, **tags: Any) -> Path:
    """Write a DICOM file of 8- or 16-bit `pixels`; `tags` override the defaults, None drops one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    film = dicom(pixels)
    for tag, value in tags.items():
        if value is None:
            delattr(film, tag)
        else:
            setattr(film, tag, value)
    film.save_as(path, enforce_file_format=True)
    return path


def dicom(pixels: np.ndarray | None) -> pydicom.Dataset:
    """A DICOM film of 8- or 16-bit `pixels`."""
    film = pydicom.Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.SOPClassUID = DigitalXRayImageStorageForPresentation
    film.SOPInstanceUID = generate_uid(entropy_srcs=["film"])
    if pixels is not None:
        bits = pixels.dtype.itemsize * 8
        film.SamplesPerPixel = 1
        film.PhotometricInterpretation = "MONOCHROME2"
        film.Rows, film.Columns = pixels.shape[:2]
        film.BitsAllocated, film.BitsStored, film.HighBit = bits, bits, bits - 1
        film.PixelRepresentation = int(pixels.dtype.kind == "i")
        film.PixelData = pixels.tobytes()
    return film


def lut(values: np.ndarray, first: int, bits: int) -> pydicom.Dataset:
    """An item of a modality or VOI LUT sequence."""
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "US", [len(values) % 65536, first, bits])
    item.add_new("LUTData", "OW", values.tobytes())
    return item


SYNTAXES = {
    "JPEG baseline": gdcm.TransferSyntax.JPEGBaselineProcess1,
    "JPEG lossless": gdcm.TransferSyntax.JPEGLosslessProcess14,
    "JPEG lossless SV1": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    "JPEG-LS": gdcm.TransferSyntax.JPEGLSLossless,
    "JPEG 2000 lossless": gdcm.TransferSyntax.JPEG2000Lossless,
    "JPEG 2000": gdcm.TransferSyntax.JPEG2000,
    "RLE": gdcm.TransferSyntax.RLELossless,
}


def compress(path: Path, syntax: str) -> Path:
    """Rewrite a DICOM file in one of `SYNTAXES`."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(SYNTAXES[syntax]))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return path
