"""Regular expressions of a site: the same meaning as ``re``, and an end."""

from __future__ import annotations

import pickle
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fiona_dagster.config.patterns import LAST_LIMIT, Pattern, longest_unguarded, site_pattern
from fiona_dagster.errors import PatternTooSlow

HANGS = ["(a|aa)+$", r"^(\w|\w\w)+$", "(?x)( a | aa )+ $  # all"]
VALUE = "a" * 60 + "!"


def nothing_else(pattern: str) -> bool:
    """Whether ``re`` takes an expression."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


PIECES = st.sampled_from(
    [
        "a",
        "b",
        ".",
        "[ab]",
        "[^a]",
        "[]a]",
        r"\d",
        r"\w",
        r"\s",
        "^",
        "$",
        r"\b",
        r"\.",
        "{",
        "{e}",
        "é",
        "_",
        " ",
    ]
)
QUANTIFIERS = st.sampled_from(["", "", "", "*", "+", "?", "*?", "+?", "??", "{2}", "{1,2}", "{,2}", "{1,}"])


def grouped(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    group = st.tuples(st.sampled_from(["(", "(?:", "(?=", "(?!", "(?i:"]), inner, QUANTIFIERS)
    one = st.tuples(st.one_of(PIECES, inner), QUANTIFIERS).map("".join)
    return st.one_of(
        group.map(lambda parts: f"{parts[0]}{parts[1]}){parts[2]}"),
        st.lists(one, min_size=1, max_size=3).map("".join),
        st.tuples(inner, inner).map("|".join),
    )


EXPRESSIONS = st.recursive(PIECES, grouped, max_leaves=6).filter(nothing_else)


@settings(max_examples=40)
@given(EXPRESSIONS, st.text("abAB1. _é{e}", max_size=7))
def test_what_is_guarded_means_the_same(pattern: str, text: str) -> None:
    plain, guarded = re.compile(pattern), Pattern(pattern)
    guarded._longest = -1
    for name in ("search", "match", "fullmatch"):
        wanted, found = getattr(plain, name)(text), getattr(guarded, name)(text)
        assert (wanted is None) is (found is None)
        if wanted is not None:
            assert (wanted.span(), wanted.groups()) == (found.span(), found.groups())
    assert guarded.sub(lambda _: "-", text) == plain.sub(lambda _: "-", text)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [("a{e}", "a{e}"), ("[[:alpha:]]+", ":]"), (r"\N{LATIN SMALL LETTER A}{e}", "a{e}"), (r"\{e", "{e")],
)
@pytest.mark.filterwarnings("ignore:Possible nested set:FutureWarning")
def test_what_the_other_engine_reads_otherwise_is_escaped(pattern: str, text: str) -> None:
    guarded = Pattern(pattern)
    guarded._longest = -1
    assert guarded.fullmatch(text) is not None
    assert re.fullmatch(pattern, text) is not None


@pytest.mark.parametrize("pattern", HANGS)
def test_none_runs_for_ever(pattern: str) -> None:
    slow = Pattern(pattern, "routing rule 7: routing_allowed_patientid")
    slow._limit = LAST_LIMIT
    for method in ("search", "match", "fullmatch"):
        with pytest.raises(PatternTooSlow, match="routing rule 7: routing_allowed_patientid") as raised:
            getattr(slow, method)(VALUE)
        assert VALUE not in str(raised.value)


def test_what_ran_out_of_time_gets_less_of_it() -> None:
    """Thousands of studies may wait for the same rule."""
    slow = site_pattern("(a|aa)+$", "ruleset 3")
    for _ in range(8):
        with pytest.raises(PatternTooSlow):
            slow.search(VALUE)
    assert site_pattern("(a|aa)+$", "ruleset 3")._limit == LAST_LIMIT
    assert slow.search("aaaa") is not None, "a harmless value has time enough"


def test_a_long_text_is_guarded_too() -> None:
    """Many placings of simple repetitions: not exponential, and days for a text of a megabyte."""
    slow = Pattern(r".*a.*b.*\d.*c[^x]*d")
    slow._limit = LAST_LIMIT
    with pytest.raises(PatternTooSlow):
        slow.search("ab1c" * 250_000)
    assert slow.search("xaxbx1xcd") is not None


@pytest.mark.parametrize(
    ("pattern", "plain"),
    [
        (".*T1.*(mpr|MPRAGE).*", True),
        ("[A-Za-z0-9][A-Za-z0-9_\\-]{0,63}", True),
        (r"^(ADC|TRACE(W)?|[()*+]+)\(x\)*$", True),
        (r"\)+", True),
        ("(?P<site>[A-Z]+)-(?P<number>[0-9]{3})", True),
        ("(?:a|b)*", False),
        ("(a+)+", False),
        ("(a+){2,}", False),
        ("([)*])+", False),
        (r"(a*)\1", False),
        ("(?P<x>a*)(?P=x)", False),
        ("(?#[)(a+)+(?#])", False),
        ("(?x)a # [\n(a+)+ # ]", False),
        ("a?" * 25 + "a" * 25, False),
    ],
)
def test_what_is_certain_to_end_goes_the_fast_way(pattern: str, plain: bool) -> None:
    assert (longest_unguarded(pattern) >= 64) is plain


def test_a_pattern_is_known_by_its_words_and_goes_into_other_processes() -> None:
    one = Pattern("(a)+b", "x")
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301 - our own
    assert {one} == {Pattern("(a)+b", "x")}
    assert one != Pattern("(a)+b", "y")
    assert "(a)+b" in repr(one)
