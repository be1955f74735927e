"""Reading what people write: one line that names file and key, and one byte form."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from cohortium.common.document import (
    Document,
    canonical,
    digest,
    load,
    one_line,
    parse,
    parse_json,
)
from cohortium.common.errors import DocumentError, ProtocolError


class Inner(Document):
    width: Annotated[float, Field(gt=0)] = 1.0
    on: bool = False


class Paper(Document):
    title: str
    pages: int = 1
    authors: tuple[str, ...] = ()
    inner: Inner = Inner()
    by_name: Mapping[str, Inner] = Field(default_factory=dict)


def refusal(path: Path, text: str | bytes) -> str:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(DocumentError) as caught:
        load(path, Paper)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('title = "a"\npags = 2', 'unknown key "pags"; did you mean "pages"?'),
        ('title = "a"\nzzzz = 2', 'unknown key "zzzz"; known here: authors, by_name'),
        ('title = "a"\n[inner]\nwidht = 2', 'unknown key "inner.widht"; did you mean "width"?'),
        ('title = "a"\n[by_name.x]\nonn = true', '"by_name.x.onn"; did you mean "on"?'),
        ("pages = 2", '"title" is missing'),
        ('title = "a"\npages = "2"', "pages: "),
        ('title = "a"\npages = true', "pages: "),
        ('title = "a"\npages = 2.5', "pages: "),
        ('title = "a"\n[inner]\non = "false"', "inner.on: "),
        ('title = "a"\n[inner]\nwidth = nan', "inner.width: "),
        ('title = "a"\n[inner]\nwidth = inf', "inner.width: "),
        ('title = "a"\n[inner]\nwidth = true', "inner.width: "),
        ('title = "a"\nauthors = "b"', "authors: "),
        ('title = "a"\nauthors = ["b", 3]', "authors.1: "),
        ('title = "a"\npages = "x"\nextra = 1', "(and 1 more)"),
        ('title = "a', "not valid TOML"),
        ('title = "a"\ntitle = "b"', "not valid TOML"),
        (b'title = "caf\xe9"', "not UTF-8"),
    ],
)
def test_what_a_document_may_not_say_is_one_line_with_file_and_key(
    tmp_path: Path, text: str | bytes, says: str
) -> None:
    assert says in refusal(tmp_path / "paper.toml", text)


def test_a_file_that_is_absent_or_a_directory_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"paper\.toml: no such file"):
        load(tmp_path / "paper.toml", Paper)
    with pytest.raises(DocumentError, match="cannot be read"):
        load(tmp_path, Paper)


def test_a_file_with_a_byte_order_mark_as_windows_writes_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "paper.toml"
    path.write_bytes(b'\xef\xbb\xbftitle = "a"\r\npages = 2\r\n')
    assert load(path, Paper) == Paper(title="a", pages=2)


def test_a_whole_number_is_a_fine_width_and_the_same_as_with_a_point() -> None:
    one = parse({"title": "a", "inner": {"width": 18}}, Paper, "x")
    same = parse({"title": "a", "inner": {"width": 18.0}}, Paper, "x")
    assert one.inner.width == 18.0
    assert digest(one) == digest(same)


def test_the_order_of_keys_and_comments_do_not_change_the_digest(tmp_path: Path) -> None:
    first, second = tmp_path / "1.toml", tmp_path / "2.toml"
    first.write_text('title = "a"\npages = 2\n[inner]\nwidth = 2\non = true\n')
    second.write_text('# said\npages = 2 # two\ntitle = "a"\n\n[inner]\non = true\nwidth = 2.0\n')
    assert digest(load(first, Paper)) == digest(load(second, Paper))


def test_the_canonical_form_is_these_bytes() -> None:
    paper = Paper(title="\u00e9", authors=("b", "a"), inner=Inner(width=0.1))
    expected = (
        '{"authors":["b","a"],"by_name":{},"inner":{"on":false,"width":0.1},'
        '"pages":1,"title":"\u00e9"}'
    )
    assert canonical(paper) == expected.encode()


@given(
    title=st.text(),
    pages=st.integers(-(2**60), 2**60),
    authors=st.lists(st.text(max_size=5), max_size=3),
    width=st.floats(min_value=1e-300, max_value=1e300),
)
def test_what_was_written_is_read_back_and_nothing_else_has_its_digest(
    title: str, pages: int, authors: list[str], width: float
) -> None:
    paper = Paper(title=title, pages=pages, authors=tuple(authors), inner=Inner(width=width))
    assert parse_json(canonical(paper), Paper, "stored") == paper
    for change in ({"title": title + "x"}, {"pages": pages + 1}, {"authors": (*authors, "z")}):
        assert digest(paper.model_copy(update=change)) != digest(paper)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"title":"a","title":1}',
        b'{"title":"a","pages":"1"}',
        b'{"title":"a","pages":NaN}',
        b'{"title":"a","inner":{"width":1e999}}',
        b'{"title":"\xff"}',
        b"[" * 100_000,
    ],
)
def test_bytes_of_a_peer_that_are_no_document_are_a_protocol_error(raw: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"^peer: not as the protocol says"):
        parse_json(raw, Paper, "peer")


def test_a_peers_field_name_cannot_write_lines_or_colours_into_our_log() -> None:
    raw = b'{"title":"a","x\\n2026 ERROR forged\\u001b[31m":1}'
    with pytest.raises(ProtocolError) as caught:
        parse_json(raw, Paper, "peer")
    assert str(caught.value).isprintable()


def test_a_value_that_a_peer_sent_is_not_repeated() -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_json(b'{"title":"a","pages":"secret-71"}', Paper, "peer")
    assert "secret" not in str(caught.value)


@given(text=st.text(), limit=st.integers(1, 30))
def test_one_line_is_printable_and_short(text: str, limit: int) -> None:
    shown = one_line(text, limit)
    assert len(shown) <= limit
    assert shown.isprintable()
