"""Finds the imports of a CLAUDE.md, as the CLI does: `@path` in prose, not in code.

The CLI parses the text as Markdown (without GitHub's extensions) and looks at the prose only. This module knows as
much of Markdown as that takes: blocks of code, HTML, quotes and lists; in a line, code, links, emphasis and escapes. It
is loaded only if a text holds an @.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

_IMPORT = re.compile(rb"(?:^|\s)@((?:[^\s\\]|\\ )+)")
_PATH = re.compile(rb"\./|~/|/.|[a-zA-Z0-9._-]", re.DOTALL)

_HEAD = re.compile(rb"(?:\xef\xbb\xbf)?---\s*\n.*?---\s*\n?", re.DOTALL)
_FENCE = re.compile(rb" {0,3}(`{3,}(?=[^`\n]*$)|~{3,})")
_QUOTE = re.compile(rb" {0,3}> ?")
_ITEM = re.compile(rb"( {0,3})(?:[*+-]|\d{1,9}[.)])(?=[ \t]|$)")
_RULE = re.compile(rb" {0,3}(?:(?:-[ \t]*){3,}|(?:_[ \t]*){3,}|(?:\*[ \t]*){3,})$")
_HEADING = re.compile(rb" {0,3}#{1,6}(?:[ \t]|$)")
_DEFINITION = re.compile(rb" {0,3}\[[^\]]+\]: *\S+")
_RAW = re.compile(rb" {0,3}<(script|pre|style|textarea)[\s>]", re.IGNORECASE)
_TAGS = (
    b"address|article|aside|base|basefont|blockquote|body|caption|center|col|colgroup|dd|details|dialog|dir|div|dl|dt|"
    b"fieldset|figcaption|figure|footer|form|frame|frameset|h[1-6]|head|header|hr|html|iframe|legend|li|link|main|menu|"
    b"menuitem|meta|nav|noframes|ol|optgroup|option|p|param|search|section|summary|table|tbody|td|tfoot|th|thead|title|"
    b"tr|track|ul"
)
_BLOCK = re.compile(rb" {0,3}</?(?:" + _TAGS + rb")(?:[ \t]|/?>|$)", re.IGNORECASE)
_ATTRIBUTES = rb"""(?:\s+[a-zA-Z:_][\w.:-]*(?:\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'=<>`]+))?)*"""
_TAG = rb"<(?:[a-zA-Z][\w-]*" + _ATTRIBUTES + rb"\s*/?|/[a-zA-Z][\w:-]*\s*)>"
_ALONE = re.compile(rb" {0,3}" + _TAG + rb"[ \t]*$")

_COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)
_INLINE = re.compile(
    rb"(?P<escape>\\[!\"#$%&'()*+,\-./:;<=>?@\[\]\\^_`{|}~])"
    rb"|(?P<code>(?<!`)(?P<ticks>`+)(?!`).*?(?<!`)(?P=ticks)(?!`))"
    rb"|(?P<html><!--.*?-->|" + _TAG + rb"|<[a-zA-Z][\w+.-]{1,31}:[^\s<>]*>)"
    rb"|(?P<link>!?\[(?P<words>(?:\\.|`[^`]*`|[^\[\]\\`])*)\]\([^()\s]*(?:\s+(?:\"[^\"]*\"|'[^']*'))?\))"
    rb"|(?P<stars>\*{1,3})(?=[^\s*])(?P<strong>[^*]*?(?<=[^\s*]))(?P=stars)(?!\*)"
    rb"|(?<!\w)(?P<lines>_{1,3})(?=[^\s_])(?P<weak>.*?(?<=[^\s_]))(?P=lines)(?!\w)",
    re.DOTALL,
)
MAX_NESTING = 20


def imports(text: bytes, path: bytes) -> list[bytes]:
    """Return the paths that a file imports, in order, without repetition. `path` is the file's own path."""
    head = _HEAD.match(text)
    found: dict[bytes, None] = {}
    for prose in _prose(text[head.end() if head else 0 :].replace(b"\r\n", b"\n").split(b"\n"), MAX_NESTING, False):
        for match in _IMPORT.finditer(prose):
            named = match[1].partition(b"#")[0].replace(b"\\ ", b" ")
            if _PATH.match(named):
                found[_resolved(named, path)] = None
    return list(found)


def _resolved(named: bytes, path: bytes) -> bytes:
    if named.startswith(b"~/"):
        named = os.path.expanduser(named)  # noqa: PTH111 - bytes
    return os.path.normpath(os.path.join(os.path.dirname(path), named.strip()))  # noqa: PTH118, PTH120 - bytes


# Blocks


def _prose(lines: list[bytes], depth: int, in_item: bool) -> Iterator[bytes]:
    """Yield the runs of prose in a block of lines. In a list's item, each paragraph is also a run as a whole."""
    at, paragraph = 0, list[bytes]()
    while at < len(lines):
        line = lines[at]
        end = _end_of_block(lines, at, bool(paragraph))
        item = _ITEM.match(line)
        if not line.strip() or end or (depth and (_QUOTE.match(line) or (item and not _RULE.match(line)))):
            yield from _paragraph(paragraph, in_item)
            paragraph = []
        if end:
            yield from _left_of_html(lines[at:end])
            at = end
        elif depth and _QUOTE.match(line):
            at, inner = _quote(lines, at)
            yield from _prose(inner, depth - 1, False)
        elif depth and item and not _RULE.match(line):
            at, inner = _item(lines, at, item)
            yield from _prose(inner, depth - 1, True)
        else:
            if line.strip():
                paragraph.append(line.strip() if not paragraph else line.lstrip())
            if _HEADING.match(line):
                yield from _paragraph(paragraph, in_item)
                paragraph = []
            at += 1
    yield from _paragraph(paragraph, in_item)


def _end_of_block(lines: list[bytes], at: int, in_paragraph: bool) -> int:
    """Return the number of the line after a block without prose that begins here, or 0."""
    line = lines[at]
    if fence := _FENCE.match(line):
        closing = re.compile(rb" {0,3}" + re.escape(fence[1][:1]) + b"{%d,}[ \t]*$" % len(fence[1]))
        return _after(lines, at + 1, closing)
    if not in_paragraph and line.expandtabs(4).startswith(b"    ") and line.strip():
        while at < len(lines) and (not lines[at].strip() or lines[at].expandtabs(4).startswith(b"    ")):
            at += 1
        return at
    if not in_paragraph and _DEFINITION.match(line):
        return at + 1
    start = line.lstrip(b" ")
    if not start.startswith(b"<") or len(line) - len(start) > 3:
        return 0
    if start.startswith(b"<!--"):
        return _after(lines, at, re.compile(rb".*-->", re.DOTALL))
    if raw := _RAW.match(line):
        return _after(lines, at, re.compile(rb".*</" + raw[1] + rb">", re.IGNORECASE))
    if _BLOCK.match(line) or start.startswith((b"<?", b"<!")) or (not in_paragraph and _ALONE.match(line)):
        return next((n for n in range(at, len(lines)) if not lines[n].strip()), len(lines))
    return 0


def _after(lines: list[bytes], at: int, closing: re.Pattern[bytes]) -> int:
    return next((number + 1 for number in range(at, len(lines)) if closing.match(lines[number])), len(lines))


def _left_of_html(lines: list[bytes]) -> Iterator[bytes]:
    """Yield what stands beside a comment. The CLI looks for imports there."""
    whole = b"\n".join(lines)
    if whole.lstrip().startswith(b"<!--") and b"-->" in whole:
        yield _COMMENT.sub(b"", whole)


def _quote(lines: list[bytes], at: int) -> tuple[int, list[bytes]]:
    inner: list[bytes] = []
    while at < len(lines) and lines[at].strip():
        marker = _QUOTE.match(lines[at])
        if not marker and (_ITEM.match(lines[at]) or _FENCE.match(lines[at])):
            break
        inner.append(lines[at][marker.end() :] if marker else lines[at])
        at += 1
    return at, inner


def _item(lines: list[bytes], at: int, marker: re.Match[bytes]) -> tuple[int, list[bytes]]:
    """Return the line after a list's item, and the item's lines without their indentation."""
    rest = lines[at][marker.end() :].expandtabs(4)
    blanks = len(rest) - len(rest.lstrip(b" "))
    width = marker.end() + (blanks if 1 <= blanks <= 4 else 1)
    inner = [rest[width - marker.end() :]]
    at += 1
    while at < len(lines):
        line = lines[at].expandtabs(4)
        indented = not line.strip() or line.startswith(b" " * width)
        ends = bool(_ITEM.match(line) or _FENCE.match(line) or _HEADING.match(line))
        if not indented and (not lines[at - 1].strip() or ends):
            break
        inner.append(line[width:] if indented else line)
        at += 1
    return at, inner


# Lines


def _paragraph(lines: list[bytes], in_item: bool) -> Iterator[bytes]:
    whole = b"\n".join(lines)
    if b"@" in whole:
        if in_item:
            yield whole
        yield from _runs(whole, MAX_NESTING)


def _runs(text: bytes, depth: int) -> Iterator[bytes]:
    """Yield the runs of plain text: between escapes, code, tags, links and emphasis, and inside the last two."""
    at = 0
    for match in _INLINE.finditer(text):
        yield text[at : match.start()]
        at = match.end()
        inner = match["words"] or match["strong"] or match["weak"]
        if inner and depth and not match[0].startswith(b"!"):
            yield from _runs(inner, depth - 1)
    yield text[at:]
