"""``python -m fiona_dagster.cli`` is ``fiona``."""

from fiona_dagster.cli import main

main()
