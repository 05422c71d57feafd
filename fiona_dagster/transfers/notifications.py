"""Digests of how transfers ended, for each project and channel; numbers alone, so that nothing identifies.

What was told stands in the ledger: a digest covers everything that changed since the one before, whatever was
restarted in between. Its window and id are written down before it is sent, so that one that is sent twice (a
kill in between) is the same and can be told to be.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, replace

from fiona_dagster.config import project_names
from fiona_dagster.errors import ConfigurationError, FionaError
from fiona_dagster.ledger.store import utc_after, utc_now
from fiona_dagster.transfers.channels import Message, send
from fiona_dagster.transfers.context import Gateway

log = logging.getLogger("fiona.notifications")

SETTLED_SECONDS = 30.0
"""What changed more recently waits for the next digest: its transaction may not have ended."""
FIRST_PAUSE_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 3600.0
STATES = ("delivered", "failed", "refused", "stopped")
FAILURES = ("failed", "refused")


@dataclass(frozen=True)
class Digest:
    """What is told.

    Attributes:
        id: the same for the same project, channel and window.
        project: whose transfers.
        since: beginning of the window, UTC; until: its end.
        counts: state -> how many transfers came to it and are in it still.
        unreachable: names of targets that don't answer at this moment.
    """

    id: str
    project: str
    since: str
    until: str
    counts: dict[str, int]
    unreachable: tuple[str, ...]

    @property
    def failures(self) -> int:
        """How many transfers need a person."""
        return sum(self.counts[state] for state in FAILURES)

    @property
    def title(self) -> str:
        """One line."""
        said = ", ".join(f"{count} {state}" for state, count in self.counts.items() if count)
        return f"FIONA {self.project}: {said}"

    @property
    def text(self) -> str:
        """For a mail."""
        lines = [f"Transfers of project {self.project} from {self.since} to {self.until}:", ""]
        lines += [f"  {state}: {count}" for state, count in self.counts.items() if count]
        if self.unreachable:
            lines += ["", f"Targets that do not answer now: {', '.join(self.unreachable)}."]
        return "\n".join([*lines, "", f"At the gateway, `fiona transfers {self.project}` says which.", ""])


@dataclass(frozen=True)
class _State:
    """How far one project was told on one channel; a fact of the ledger."""

    since: str
    until: str = ""
    not_before: str = ""
    failures: int = 0


def send_due(gateway: Gateway, channel: str) -> int:
    """Sends every digest of a channel whose time has come; one that can't be sent holds up no other.

    Args:
        gateway: the open gateway.
        channel: its name in config.json.

    Returns:
        How many were sent.
    """
    sent = 0
    for project in project_names(gateway.root):
        try:
            wanted = channel in gateway.project(project).notify
        except ConfigurationError:
            continue  # said elsewhere; its transfers are told of when its file is right again
        if wanted:
            sent += _send_due(gateway, channel, project)
    return sent


def _send_due(gateway: Gateway, channel: str, project: str) -> int:
    settings = gateway.settings.notifications[channel]
    name = f"notified:{channel}:{project}"
    store = gateway.ledger.store
    text = store.fact(name)
    if text is None:  # what was before nobody asked to be told of
        store.remember(name, json.dumps(asdict(_State(since=utc_now()))))
        return 0
    state = _State(**json.loads(text))
    if state.not_before > utc_now():
        return 0
    if not state.until:
        state = replace(state, until=utc_after(-SETTLED_SECONDS))
        if state.until <= state.since:
            return 0
    digest = _digest(gateway, channel, project, state)
    if not any(digest.counts.values()) or (settings.only == "failures" and not digest.failures):
        store.remember(name, json.dumps(asdict(_State(since=state.until))))
        return 0
    store.remember(name, json.dumps(asdict(state)))
    try:
        send(settings, gateway.root, Message(digest.id, digest.title, digest.text, asdict(digest)))
    except FionaError as error:
        pause = min(FIRST_PAUSE_SECONDS * 2 ** min(state.failures, 8), LONGEST_PAUSE_SECONDS)
        state = replace(state, failures=state.failures + 1, not_before=utc_after(pause))
        log.error("notifications.%s: %s; tried again later", channel, error)  # noqa: TRY400 - for an operator
    else:
        state = _State(since=state.until, not_before=utc_after(60 * settings.interval_minutes))
    store.remember(name, json.dumps(asdict(state)))
    return int(not state.failures)


def _digest(gateway: Gateway, channel: str, project: str, state: _State) -> Digest:
    counts = dict.fromkeys(STATES, 0)
    counts |= gateway.ledger.transfers.ended_between(project, state.since, state.until, STATES)
    targets = set(gateway.project(project).targets)
    down = tuple(each.target for each in gateway.ledger.circuits.opened() if each.target in targets)
    window = f"{channel} {project} {state.since} {state.until}"
    return Digest(
        hashlib.sha256(window.encode()).hexdigest()[:32], project, state.since, state.until, counts, down
    )
