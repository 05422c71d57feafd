"""Finding what identified the person of a study: search terms in copies.

Belongs here: finding terms in text and bytes. Stays out: making terms (``learned``), reading files,
notations of dates (``calendars``, ``dates``), character sets (``folding``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from fiona_dagster.deid import alike, calendars, counted_time, dates, spread
from fiona_dagster.deid.folding import fold, other_text, raw_view
from fiona_dagster.deid.learned import Learned
from fiona_dagster.deid.spread import Hit, Term
from fiona_dagster.deid.words import GLUED, common_words

_RUN = re.compile(r"[a-z]+|[0-9]+")
_DECIMAL = re.compile(r"([+-]?)0*(\d+)((?:\.\d*)?)")
_EXPONENT = re.compile(r"[+-]?\d*\.?\d*[eE][+-]?\d+|[+-]?\.\d+")
_LONGEST = 20
"""Digits of a number that is an id or a time."""
BINARY = frozenset(
    ["OB", "OD", "OF", "OL", "OV", "OW", "UN", "FL", "FD", "SL", "SS", "SV", "UL", "US", "UV", "AT"]
)
NUMBERS = frozenset(["DS", "IS", "TM", "AS"])


class Terms(Learned):
    """Search terms of one study, and where they stand."""

    def hits(self, data: bytes, hidden: str | None = None) -> list[Hit]:
        """Terms in bytes as they stand, and in text that is written in another way (at no place).

        Args:
            data: the bytes.
            hidden: see :func:`~fiona_dagster.deid.folding.other_text`, if it is known already.
        """
        raw = raw_view(data)
        if hidden is None:
            hidden = other_text(data, raw)
        return self.find(raw) + ([Hit(0, 0, hit.term) for hit in self.find(hidden, True)] if hidden else [])

    def find(self, text: str, thorough: bool = False) -> list[Hit]:
        """Where terms stand.

        Args:
            text: folded, or bytes as :func:`raw_view` shows them.
            thorough: for text that people wrote: grouped numbers and ids, short dates.
        """
        runs = set(_RUN.findall(text))
        found = list(self._words(text, runs))
        found += self._inside(text, runs)
        found += self._alike(text, runs)
        found += self._digits(text, runs)
        found += self._dates(text, thorough)
        if thorough:
            found += spread.grouped(text, self.numbers)
            found += spread.squeezed(text, self.compact)
            found += spread.spaced(text, self.glued, self.words)
            found += spread.broken(text, self._whole())
            found += spread.alone(text, self.single)
        return found

    def _indexed(self) -> dict[str, list[str]]:
        """Words by their first run of letters or digits; others are searched anywhere."""
        if self._index is None:
            index: dict[str, list[str]] = {}
            self._loose = []
            for word in sorted(self.words, key=lambda word: (-len(word), word)):
                first = _RUN.match(word)
                if word.isascii() and first:
                    index.setdefault(first[0], []).append(word)
                else:
                    self._loose.append(word)
            self._index = index
        return self._index

    def _words(self, text: str, runs: set[str]) -> Iterator[Hit]:
        index = self._indexed()
        if not index.keys().isdisjoint(runs):
            for run in _RUN.finditer(text):
                start = run.start()
                for word in index.get(run[0], ()):
                    end = start + len(word)
                    if text.startswith(word, start) and not _goes_on(text, end):
                        yield Hit(start, end, self.words[word])
                        break
        for word in self._loose:
            yield from self._all(text, word, self.words[word])

    @staticmethod
    def _all(text: str, word: str, term: Term) -> Iterator[Hit]:
        start = text.find(word)
        while start >= 0:
            yield Hit(start, start + len(word), term)
            start = text.find(word, start + len(word))

    def _inside(self, text: str, runs: set[str]) -> Iterator[Hit]:
        """Names inside longer words; a common word that holds one by chance is left alone."""
        letters = "\n".join(run for run in runs if len(run) >= GLUED and run not in common_words())
        for name, term in self.glued.items():
            if not name.isascii():
                yield from self._all(text, name, term)
            elif name in letters:
                for hit in self._all(text, name, term):
                    start, end = hit.start, hit.end
                    while start and "a" <= text[start - 1] <= "z":
                        start -= 1
                    while end < len(text) and "a" <= text[end] <= "z":
                        end += 1
                    if text[start:end] not in common_words():
                        yield hit
        like = alike.likened(letters)
        if like != letters:
            names = {name: term for name, term in self.glued.items() if name.isascii() and name in like}
            for word in alike.WORD.finditer(text) if names else ():
                for name, term in names.items():
                    if name in alike.likened(word[0]) and word[0] not in common_words():
                        yield Hit(*word.span(), term)

    def _alike(self, text: str, runs: set[str]) -> Iterator[Hit]:
        """Names in other spellings, and of other scripts."""
        found: dict[str, Term] = {}
        for run in runs:
            if len(run) < spread.SHORTEST_SPACED or run in common_words() or not run.isalpha():
                continue
            term = self.alike.get(alike.likened(run))
            if term is None and self.sounds:
                sound = alike.sounding(run)
                forms = (sound, alike.stem(sound), sound.removesuffix("s"))
                term = next((self.sounds[form] for form in forms if form in self.sounds), None)
            if term:
                found[run] = term
        for known in alike.WORD.finditer(text) if found else ():
            if known[0] in found:
                yield Hit(*known.span(), found[known[0]])
        for word in alike.FOREIGN.finditer(text) if self.latin and not text.isascii() else ():
            name = alike.said(word[0], self.latin)
            if name:
                yield Hit(*word.span(), self.latin[name])

    def _whole(self) -> dict[str, Term]:
        """Strong names of one word, by their letters."""
        if self._index is None or not self._names:
            tables = (self.words, self.glued, self.alike)
            self._names = {
                name: term
                for table in tables
                for name, term in table.items()
                if term.strong
                and term.kind == "name"
                and len(name) >= spread.SHORTEST_SPACED
                and name.isalpha()
            }
        return self._names

    def _digits(self, text: str, runs: set[str]) -> Iterator[Hit]:
        wanted = {run for run in runs if run.isdigit() and run.lstrip("0") in self.numbers}
        if wanted:
            for run in re.finditer(r"[0-9]+", text):
                if run[0] in wanted:
                    yield Hit(run.start(), run.end(), self.numbers[run[0].lstrip("0")])

    def _dates(self, text: str, thorough: bool) -> Iterator[Hit]:
        if not self.days:
            return
        readers: list[Callable[[str], Iterator[dates.Found]]] = [dates.compact, dates.separated]
        if thorough:
            readers += [dates.named, dates.loose, dates.mixed, calendars.abroad, calendars.coded]
        for reader in readers:
            for start, end, day in reader(text):
                term = self.days.get(day)
                if term:
                    yield Hit(start, end, term)
        for (start, end, day), by_sheet in counted_time.written(text):
            term = self.days.get(day)
            if term and (not by_sheet or (thorough and term.kind == "birth_date")):
                yield Hit(start, end, term)
        if thorough:
            yield from self._birth(text)

    def _birth(self, text: str) -> Iterator[Hit]:
        """Notations that only the day of birth is looked for in, or chance would find too much."""
        born = {day: term for day, term in self.days.items() if term.kind == "birth_date"}
        if not born:
            return
        for start, end, day in dates.six_digits(text):
            if day in born:
                yield Hit(start, end, born[day])
        years = {day[0]: term for day, term in born.items()}
        for start, end, year in calendars.born(text):
            if year in years:
                yield Hit(start, end, years[year])

    def is_value(self, text: str) -> bool:
        """Whether one of the values of an attribute is an id and nothing else."""
        return any(part.strip(" \0") in self.values for part in text.split("\\"))

    def is_number(self, text: str) -> bool:
        """Whether one of the values of DS or IS is a strong id of digits, a date, or seconds since 1970.

        What is no number at all is searched as text.
        """
        for part in text.split("\\"):
            value = part.strip(" \0")
            number = _DECIMAL.fullmatch(value)
            if not number:
                if value and not _EXPONENT.fullmatch(value) and self._is_telling_text(value):
                    return True
                continue
            if len(number[2]) >= _LONGEST:
                continue
            whole = not number[3].strip(".0")
            if self._is_time(number[1] + number[2]) or (whole and self._is_telling(number[2])):
                return True
        return False

    def _is_telling_text(self, value: str) -> bool:
        folded = fold(value)
        return self.is_value(folded) or any(hit.term.strong for hit in self.find(folded, True))

    def are_numbers(self, numbers: Iterable[int | float] | None) -> bool:
        """Whether one of the numbers of a binary value is a strong id, a date, or seconds since 1970."""
        for number in numbers or ():
            if not 10 ** (GLUED - 1) <= abs(number) < 1e19:  # nor is it none
                continue
            whole = int(number)
            if self._is_time(whole) or (number == whole and self._is_telling(str(abs(whole)))):
                return True
        return False

    def _is_time(self, number: int | str) -> bool:
        return any(day in self.days for day in counted_time.of_number(int(number)))

    def _is_telling(self, digits: str) -> bool:
        term = self.numbers.get(digits)
        if term and term.strong:
            return True
        return len(digits) == 8 and any(day in self.days for _, _, day in dates.compact(digits))


def _goes_on(text: str, end: int) -> bool:
    """Whether the run of letters or digits before ``end`` goes on there."""
    if end >= len(text):
        return False
    last, after = text[end - 1], text[end]
    return (last.isdigit() and "0" <= after <= "9") or ("a" <= last <= "z" and "a" <= after <= "z")
