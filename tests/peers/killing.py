"""Deliveries in a process that dies, as by kill -9, right before the nth thing that others see of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fiona_dagster.config import DataRoot
from fiona_dagster.ledger import store
from fiona_dagster.transfers import delivery, execution
from fiona_dagster.transfers.context import Gateway

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.peers.killing", "fiona_dagster.transfers.targets.sftp"])


def deliver_and_die(root: DataRoot, study: str, project: str, target: str, step: int) -> int | None:
    """Delivers, and is killed right before a step: a send on a socket, a commit, a rename or a removal.

    Args:
        root: the data root.
        study: StudyInstanceUID.
        project: its project.
        target: name of the target.
        step: the first is 1; 0: never.

    Returns:
        How many steps there were; None if the process was killed.
    """
    steps = _context.Value("i", 0)
    process = _context.Process(target=_child, args=(root.path, study, project, target, step, steps))
    process.start()
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL), "it failed, or is still there"
    return None if process.exitcode else int(steps.value)


def _child(root: Path, study: str, project: str, target: str, last: int, steps: Any) -> None:
    def step() -> None:
        with steps.get_lock():
            steps.value += 1
            if steps.value == last:
                os.kill(os.getpid(), signal.SIGKILL)

    with Gateway(DataRoot(root)) as gateway:
        transfer = execution.transfer_of(gateway, study, project)
        for owner, names in (
            (socket.socket, ("send", "sendall", "sendmsg")),
            (os, ("replace", "rename", "unlink", "rmdir", "sendfile", "link", "pwrite", "fsync")),
        ):
            for name in names:
                setattr(owner, name, _watched(getattr(owner, name), step))
        _watch_commits(step)
        delivery.deliver(gateway, transfer, target)


def _watched(call: Callable[..., Any], step: Callable[[], None]) -> Callable[..., Any]:
    def watched(*arguments: Any, **more: Any) -> Any:
        step()
        return call(*arguments, **more)

    return watched


def _watch_commits(step: Callable[[], None]) -> None:
    writing = store.Store.writing

    @contextmanager
    def watched(self: store.Store) -> Iterator[Any]:
        with writing(self) as db:
            yield db
            step()  # everything is done, and not committed
        step()

    store.Store.writing = watched  # type: ignore[method-assign]
