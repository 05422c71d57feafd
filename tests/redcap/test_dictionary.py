from __future__ import annotations

import csv
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fiona_dagster.redcap.dictionary import COLUMNS, Dictionary, checkbox_column, shipped_projects

SHIPPED = {project.name: project for project in shipped_projects()}

# Behaviour reference, 7.1 to 7.5: instruments and their fields, in order.
EXPECTED = {
    "Incoming": {
        "incoming_studies": "study_instance_uid study_institution_name study_aetitle_sender "
        "study_aetitle_addressed study_patient_name study_patient_id study_description study_date study_time "
        "study_accession_number study_completeness",
        "series": "series_instance_uid series_description series_date series_time series_num_files "
        "series_sequence_name series_classify_types",
        "transfers": "transfer_info_text transfer_requested_date transfer_project_name transfer_name "
        "transfer_event_name transfer_withdrawn transfer_date transfer_error transfer_mapped_uid "
        "transfer_error_message",
    },
    "DataTransferProjects": {
        "leave_alone_do_not_touch": "record_id leave_alone_notes leave_alone_current_rek leave_alone_mrn",
        "projects": "project_name project_type project_contact project_contact_email project_patient_naming "
        "project_rec_number project_rec_start_date project_rec_end_date project_end_type project_token "
        "project_active project_import_rule_1_tag project_import_rule_1_regexp project_use_autoid "
        "project_autoid_aetitle",
        "rewritepixelexclusions": "rewrite_ex_tag rewrite_ex_reg",
    },
    "Routing": {
        "routing": "record_id routing_description routing_active routing_dest_project "
        "routing_incoming_aetitle "
        "routing_sending_aetitle routing_allowed_patientid routing_allowed_patientname routing_event_name"
    },
    "CouplingList": {
        "coupling_list": "record_id cl_accessionnumber cl_projectname cl_subjectid cl_eventname cl_date"
    },
    "AutoID": {"autoid": "record_id autoid_project_name autoid_hash autoid_value autoid_method"},
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_shipped_dictionaries_have_the_fields_that_sites_have(name: str) -> None:
    dictionary = SHIPPED[name].dictionary
    found = {form: " ".join(field.name for field in dictionary.on_form(form)) for form in dictionary.forms}
    assert found == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_the_files_have_redcaps_18_columns_in_order(name: str) -> None:
    text = (resources.files("fiona_dagster.redcap") / "dictionaries" / f"{name}.csv").read_text("utf-8")
    lines = list(csv.reader(text.splitlines()))
    assert tuple(lines[0]) == COLUMNS
    assert {len(line) for line in lines} == {18}


def test_types_validations_and_choices_of_incoming() -> None:
    dictionary = SHIPPED["Incoming"].dictionary
    assert SHIPPED["Incoming"].repeating == ("series", "transfers")
    assert dictionary.record_id == "study_instance_uid"
    assert dictionary.by_name["transfer_requested_date"].validation == "datetime_ymd"
    assert dictionary.by_name["series_num_files"].validation == "integer"
    assert dictionary.by_name["transfer_error"].columns == tuple((f"transfer_error___{n}", n) for n in "123")
    assert not dictionary.by_name["transfer_info_text"].exported


def test_a_comma_in_a_label_stays_in_it() -> None:
    field = SHIPPED["DataTransferProjects"].dictionary.by_name["rewrite_ex_tag"]
    assert field.choices == (("1", "(0020,4000) Image Comments"), ("2", "(0008,103E) Series Description"))


@pytest.mark.parametrize(
    ("code", "column"),
    [("1", "meds___1"), ("-99", "meds____99"), ("NASK", "meds___nask"), ("a_1", "meds___a_1")],
)
def test_checkbox_columns_are_named_as_redcap_does(code: str, column: str) -> None:
    assert checkbox_column("meds", code) == column


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"field_name": "a", "form_name": ""}],
        [{"field_name": "", "form_name": "f"}],
        [{"field_name": "a", "form_name": "f"}, {"field_name": "a", "form_name": "g"}],
    ],
)
def test_a_dictionary_without_sense_is_refused(rows: list[dict[str, str]]) -> None:
    with pytest.raises(ValueError, match=r"dictionary"):
        Dictionary.from_rows(rows)


@given(
    st.dictionaries(
        st.from_regex(r"[a-z0-9]{1,4}", fullmatch=True),
        st.from_regex(r"[A-Za-z ,]{1,9}", fullmatch=True),
        min_size=1,
    )
)
def test_choices_are_read_as_they_were_written(choices: dict[str, str]) -> None:
    text = " | ".join(f"{code}, {label}" for code, label in choices.items())
    row = {
        "field_name": "f",
        "form_name": "g",
        "field_type": "checkbox",
        "select_choices_or_calculations": text,
    }
    field = Dictionary.from_rows([row]).fields[0]
    assert field.choices == tuple((code, label.strip()) for code, label in choices.items())
    assert [code for _, code in field.columns] == list(choices)
