"""Marks of digests: what Dagster may show of them.

Recipients know the digests of what they have. Beside the StudyInstanceUID of the hospital, which Dagster
shows, a digest would tell who the participant is. A mark is keyed by the project's key, whose owner can tell
that anyhow: equal marks mean equal bytes, and nobody else can make one.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fiona_dagster.deid import ProjectKey

_LENGTH = 16


def marks_of(key: ProjectKey, digests: Mapping[str, str]) -> dict[str, str]:
    """The mark of each digest: 16 hexadecimal digits of an HMAC-SHA256.

    Args:
        key: of the project.
        digests: hexadecimal digests by algorithm.
    """
    return {
        name: hmac.new(key.secret, f"fiona mark {name} {digest}".encode(), sha256).hexdigest()[:_LENGTH]
        for name, digest in sorted(digests.items())
    }
