"""The original's switch file ``config/enabled``: three digits that hold parts of the gateway still.

1. the receiver; 2. pulling (C-MOVE of what is missing); 3. sending: with ``0`` nothing is delivered, and what
is due waits. A digit that is not ``0``, or that is missing, means on; so does a missing file (behaviour
reference, section 8.3). In the original the third digit switched de-identification off; nothing can do that
here.
"""

from __future__ import annotations

from dataclasses import dataclass

from fiona_dagster.config.root import DataRoot
from fiona_dagster.errors import ConfigurationError, SendingHeld


@dataclass(frozen=True)
class Switches:
    """What is switched on."""

    receiver: bool = True
    pulling: bool = True
    sending: bool = True


def read_switches(root: DataRoot) -> Switches:
    """The switch file as it is now.

    Raises:
        ConfigurationError: the file is there and can't be read.
    """
    try:
        text = root.enabled_file.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return Switches()
    except OSError as error:
        raise ConfigurationError(
            f"{root.enabled_file}: can't be read ({error.strerror}); make it a file of three digits"
        ) from None
    return Switches(*(text[at : at + 1] != "0" for at in range(3)))


def receiver_enabled(root: DataRoot) -> bool:
    """Whether the receiver may run: the first digit is not ``0``.

    Raises:
        ConfigurationError: the file is there and can't be read.
    """
    return read_switches(root).receiver


def pulling_enabled(root: DataRoot) -> bool:
    """Whether missing series may be fetched by C-MOVE: the second digit is not ``0``.

    Raises:
        ConfigurationError: the file is there and can't be read.
    """
    return read_switches(root).pulling


def sending_enabled(root: DataRoot) -> bool:
    """Whether packages may be delivered: the third digit is not ``0``.

    Raises:
        ConfigurationError: the file is there and can't be read.
    """
    return read_switches(root).sending


def require_sending(root: DataRoot) -> None:
    """Lets a delivery begin, or go on.

    Raises:
        SendingHeld: the third digit is ``0``.
        ConfigurationError: the file is there and can't be read.
    """
    if not sending_enabled(root):
        raise SendingHeld(
            f"sending is held: the third digit of {root.enabled_file} is 0; deliveries go on when it is 1"
        )
