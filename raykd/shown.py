"""A stranger's text where it is shown: one function for each place in which some characters do more than stand there.

Names of runs, classes, slices and licences, ids and messages of teachers come from files that others wrote. HTML needs
none of these: its templates escape by themselves.
"""

from __future__ import annotations

import re
from typing import Any

_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # escape sequences begin with these; a line feed and a tab stay
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that turn the direction of what follows
    "\u2028\u2029\ud800-\udfff]"
)
_MEANT = re.compile(r"([\\`|\[\]*_])")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a spreadsheet takes for the beginning of a formula, in both widths."""


def for_terminal(text: str) -> str:
    """The text on as many lines; what would move the cursor, colour or turn the text is written in hexadecimals."""
    return _CONTROL.sub(
        lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text
    )


def for_markdown(text: str) -> str:
    """The text on one line, without tags, links, cells or emphasis of its own."""
    line = " ".join(text.split())
    escaped = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MEANT.sub(r"\\\1", escaped)


def for_spreadsheet(value: Any) -> Any:
    """A cell of a CSV file; a text that a spreadsheet would compute begins with an apostrophe, as OWASP has it.

    Numbers stay, also as texts (`-1.5`).
    """
    if not isinstance(value, str) or not value.startswith(_FORMULA) or _is_number(value):
        return value
    return f"'{value}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
