"""Schedules as a user types them: "0: 1, 2.5: 0.3, 4: 1"."""

from __future__ import annotations

import re

from ..errors import UserError

EXAMPLE = "0: 1, 2.5: 0.3, 4: 1"


def parse_schedule(text: str, what: str = "schedule") -> list[tuple[float, float]] | None:
    """Read pairs of seconds and value from text; None when it is blank.

    Pairs are separated by commas, semicolons or line ends, seconds and value by a colon. Values are checked by whoever
    uses them. Raises UserError that names the pair it does not understand.
    """
    pairs = [pair.strip() for pair in re.split(r"[,;\n]", text)]
    result = []
    for number, pair in enumerate((pair for pair in pairs if pair), 1):
        try:
            seconds, value = (float(part) for part in pair.split(":"))
        except ValueError as error:
            raise UserError(
                f"Entry {number} of the {what}, '{pair}', is not a pair of seconds and value. Write, say, {EXAMPLE}."
            ) from error
        if not 0 <= seconds < float("inf"):
            raise UserError(f"Entry {number} of the {what} is at {seconds:g} seconds. Use a time of 0 or later.")
        result.append((seconds, value))
    return result or None
