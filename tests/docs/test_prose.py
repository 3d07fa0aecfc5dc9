"""README and docs are plain English: short sentences, the field's words, narrow tables, links that lead somewhere."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
READ = [page for page in PAGES if "raw" not in page.parts]  # what a command writes for machines has wide tables
MAX_WORDS, MAX_COLUMNS = 30, 6
PRIVATE = re.compile(
    r"\b(was tried|were tried|has tried|not tried|told|of late|so many|so much|dearer|sober|gives? way|giving way|"
    r"lets? in|for its sake|for the sake of|as else|who is in|is asked of|as it is asked|what there is)\b",
    re.IGNORECASE,
)
PARSER = MarkdownIt().enable("table")


def tokens(page: Path) -> list[Token]:
    return PARSER.parse(page.read_text())


def prose(page: Path) -> Iterator[str]:
    """The text of each paragraph and list item; headings, tables and code are left out, inline code is one word."""
    for before, token in zip(tokens(page), tokens(page)[1:], strict=False):
        if before.type == "paragraph_open":
            parts = ("CODE" if part.type == "code_inline" else part.content or " " for part in token.children or [])
            yield "".join(parts)


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])[)\"]*\s+(?=\W?[A-Z0-9])", text)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    pairs = zip(tokens(page), tokens(page)[1:], strict=False)
    headings = [token.content.lower() for before, token in pairs if before.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


def links(page: Path) -> Iterator[str]:
    """Where links and images lead, those to other hosts aside."""
    for token in tokens(page):
        for part in token.children or []:
            target = str(part.attrGet("href") or part.attrGet("src") or "")
            if target and "://" not in target:
                yield target


def name(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


@pytest.mark.parametrize("page", READ, ids=name)
def test_no_sentence_is_longer_than_thirty_words(page: Path) -> None:
    long = [s for text in prose(page) for s in sentences(text) if len(re.findall(r"\S*\w\S*", s)) > MAX_WORDS]
    assert not long


@pytest.mark.parametrize("page", READ, ids=name)
def test_no_private_phrase_stands_where_the_field_has_a_word(page: Path) -> None:
    assert not [match for text in prose(page) for match in PRIVATE.findall(text)]


@pytest.mark.parametrize("page", READ, ids=name)
def test_no_table_has_more_than_six_columns(page: Path) -> None:
    columns, widths = 0, []
    for token in tokens(page):
        columns = 0 if token.type == "thead_open" else columns + (token.type == "th_open")
        if token.type == "thead_close":
            widths.append(columns)
    assert max(widths, default=0) <= MAX_COLUMNS


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_and_image_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
