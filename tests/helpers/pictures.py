"""Picture files that Pillow can't write."""

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid


def dicom(path, values, **tags):
    """Write pixels ``[H, W]`` or ``[F, H, W]`` of 16 bits as an uncompressed DICOM file."""
    values = np.asarray(values, np.uint16)
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    header.Rows, header.Columns = values.shape[-2:]
    header.SamplesPerPixel, header.PixelRepresentation = 1, 0
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit, header.PhotometricInterpretation = 15, "MONOCHROME2"
    if values.ndim == 3:
        header.NumberOfFrames = len(values)
    for name, value in tags.items():
        setattr(header, name, value)
    header.PixelData = values.tobytes()
    pydicom.dcmwrite(path, header, enforce_file_format=True)
    return path
