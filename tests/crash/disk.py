"""A disk that keeps only what it was told to keep: which states a power loss may leave behind.

The rules are POSIX's, not those of one file system:

* Written bytes are certain once an fsync or fdatasync of that file has returned that began after the write.
* A new name (of a file, a link, a folder, a renamed file) is certain once an fsync of its folder has
  returned that began after it; a removed name is gone for certain on the same condition.
* A rename puts one name in place and takes another away; only the folder of the new name makes it certain.
* What a failed flush covered is never certain again: the kernel may have dropped it and forgotten that.
* Of everything else any part may be there or not, in any combination; bytes may be missing, cut, or zeros.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.crash import calls
from tests.crash.events import Event

COUNTERS = "logs/receiver.counters"
"""The receiver maps it to count for the metrics; nothing in it is promised to anybody."""

Fate = Literal["kept", "dropped", "zeroed", "cut"]


@dataclass(eq=False)
class Node:
    """A file or folder.

    Attributes:
        number: its own, for sorting and keys.
        folder: it is a folder.
        writes: (offset, bytes) in their order; None for bytes is a truncation to ``offset``.
        certain: how many of the writes are durable.
        failed: writes that a failed flush covered.
        link: target of a symbolic link.
    """

    number: int
    folder: bool
    writes: list[tuple[int, bytes | None]] = field(default_factory=list)
    certain: int = 0
    failed: set[int] = field(default_factory=set)
    link: str = ""


@dataclass(eq=False)
class Change:
    """One change of names: ``puts`` and ``takes`` are (folder, name)."""

    number: int
    puts: tuple[Node, str] | None
    takes: tuple[Node, str] | None
    node: Node | None
    certain: bool = False
    failed: bool = False

    @property
    def folder(self) -> Node:
        """Whose flush makes it certain."""
        place = self.puts or self.takes
        assert place is not None
        return place[0]


class Unmodelled(Exception):
    """The program did something whose durability this model knows nothing about."""


class Disk:
    """Takes events in the order in which they happened.

    Args:
        start: a real folder; what is in it counts as durable. Nothing is copied but names and bytes.
        log: every flush makes all earlier changes of names certain, as on file systems with one log.
    """

    def __init__(self, start: Path, *, log: bool = False) -> None:
        self._log = log
        self._count = 0
        self.root = self._node(folder=True)
        self.nodes = [self.root]
        self._base: dict[Node, dict[str, Node]] = {self.root: {}}
        self._live: dict[Node, dict[str, Node]] = {}
        self._changes: list[Change] = []
        self._by_inode: dict[tuple[int, int], Node] = {}
        self._flushing: dict[int, tuple[Node | None, int, int]] = {}
        self._load(start, self.root)
        self._live = {folder: dict(names) for folder, names in self._base.items()}

    def _node(self, *, folder: bool) -> Node:
        self._count += 1
        return Node(self._count, folder)

    def _load(self, path: Path, folder: Node) -> None:
        for entry in sorted(path.iterdir()):
            node = self._node(folder=entry.is_dir())
            self.nodes.append(node)
            self._base[folder][entry.name] = node
            if node.folder:
                self._base[node] = {}
                self._load(entry, node)
            else:
                node.writes.append((0, entry.read_bytes()))
                node.certain = 1

    # -- what happens ---------------------------------------------------------------------------

    def apply(self, event: Event) -> bool:
        """Takes one event.

        Returns:
            Whether it may have changed what a power loss leaves behind.

        Raises:
            Unmodelled: it can't be judged.
        """
        name = event.name
        if name in calls.FLUSHING:
            return self._flush(event)
        if not event.ok or event.socket:
            return False
        if name == "mmap" and event.paths == (COUNTERS,):
            return False
        if name in {"io_uring_setup", "sendmmsg"} or (name == "mmap" and event.flags & 1):
            raise Unmodelled(str(event))
        if name in calls.OPENING:
            return self._opened(event)
        if name in calls.WRITING or name in {"truncate", "ftruncate"}:
            return self._wrote(event)
        return self._renamed(event)

    def _wrote(self, event: Event) -> bool:
        node = self._by_inode.get(event.inode)
        if event.name == "truncate":
            node = self._at(event.path)
        if node is None:
            return False
        written = event.name in calls.WRITING
        node.writes.append((event.offset, event.data) if written else (event.length, None))
        return True

    def _renamed(self, event: Event) -> bool:
        name = event.name
        if name in calls.REMOVING:
            self._change(None, None, event.path)
        elif name in calls.RENAMING:
            self._change(event.paths[1], self._at(event.paths[0]), event.paths[0])
        elif name in {"link", "linkat"}:
            self._change(event.paths[1], self._linked(event), None)
        elif name in {"mkdir", "mkdirat"}:
            folder = self._node(folder=True)
            self.nodes.append(folder)
            self._base[folder], self._live[folder] = {}, {}
            self._change(event.path, folder, None)
        elif name in {"symlink", "symlinkat"}:
            node = self._node(folder=False)
            node.link = "?"
            self._change(event.path, node, None)
        else:
            return False
        return True

    def _linked(self, event: Event) -> Node:
        """What gets one more name, or its first: then it is known by its descriptor."""
        if not event.path.startswith("/proc/"):
            return self._at(event.path)
        if event.inode not in self._by_inode:
            raise Unmodelled(str(event))
        return self._by_inode[event.inode]

    def _opened(self, event: Event) -> bool:
        if event.path.startswith("/"):
            return False
        parent, _, name = event.path.rpartition("/")
        folder = self._folder(parent)
        node = self._live[folder].get(name)
        if event.flags & os.O_TMPFILE == os.O_TMPFILE or not event.flags & os.O_CREAT:
            if node is not None and not node.folder:
                self._by_inode[event.inode] = node
            elif event.flags & os.O_TMPFILE == os.O_TMPFILE:
                self._by_inode[event.inode] = self._new_file()
            return False
        changed = node is None
        if node is None:
            node = self._new_file()
            self._change(event.path, node, None)
        elif event.flags & os.O_TRUNC and event.flags & (os.O_WRONLY | os.O_RDWR):
            node.writes.append((0, None))
            changed = True
        self._by_inode[event.inode] = node
        return changed

    def _new_file(self) -> Node:
        node = self._node(folder=False)
        self.nodes.append(node)
        return node

    def _folder(self, path: str) -> Node:
        node = self.root
        for part in path.split("/") if path and path != "." else []:
            node = self._live[node][part]
        return node

    def _at(self, path: str) -> Node:
        parent, _, name = path.rpartition("/")
        return self._live[self._folder(parent)][name]

    def _change(self, puts: str | None, node: Node | None, takes: str | None) -> None:
        def place(path: str | None) -> tuple[Node, str] | None:
            if path is None:
                return None
            parent, _, name = path.rpartition("/")
            return self._folder(parent), name

        change = Change(len(self._changes), place(puts), place(takes), node)
        self._changes.append(change)
        _do(self._live, change)

    def _flush(self, event: Event) -> bool:
        if event.at == "entry":
            node = None
            if event.name in {"fsync", "fdatasync"}:
                # Folders by name, files by inode: a new folder may have the number of a removed file.
                node = self._flushed_folder(event.path) or self._by_inode.get(event.inode)
            writes = len(node.writes) if node else 0
            self._flushing[event.thread] = (node, writes, len(self._changes))
            return False
        node, writes, changes = self._flushing.pop(event.thread)
        if event.name in {"sync", "syncfs"}:
            raise Unmodelled(str(event))
        if node is None:
            return False
        if not node.folder:
            if event.ok:
                node.certain = max(node.certain, writes)
                for change in self._changes[:changes] if self._log else []:
                    change.certain = True
            else:
                node.failed.update(range(node.certain, writes))
            return True
        for change in self._changes[:changes]:
            if (change.folder is node or (self._log and event.ok)) and not change.certain:
                change.certain = event.ok and not change.failed
                change.failed = not event.ok or change.failed
        return True

    def _flushed_folder(self, path: str) -> Node | None:
        try:
            node = None if path.startswith("/") else self._folder(path)
        except KeyError:
            return None  # removed meanwhile
        return node if node is not None and node.folder else None

    # -- what a power loss leaves behind --------------------------------------------------------

    def after_power_loss(
        self, keeps: Callable[[Change], bool], fate: Callable[[Node, int], Fate]
    ) -> dict[str, bytes | None]:
        """The files and folders (None) that are there afterwards, by their paths.

        Args:
            keeps: whether a change of names that is not certain survived.
            fate: what became of a write that is not certain, by its number.
        """
        names = {folder: dict(entries) for folder, entries in self._base.items()}
        for change in self._changes:
            if change.certain or keeps(change):
                _do(names, change)
        found: dict[str, bytes | None] = {}
        self._walk(self.root, "", names, fate, found)
        return found

    def _walk(
        self,
        folder: Node,
        prefix: str,
        names: dict[Node, dict[str, Node]],
        fate: Callable[[Node, int], Fate],
        found: dict[str, bytes | None],
    ) -> None:
        for name, node in names[folder].items():
            path = f"{prefix}{name}"
            if node.folder:
                found[path] = None
                self._walk(node, f"{path}/", names, fate, found)
            elif not node.link:
                found[path] = _content(node, fate)


def _do(names: dict[Node, dict[str, Node]], change: Change) -> None:
    if change.takes is not None:
        folder, name = change.takes
        names[folder].pop(name, None)
    if change.puts is not None and change.node is not None:
        folder, name = change.puts
        names[folder][name] = change.node


def _content(node: Node, fate: Callable[[Node, int], Fate]) -> bytes:
    content = bytearray()
    for number, (offset, data) in enumerate(node.writes):
        certain = number < node.certain and number not in node.failed
        what = "kept" if certain else fate(node, number)
        if what == "dropped":
            continue
        if data is None:
            del content[offset:]
            continue
        if what == "zeroed":
            data = bytes(len(data))  # noqa: PLW2901
        elif what == "cut":
            data = data[: len(data) // 2]  # noqa: PLW2901
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(data)] = data
    return bytes(content)
