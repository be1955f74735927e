"""HTML as text: every text and attribute escaped, tags put together by functions."""

import html


class Html(str):
    """Markup that is safe as it is; a plain str is text, and is escaped where it is put in."""

    __slots__ = ()


def text(value: str) -> Html:
    """A text, escaped."""
    return value if isinstance(value, Html) else Html(html.escape(value, quote=True))


def element(name: str, *content: str, **attributes: str) -> Html:
    """One element; `class_` becomes `class`, `aria_label` becomes `aria-label`."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value, quote=True)}"'
        for key, value in attributes.items()
        if value
    )
    return Html(f"<{name}{written}>{''.join(map(text, content))}</{name}>")


def join(*parts: str, by: str = "\n") -> Html:
    """Pieces of markup or text in a row; empty ones are left out."""
    return Html(by.join(text(part) for part in parts if part))
