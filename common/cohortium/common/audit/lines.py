"""Long files of lines, as they are written: one line each, none of them held twice."""

import io
import json
from collections.abc import Iterable

compact = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def joined(lines: Iterable[str]) -> bytes:
    """The lines in UTF-8, each with its end."""
    text = io.BytesIO()
    for line in lines:
        text.write(line.encode())
        text.write(b"\n")
    return text.getvalue()
