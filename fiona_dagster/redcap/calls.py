"""Calls of REDCap's API: one endpoint, POST, everything JSON, tried again when a fault can pass."""

from __future__ import annotations

import logging
import math
import random
import re
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fiona_dagster.errors import RedcapRejected, RedcapSilent, RedcapUnavailable
from fiona_dagster.redcap import answers
from fiona_dagster.redcap.budget import WINDOW, CallBudget
from fiona_dagster.redcap.rows import Row
from fiona_dagster.redcap.transport import Reply, Transport

log = logging.getLogger("fiona.redcap")

FIRST_WAIT = 0.5
"""Seconds before the second try; three times as long before the third."""
LONGEST_WAIT = 10.0
"""Seconds that a server's Retry-After may make us wait inside a call; later is the caller's business."""
SILENCE_FILE = "redcap-silence"
BAN_SECONDS = 300.0
"""How long nobody calls after the server shut us out without saying for how long."""

_T = TypeVar("_T")


class Caller:
    """Makes calls with the token of one REDCap project.

    Reads, and imports that can be repeated without harm (upserts by record id and instance number), are
    tried up to ``tries`` times when the fault can pass.

    Args:
        url: API address, ``https://HOST/api/``; http only on loopback.
        token: 32 hexadecimal characters; stays out of every message, log line and repr.
        timeout: seconds for connecting and for each silence of the server.
        ca_file: certificates to trust in place of the system's.
        calls_per_minute: budget in any 60 seconds.
        budget_file: the account of calls that processes share, beside what they know of a server that does
            not answer; None: this client counts alone.
        tries: calls at most for one request, first one included.
        patience: seconds after which a request is not tried again.
        structure_file: where what the project is made of is remembered for a few minutes; None: by this
            object alone.
        sleep: how to wait; tests replace it.

    Raises:
        ConfigurationError: address, token or certificate file can't be right.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout: float = 30.0,
        ca_file: Path | str | None = None,
        calls_per_minute: int = 300,
        budget_file: Path | None = None,
        tries: int = 3,
        patience: float = math.inf,
        structure_file: Path | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        longest = WINDOW if patience == math.inf else WINDOW / 2
        budget = CallBudget(calls_per_minute, sleep=sleep, file=budget_file, longest_wait=longest)
        silence = budget_file.with_name(SILENCE_FILE) if budget_file else None
        self._transport = Transport(
            url, token, timeout=timeout, ca_file=ca_file, budget=budget, silence_file=silence
        )
        self._tries = max(1, tries)
        self._patience = patience
        self._structure_file = structure_file
        self._sleep = sleep

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._transport.url}>"

    def _rows(self, fields: Mapping[str, str], sent: Collection[str] = ()) -> list[Row]:
        answer = self._json(fields, sent=sent)
        if not isinstance(answer, list) or not all(isinstance(row, dict) for row in answer):
            raise RedcapUnavailable(
                f"REDCap call content={fields['content']}: the answer is not a list of rows"
            )
        return [{key: "" if value is None else str(value) for key, value in row.items()} for row in answer]

    def _json(
        self,
        fields: Mapping[str, str],
        known: Collection[str] = (),
        sent: Collection[str] = (),
        *,
        repeatable: bool = True,
    ) -> Any:
        tries = self._tries if repeatable else 1
        return self._call(
            fields, known, sent, tries, lambda reply: answers.parse_json(reply.content, fields["content"])
        )

    def _text(self, fields: Mapping[str, str]) -> str:
        return self._call(fields, (), (), self._tries, lambda reply: reply.body)

    def _optional(self, fields: Mapping[str, str], refusal: str) -> list[Row]:
        """Rows; none where REDCap refuses the question since the project has no such thing."""
        try:
            return self._rows(fields)
        except RedcapRejected as error:
            # that there is nothing is reported as an error 400 (redcap-api.md section 8)
            if error.status == 400 and refusal in str(error):
                return []
            raise

    def _call(
        self,
        fields: Mapping[str, str],
        known: Collection[str],
        sent: Collection[str],
        tries: int,
        parse: Callable[[Reply], _T],
        *,
        file: tuple[str, bytes] | None = None,
        is_file: Callable[[Reply], bool] = lambda _reply: False,
    ) -> _T:
        """Calls until it works, the fault can't pass, or the tries are used up."""
        attempt, started = 1, time.monotonic()
        while True:
            wait: float | None = None
            try:
                reply = self._post(fields, file)
                wait = reply.retry_after
                if is_file(reply):
                    return parse(reply)  # whatever stands in it: also a web page, or the word error
                tries = self._heed(reply, attempt, tries)
                answers.judge(
                    reply.status,
                    reply.body,
                    content=fields["content"],
                    known=_speakable(fields) | answers.field_names(known),
                    sent={*sent, *self._transport.spellings()},
                )
                return parse(reply)
            except RedcapSilent:
                raise
            except RedcapUnavailable as error:
                if attempt >= tries or time.monotonic() - started > self._patience:
                    raise
                log.warning("%s (try %d of %d)", error, attempt, tries)
            self._sleep(min(wait, LONGEST_WAIT) if wait else _back_off(attempt))
            attempt += 1

    def _heed(self, reply: Reply, attempt: int, tries: int) -> int:
        """How many tries to make: a server that wants to be left alone gets that from everybody."""
        if answers.is_somebody_else(reply.status, reply.body) and not answers.is_ban(
            reply.status, reply.body
        ):
            return attempt
        banned = answers.is_ban(reply.status, reply.body)
        asked = reply.retry_after if reply.status in (429, 503) else None
        if not banned and (asked is None or asked <= LONGEST_WAIT):
            return tries
        self._transport.pause(asked or BAN_SECONDS)
        return attempt

    def _post(self, fields: Mapping[str, str], file: tuple[str, bytes] | None = None) -> Reply:
        started = time.monotonic()
        reply = self._transport.post({"format": "json", "returnFormat": "json", **fields}, file)
        log.debug(
            "REDCap content=%s action=%s status=%d bytes=%d seconds=%.3f",
            fields["content"],
            fields.get("action", ""),
            reply.status,
            len(reply.content),
            time.monotonic() - started,
        )
        return reply


def _speakable(fields: Mapping[str, str]) -> set[str]:
    """Names in a call that may stand in an error: parameters, fields, forms, contents."""
    lists = re.compile(r"(fields|forms)\[|(content|format|returnFormat|action|field)$")
    return {key.partition("[")[0] for key in fields} | {
        text for key, text in fields.items() if lists.match(key)
    }


def _back_off(attempt: int) -> float:
    return float(FIRST_WAIT * 3 ** (attempt - 1) * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load, hides nothing
