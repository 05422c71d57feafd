"""Our own rules on headers made for the purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from fiona_dagster.studies import InstanceHeader, classify, default_rules

RULES = default_rules()
MANUFACTURER, MODALITY, IMAGE_TYPE = 0x00080070, 0x00080060, 0x00080008
DESCRIPTION, SEQUENCE, ORIENTATION, CLASS = 0x0008103E, 0x00180024, 0x00200037, 0x00080016


def types(**values: str) -> set[str]:
    names = {
        "manufacturer": (MANUFACTURER, "LO"),
        "modality": (MODALITY, "CS"),
        "image_type": (IMAGE_TYPE, "CS"),
        "description": (DESCRIPTION, "LO"),
        "sequence": (SEQUENCE, "SH"),
        "orientation": (ORIENTATION, "DS"),
        "sop_class": (CLASS, "UI"),
        "positions": (0x00200105, "IS"),
        "scanning": (0x00180020, "CS"),
        "b_value": (0x00189087, "DS"),
        "agent": (0x00180010, "LO"),
        "kernel": (0x00181210, "SH"),
        "corrected": (0x00280051, "CS"),
        "angio_flag": (0x00180025, "CS"),
        "contrast": (0x00089209, "CS"),
    }
    header = InstanceHeader(Path("none"))
    for name, value in values.items():
        tag, vr = names[name]
        header.elements[tag] = (vr, value.encode())
    return set(classify([header], RULES))


@pytest.mark.parametrize(
    ("manufacturer", "expected"),
    [
        ("SIEMENS", "SIEMENS"),
        ("Siemens Healthineers", "SIEMENS"),
        ("GE MEDICAL SYSTEMS", "GE"),
        ("G.E. Medical Systems", "GE"),
        ("GENESIS_SIGNA", "GE"),
        ("Philips Medical Systems", "PHILIPS"),
        ("TOSHIBA_MEC", "CANON"),
        ("UIH", "UIH"),
        ("Gerhard", None),
        ("Acme", None),
    ],
)
def test_manufacturers(manufacturer: str, expected: str | None) -> None:
    assert types(manufacturer=manufacturer) == ({expected} if expected else set())


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        ("1\\0\\0\\0\\1\\0", {"axial"}),
        ("0.98\\0.1\\0\\-0.1\\0.95\\-0.3", {"axial"}),
        ("1\\0\\0\\0\\0\\-1", {"coronal"}),
        ("0\\1\\0\\0\\0\\-1", {"sagittal"}),
        ("0.7\\0.7\\0\\0\\0\\-1", {"oblique"}),
        ("-1\\0\\0\\0\\-1\\0", {"axial"}),  # prone
        ("-1\\0\\0\\0\\1\\0", {"axial"}),  # feet first
        ("0\\-1\\0\\1\\0\\0", {"axial"}),  # on the side
        ("0.7\\0.7\\0\\-0.7\\0.7\\0", {"axial"}),  # turned in its plane
        ("1\\0\\0\\0\\0\\1", {"coronal"}),
        ("0\\-1\\0\\0\\0\\1", {"sagittal"}),
        ("1\\0\\0\\0\\0.8\\0.6", {"oblique"}),
        ("1\\0\\0", {"oblique"}),
    ],
)
def test_orientations(orientation: str, expected: set[str]) -> None:
    assert types(orientation=orientation) == expected


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("t1_mprage_sag_p2", {"T1"}),
        ("Ax T1 FSE", {"T1"}),
        ("3D BRAVO", {"T1"}),
        ("t2_tse_tra", {"T2"}),
        ("AX T2 FLAIR", {"FLAIR"}),
        ("T2* GRE", set()),
        ("ep2d_diff_64dir", {"diffusion"}),
        ("DTI_32", {"diffusion"}),
        ("rsfMRI_AP", {"functional"}),
        ("BOLD task", {"functional"}),
        ("gre_field_mapping", {"field map"}),
        ("SpinEchoFieldMap_AP", {"field map"}),
        ("fMRI field map", {"field map"}),
        ("localizer", {"localizer"}),
        ("3-plane loc", {"localizer"}),
        ("Difficult case", set()),
        ("ROUTINE HEAD", set()),
    ],
)
def test_mr_protocol_names(description: str, expected: set[str]) -> None:
    assert types(modality="MR", description=description) == {"MR"} | expected


def test_names_of_protocols_mean_nothing_for_other_modalities() -> None:
    assert types(modality="CT", description="T1 to T12 spine") == {"CT"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"manufacturer": "SIEMENS", "image_type": "ORIGINAL\\PRIMARY\\M\\MOSAIC"},
            {"SIEMENS", "original", "mosaic"},
        ),
        ({"image_type": "DERIVED\\SECONDARY"}, {"derived"}),
        ({"modality": "CT", "image_type": "ORIGINAL\\PRIMARY\\LOCALIZER"}, {"CT", "original", "localizer"}),
        ({"modality": "MR", "sequence": "*ep_b1000#5"}, {"MR", "diffusion"}),
        ({"modality": "MR", "b_value": "800"}, {"MR", "diffusion"}),
        ({"modality": "MR", "b_value": "0"}, {"MR"}),
        ({"modality": "MR", "positions": "200", "scanning": "EP\\GR"}, {"MR", "functional"}),
        ({"modality": "PT"}, {"PET"}),
        ({"modality": "US"}, {"ultrasound"}),
        ({"modality": "OT", "sop_class": "1.2.840.10008.5.1.4.1.1.7"}, {"screenshot"}),
        ({"modality": "SR", "sop_class": "1.2.840.10008.5.1.4.1.1.88.33"}, {"structured report"}),
        (
            {"modality": "SR", "sop_class": "1.2.840.10008.5.1.4.1.1.88.67"},
            {"structured report", "dose report"},
        ),
    ],
)
def test_other_types(values: dict[str, str], expected: set[str]) -> None:
    assert types(**values) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"modality": "MR", "description": "TOF_3D_multi-slab"}, {"angiography"}),
        ({"modality": "MR", "angio_flag": "Y"}, {"angiography"}),
        ({"modality": "XA"}, {"X-ray", "angiography"}),
        ({"modality": "CT", "description": "CT-A Carotis 1.0"}, {"CT arterial phase", "angiography"}),
        ({"modality": "MR", "description": "ep2d_perf_p2"}, {"perfusion"}),
        ({"modality": "MR", "contrast": "T1"}, {"T1"}),
        ({"modality": "MR", "contrast": "T2"}, {"T2"}),
        ({"modality": "MR", "contrast": "T2_STAR"}, set()),
        ({"modality": "MR", "contrast": "FLUID_ATTENUATED"}, {"FLAIR"}),
        ({"modality": "MR", "contrast": "DIFFUSION"}, {"diffusion"}),
        ({"modality": "MR", "contrast": "PERFUSION"}, {"perfusion"}),
        ({"modality": "MR", "contrast": "FLOW_ENCODED"}, {"angiography"}),
        ({"modality": "MR", "description": "pCASL_3d_tra"}, {"perfusion"}),
        ({"modality": "MR", "image_type": "DERIVED\\PRIMARY\\PERFUSION\\RCBV"}, {"derived", "perfusion"}),
        ({"modality": "MR", "sop_class": "1.2.840.10008.5.1.4.1.1.4.2"}, {"spectroscopy"}),
        ({"modality": "MR", "description": "svs_se_30"}, {"spectroscopy"}),
        ({"modality": "CT", "agent": "Iomeron 400"}, {"CT contrast"}),
        ({"modality": "CT", "agent": "NONE"}, set()),
        ({"modality": "CT", "agent": ""}, set()),
        ({"modality": "CT", "description": "Head non-contrast 1.0"}, {"CT unenhanced"}),
        (
            {"modality": "CT", "description": "Abd portal venous", "agent": "x"},
            {"CT venous phase", "CT contrast"},
        ),
        ({"modality": "CT", "description": "Abd delayed 5 min"}, {"CT delayed phase"}),
        ({"modality": "CT", "kernel": "B31f"}, {"CT soft kernel"}),
        ({"modality": "CT", "kernel": "Br40d\\3"}, {"CT soft kernel"}),
        ({"modality": "CT", "kernel": "STANDARD"}, {"CT soft kernel"}),
        ({"modality": "CT", "kernel": "FC18"}, {"CT soft kernel"}),
        ({"modality": "CT", "kernel": "B70f"}, {"CT sharp kernel"}),
        ({"modality": "CT", "kernel": "BONEPLUS"}, {"CT sharp kernel"}),
        ({"modality": "CT", "kernel": "FC52"}, {"CT sharp kernel"}),
        ({"modality": "CT", "kernel": "YB"}, {"CT sharp kernel"}),
        ({"modality": "PT", "corrected": "DECY\\ATTN\\SCAT"}, {"PET corrected"}),
        ({"modality": "PT", "corrected": "DECY\\RAN"}, {"PET uncorrected"}),
        (
            {"modality": "OT", "sop_class": "1.2.840.10008.5.1.4.1.1.7", "description": "Dose Report"},
            {"screenshot", "dose report"},
        ),
    ],
)
def test_types_of_a_series_by_what_its_header_says(values: dict[str, str], expected: set[str]) -> None:
    assert types(**values) - {"MR", "CT", "PET"} == expected
