"""The grammar of names that become folders."""

from __future__ import annotations

import re

PROJECT_NAME = re.compile(r"[A-Za-z0-9_]{1,20}")
"""A project, and a site of ``SITES``, which bears its project's name."""
