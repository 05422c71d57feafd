"""Invented persons and hospitals: what the headers of the demo's studies are full of.

None of these names is anybody's. They are odd on purpose, so that a search for them finds a leak and
nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Person:
    """Everything that identifies, as it is planted in one study.

    Every field but ``age`` and ``sex`` is a string that occurs nowhere else and may be searched for.
    """

    family: str
    given: str
    PatientID: str
    other_id: str
    birth_date: str
    AccessionNumber: str
    StudyID: str
    mother: str
    referring: str
    performing: str
    operator: str
    institution: str
    department: str
    street: str
    city: str
    phone: str
    station: str
    serial: str
    insurance: str
    age: str
    sex: str

    @property
    def name(self) -> str:
        """PatientName."""
        return f"{self.family}^{self.given}"

    def planted(self) -> list[str]:
        """All strings that must not be found anywhere outside the clinical side."""
        values = [
            str(getattr(self, field.name)) for field in fields(self) if field.name not in ("age", "sex")
        ]
        parts = [part for value in values for part in value.split("^") if part]
        return sorted({*values, *parts, self.name})


PERSONS = {
    "mr": Person(
        family="Zyxomma",
        given="Quillfeather",
        PatientID="QF771204X",
        other_id="OLDQF33871",
        birth_date="19570423",
        AccessionNumber="ACC88213407",
        StudyID="STQ99173",
        mother="Underbough",
        referring="Brandywhyne^Osrick",
        performing="Thistlewight^Morwenna",
        operator="Tumblewyck^Inessa",
        institution="Fjellhaugen Kysthospital",
        department="Nevroradiologisk Avd Kveldulv",
        street="Lerkesporveien 7719",
        city="Skarvangersund",
        phone="+47 5599 77310",
        station="MRSKARV03",
        serial="SN4471920",
        insurance="INSQF5521973",
        age="068Y",
        sex="F",
    ),
    "ct": Person(
        family="Wobbegonger",
        given="Haldisson",
        PatientID="HW402918Y",
        other_id="OLDHW90214",
        birth_date="19491117",
        AccessionNumber="ACC77340921",
        StudyID="STW44820",
        mother="Plimbernath",
        referring="Grackleford^Sunniva",
        performing="Dromedarius^Petronel",
        operator="Vexillifer^Jorunn",
        institution="Holmenfossen Lungeklinikk",
        department="Thorax Seksjon Ravnkloa",
        street="Myrullbakken 4408",
        city="Tindvikeidet",
        phone="+47 7388 20914",
        station="CTTIND07",
        serial="SN9920317",
        insurance="INSHW8830417",
        age="076Y",
        sex="M",
    ),
    "us": Person(
        family="Krukkenpoel",
        given="Ysolderina",
        PatientID="YK118365Z",
        other_id="OLDYK55120",
        birth_date="19830906",
        AccessionNumber="ACC55102938",
        StudyID="STU71066",
        mother="Ravenscroftling",
        referring="Papagenostein^Ludmilla",
        performing="Quagmyre^Tancred",
        operator="Snorkelbeck^Alfhild",
        institution="Lyngheia Hjertesenter",
        department="Ekkolab Solsikken",
        street="Blaaklokkestien 1163",
        city="Ytterhavnsund",
        phone="+47 6922 41558",
        station="USLYNG11",
        serial="SN1105583",
        insurance="INSYK2294610",
        age="042Y",
        sex="F",
    ),
}
