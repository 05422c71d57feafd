"""One record that REDCap refuses holds up no other; a call that is refused as such is made once."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiona_dagster.errors import RedcapRejected, RedcapUnavailable
from fiona_dagster.redcap import answers
from fiona_dagster.transfers.halves import write_in_halves


class Server:
    """Refuses a call that holds one of ``bad``."""

    def __init__(self, bad: Sequence[int], *, whole: bool = False) -> None:
        self.bad, self.whole = set(bad), whole
        self.calls = 0
        self.taken: list[int] = []

    def write(self, numbers: Sequence[int]) -> None:
        self.calls += 1
        if self.bad & set(numbers):
            raise RedcapRejected("refused", whole=self.whole)
        self.taken += numbers


@settings(max_examples=40)
@given(st.integers(0, 200), st.sets(st.integers(0, 199), max_size=2))
def test_what_is_good_is_written_once(count: int, bad: set[int]) -> None:
    server = Server(sorted(bad))
    refused = write_in_halves(range(count), server.write)
    assert set(refused) == {number for number in bad if number < count}
    assert sorted(server.taken) == [number for number in range(count) if number not in bad]
    assert server.calls <= 1 + 2 * 8 * len(bad)


def test_what_no_record_can_mend_is_asked_once() -> None:
    server = Server(range(1000), whole=True)
    assert set(write_in_halves(range(1000), server.write)) == set(range(1000))
    assert server.calls == 1


def test_when_nothing_is_taken_the_rest_is_not_tried_one_by_one() -> None:
    """A dictionary in which a field is of another kind: REDCap says it as if it were the record."""
    server = Server(range(1000))
    assert set(write_in_halves(range(1000), server.write)) == set(range(1000))
    assert server.calls <= 30


def test_what_was_refused_with_others_is_tried_again() -> None:
    """Nobody knows whether it was at fault: it must not wait for a person."""
    server = Server([0, 1, 2, 3, 5])
    refused = write_in_halves(range(64), server.write)
    assert set(range(8, 64)) <= set(server.taken)
    by_itself = {number for number, error in refused.items() if not error.whole}
    assert by_itself <= server.bad
    assert set(refused) | set(server.taken) == set(range(64))
    assert not set(refused) & set(server.taken)


def test_nothing_to_write_is_no_call_and_an_outage_ends_it() -> None:
    server = Server([])
    nothing: list[int] = []
    assert write_in_halves(nothing, server.write) == {}
    assert server.calls == 0

    def away(numbers: Sequence[int]) -> None:
        raise RedcapUnavailable("away")

    with pytest.raises(RedcapUnavailable):
        write_in_halves([1, 2], away)


@pytest.mark.parametrize(
    ("status", "text", "whole"),
    [
        (403, "You do not have API Import/Update privileges", True),
        (403, "You do not have permissions to use the API", True),
        (200, "You do not have permissions to use the API", True),
        (400, "The following fields were not found in the project as real data fields: foo, baz", True),
        (400, "The following values of redcap_event_name are invalid: visit_11_arm_1", True),
        (400, 'The value of the parameter "content" is not valid', True),
        (400, '"7","transfer_name","x","The value is not a valid category for transfer_name"', False),
        (400, "This record is locked", False),
        (406, "The data being imported is not formatted correctly", False),
        (413, "", False),
    ],
)
@pytest.mark.parametrize("shape", ['{{"error": {}}}', "ERROR: {}", "<hash><error>{}</error></hash>"])
def test_what_redcap_says_tells_which_it_is(status: int, text: str, whole: bool, shape: str) -> None:
    body = shape.format(json.dumps(text) if shape.startswith("{") else text)
    with pytest.raises(RedcapRejected) as raised:
        answers.judge(status, body, content="record", known=(), sent=())
    assert raised.value.whole is whole
