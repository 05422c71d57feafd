"""Asking the sources of studies what they have: works off the questions that stand in the ledger.

Belongs here: which source is asked about which study, what an answer means. Stays out: the rules of
completion (``studies.completion``), the process that calls this (:mod:`outreach`).
"""

from __future__ import annotations

import logging

from fiona_dagster.config import Source
from fiona_dagster.dicom.peers import Peer
from fiona_dagster.dicom.sources import count_study
from fiona_dagster.errors import FionaError, PeerUnavailable
from fiona_dagster.ledger import Count
from fiona_dagster.transfers.context import Gateway

log = logging.getLogger("fiona.outreach")


def sources_of(gateway: Gateway, study: str) -> list[str]:
    """Names of the sources that are asked about a study: those that list one of its senders, or nobody."""
    configured = gateway.settings.sources
    if not configured:
        return []
    senders = gateway.ledger.evidence.senders(study)
    return [name for name, source in configured.items() if not source.callers or senders & {*source.callers}]


def peer_of(source: Source) -> Peer:
    """A source as a peer to talk to."""
    return Peer(
        source.host,
        source.port,
        called=source.called_ae_title,
        calling=source.calling_ae_title,
        timeout=source.timeout_seconds,
    )


def answer_questions(gateway: Gateway, name: str) -> int:
    """Asks one source everything that stands open, and books what it says.

    A source that can't be reached is not tried again in the same round: all its questions are answered
    with "no evidence", so that no study waits for it longer than once.

    Args:
        gateway: the open gateway.
        name: the source, as in ``sources`` of config.json; one that is gone leaves its questions without
            evidence.

    Returns:
        The number of questions that were answered.
    """
    book = gateway.ledger.evidence
    source = gateway.settings.sources.get(name)
    unreachable = "" if source else "it is not configured any more"
    questions = book.questions(name)
    for question in questions:
        if source is None or unreachable:
            book.answer(question, why=unreachable)
            continue
        try:
            _ask(gateway, source, question)
        except FionaError as error:
            log.warning("source %s: %s", name, error)
            book.answer(question, why=str(error))
            if isinstance(error, PeerUnavailable):
                unreachable = str(error)
    return len(questions)


def _ask(gateway: Gateway, source: Source, question: Count) -> None:
    book = gateway.ledger.evidence
    count = count_study(peer_of(source), question.study)
    if count is None:
        book.answer(question, why="it does not know the study")
    elif not count.instances and not count.series:
        book.answer(question, why="it gave no numbers")
    else:
        log.info("source %s counts %d instances of %s", question.source, count.instances, question.study)
        book.answer(question, instances=count.instances, series=count.series)
