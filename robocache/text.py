"""Text from files that anybody may have made, as it can be shown."""

from __future__ import annotations

import re

#: What a terminal acts on, or what would change how the rest of a line reads: C0, DEL and C1 controls, the marks that
#: turn the direction of writing, separators of lines, and halves of surrogate pairs (bytes that are no UTF-8).
_ACTIVE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def shown(text: object) -> str:
    r"""``text`` as one line that no terminal acts on; what it would act on is written ``\x1b``, ``\u202e``, ``\n``."""
    return _ACTIVE.sub(_escape, str(text))


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")
