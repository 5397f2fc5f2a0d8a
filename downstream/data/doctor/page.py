"""Findings as one page of HTML, pictures included, and as a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from downstream.data.checks.bands import Loading
from downstream.data.findings.finding import Finding, by_kind
from downstream.data.findings.kinds import KINDS
from downstream.markup import Markup, document, inline

from .parts import Part
from .pictures import picture_of

_PICTURES_OF_A_KIND = 6
_ROWS_OF_A_KIND = 100
_PICTURE_PX = 320
_STYLE = """
table.list { table-layout: fixed; } table.list td:first-child { width: 38%; }
table.list td:nth-child(2) { width: 14%; }
.tag { color: #fff; border-radius: 4px; padding: 1px 8px; font-size: 13px; margin-right: .5em; }
.error { background: #c62828; } .warning { background: #b26a00; } .repaired { background: #2e7d32; }
"""


def write_csv(findings: Iterable[Finding], path: Path) -> None:
    """All findings, one a line: severity, kind, part, file, record, what is wrong, the fix."""
    with path.open('w', newline='', encoding='utf-8') as file:
        rows = csv.writer(file)
        rows.writerow(['severity', 'kind', 'part', 'file', 'record', 'what', 'fix'])
        for group in by_kind(findings).values():
            for one in group:
                rows.writerow(
                    [
                        one.severity,
                        one.kind,
                        one.part,
                        one.file,
                        one.record,
                        one.detail,
                        KINDS[one.kind].fix,
                    ]
                )


def write_page(title: str, parts: Sequence[Part], findings: Sequence[Finding], path: Path) -> None:
    """A page that needs no other file.

    Args:
        title: What was examined.
        parts: Its parts, for a table.
        findings: All of them; of each kind some are pictured.
        path: The HTML file.
    """
    loading = parts[0].loading if parts else Loading()
    sections = ''.join(
        _section(kind, part, group, loading) for (kind, part), group in by_kind(findings).items()
    )
    body = (
        f'<h1>{escape(title)}</h1>{_overview(parts)}{_contents(findings)}'
        f'{sections or "<p>Nothing was found.</p>"}'
    )
    path.write_text(document(title, _STYLE, Markup(body)), encoding='utf-8')


def _overview(parts: Sequence[Part]) -> str:
    rows = ''.join(
        f'<tr><td>{escape(part.name)}<td>{escape(part.file)}<td>{len(part.images)}<td>{part.holds}'
        f'<td>{len(part.classes)}<td>{" x ".join(map(str, part.scale or ["own size"]))}'
        for part in parts
    )
    return (
        '<table><tr><th>part<th>file<th>images<th>annotations<th>classes<th>trained within, px'
        f'{rows}</table>'
    )


def _contents(findings: Sequence[Finding]) -> str:
    rows = ''.join(
        f'<tr><td><span class="tag {group[0].severity}">{group[0].severity}</span>'
        f'<td>{len(group)}<td>{escape(part)}'
        f'<td><a href="#{kind}-{escape(part)}">{KINDS[kind].several}</a>'
        for (kind, part), group in by_kind(findings).items()
    )
    return f'<h2>Findings</h2><table>{rows}</table>' if rows else ''


def _section(kind: str, part: str, group: Sequence[Finding], loading: Loading) -> str:
    severity = group[0].severity
    figures: list[str] = []
    for finding in group:
        if len(figures) == _PICTURES_OF_A_KIND:
            break
        picture = picture_of(finding, _PICTURE_PX, loading)
        if picture is not None:
            figures.append(
                f'<figure><img alt="" src="{inline(picture)}"><figcaption>'
                f'{escape(Path(finding.file).name)} {escape(finding.sentence)}</figcaption></figure>'
            )
    rows = ''.join(
        f'<tr><td><code>{escape(one.file)}</code><td>{escape(one.record)}<td>{escape(one.detail)}'
        for one in group[:_ROWS_OF_A_KIND]
    )
    left = len(group) - _ROWS_OF_A_KIND
    more = f'<p>{left} more are in the CSV file.</p>' if left > 0 else ''
    return (
        f'<h2 id="{kind}-{escape(part)}"><span class="tag {severity}">{severity}</span>{escape(part)} '
        f'{len(group)} {KINDS[kind].several}</h2><p>{escape(KINDS[kind].fix)}</p>'
        f'<div class="pictures">{"".join(figures)}</div><table class="list">{rows}</table>{more}'
    )
