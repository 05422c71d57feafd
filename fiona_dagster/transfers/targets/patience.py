"""Calls that may never come back: a file system whose server is gone holds whoever touches it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from fiona_dagster.errors import PeerUnavailable

Result = TypeVar("Result")


class Patience:
    """One thread that makes the calls, one after the other; whoever waits for it can give up.

    A call that was given up may still come back: nothing follows it, since the next call is only made on
    demand. The thread ends with the program.

    Args:
        name: the target, for messages.
        seconds: the longest that one call may take.
    """

    def __init__(self, name: str, seconds: float) -> None:
        self._name = name
        self._seconds = seconds
        self._calls: queue.SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]] | None] = (
            queue.SimpleQueue()
        )
        self._answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._given_up = False
        threading.Thread(target=self._work, name=f"target {name}", daemon=True).start()

    def __call__(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Calls ``function(*arguments)`` and gives its answer, or raises what it raises.

        Raises:
            PeerUnavailable: it did not come back in time, now or before.
        """
        if not self._given_up:
            self._calls.put((function, arguments))
            try:
                answer, error = self._answers.get(timeout=self._seconds)
            except queue.Empty:
                self._given_up = True
            else:
                if error is not None:
                    raise error
                return answer  # type: ignore[no-any-return]
        raise PeerUnavailable(
            f"target {self._name}: the folder does not answer within {self._seconds:g} s; look at the "
            "file server and the mount"
        )

    def __enter__(self) -> Patience:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            function, arguments = call
            try:
                self._answers.put((function(*arguments), None))
            except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
                self._answers.put((None, error))
