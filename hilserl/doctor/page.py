"""doctor.html: one self-contained page with every verdict, number, limit, advice and picture."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from hilserl.doctor.findings import Finding, Status, worst
from hilserl.doctor.result import Result

_WORDS = {Status.OK: "ok", Status.WARN: "warning", Status.FAIL: "failed", Status.SKIPPED: "skipped"}
_HEADS = {
    Status.OK: "Ready: nothing is wrong",
    Status.WARN: "Ready, with warnings",
    Status.FAIL: "Not ready: mend what failed before training",
    Status.SKIPPED: "Nothing was checked",
}
_STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1c2430;--faint:#667085;--line:#e4e7ec;--soft:#f6f7f9;
--ok:#1a7f4b;--warn:#b26b00;--fail:#c0392b;--skipped:#8a94a6}
@media(prefers-color-scheme:dark){:root{--paper:#14181f;--ink:#e6e9ef;--faint:#98a2b3;--line:#2b323d;
--soft:#1b212a;--ok:#4cc38a;--warn:#f0b14a;--fail:#ff7b6b;--skipped:#8a94a6}}
body{background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif;max-width:68rem;
margin:2rem auto 5rem;padding:0 1.2rem}
h1{font-size:1.7rem;line-height:1.25;margin:0}h2{font-size:1.1rem;margin:2.4rem 0 .5rem}
h2 span{font-size:.9rem;font-weight:500;margin-left:.4rem}
.sub{color:var(--faint);margin:.3rem 0 1.2rem}
.tiles{display:flex;flex-wrap:wrap;gap:.6rem;margin:0 0 1.2rem}
.tile{border:1px solid var(--line);border-radius:8px;padding:.5rem .9rem;min-width:6.5rem;color:inherit;
text-decoration:none}
.tile b{display:block;font-size:1.5rem;line-height:1.2}
.groups .tile{min-width:0;padding:.2rem .7rem}
.mend{border-left:4px solid var(--fail);background:var(--soft);padding:.7rem 1rem;margin:0 0 .6rem;
border-radius:0 6px 6px 0}.mend.warn{border-color:var(--warn)}
.ok{color:var(--ok)}.warn{color:var(--warn)}.fail{color:var(--fail)}.skipped{color:var(--skipped)}
.mend.fail,.mend.warn{color:var(--ink)}
table{border-collapse:collapse;width:100%;table-layout:fixed}
td,th{text-align:left;vertical-align:top;padding:.45rem .8rem .45rem 0;border-top:1px solid var(--line);
overflow-wrap:anywhere}
th{color:var(--faint);font-weight:500;font-size:.85rem}
.c1{width:5.5rem}.c2{width:13.5rem}.c4{width:15rem}
td.status{font-weight:600}.limit,.name{color:var(--faint)}td.name{color:inherit}
.advice{margin-top:.2rem}
.pictures td{border-top:0;padding-top:0}.pictures div{display:flex;flex-wrap:wrap;gap:1rem}
figure{margin:.2rem 0 .6rem}figcaption{color:var(--faint);font-size:.85rem;max-width:32rem}
img{display:block;max-width:100%;max-height:20rem;border-radius:4px;background:#fff}
details{border-top:1px solid var(--line);padding:.45rem 0;color:var(--faint)}
summary{cursor:pointer}details ul{margin:.3rem 0}
@media(max-width:44rem){table,tbody,tr,td{display:block}tr{border-top:1px solid var(--line);padding:.4rem 0}
td,th{border:0;padding:.05rem 0}tr:first-child{display:none}}
"""


def page_html(result: Result, title: str) -> str:
    """The page. title: names the configuration and the task."""
    verdict = worst(result.findings)
    groups = list(dict.fromkeys(one.group for one in result.findings))
    sections = "".join(_section(group, result) for group in groups)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>doctor: {escape(title)}</title><style>{_STYLE}</style></head><body>"
        f'<h1 class="{verdict.value}">{_HEADS[verdict]}</h1>'
        f'<p class="sub">{escape(title)}<br>{escape(_when(result))}</p>'
        f"{_tiles(result.findings)}{_mend(result.findings)}{_links(groups, result)}{sections}</body></html>\n"
    )


def _when(result: Result) -> str:
    older = "".join(f"; {group} is of {when}" for group, when in result.older.items())
    return f"{result.when}, {result.seconds:.0f} s{older}"


def _tiles(findings: Sequence[Finding]) -> str:
    tiles = "".join(
        f'<div class="tile {status.value}"><b>{sum(one.status is status for one in findings)}</b>{word}</div>'
        for status, word in _WORDS.items()
    )
    return f'<div class="tiles">{tiles}</div>'


def _mend(findings: Sequence[Finding]) -> str:
    """What failed and warned, first and together."""
    return "".join(
        f'<div class="mend {status.value}"><b class="{status.value}">'
        f"{escape(one.group)}/{escape(one.check)}</b> {escape(one.value)}{_advice(one)}</div>"
        for status in (Status.FAIL, Status.WARN)
        for one in findings
        if one.status is status
    )


def _links(groups: Sequence[str], result: Result) -> str:
    links = "".join(
        f'<a class="tile" href="#{escape(group)}">{escape(group)} '
        f'<span class="{verdict.value}">{_WORDS[verdict]}</span></a>'
        for group in groups
        for verdict in (worst(one for one in result.findings if one.group == group),)
    )
    return f'<div class="tiles groups">{links}</div>'


def _section(group: str, result: Result) -> str:
    mine = [finding for finding in result.findings if finding.group == group]
    made = [one for one in mine if one.status is not Status.SKIPPED]
    skipped = [one for one in mine if one.status is Status.SKIPPED]
    heads = "".join(
        f'<th class="c{i}">{word}</th>' for i, word in enumerate(("verdict", "check", "found", "limit"), 1)
    )
    rows = "".join(map(_row, made))
    table = f"<table><tr>{heads}</tr>{rows}</table>" if made else ""
    return (
        f'<h2 id="{escape(group)}">{escape(group)}<span class="{worst(mine).value}">'
        f"{_WORDS[worst(mine)]}</span></h2>{table}{_skipped(skipped)}"
    )


def _skipped(findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    reasons = {one.value: [same.check for same in findings if same.value == one.value] for one in findings}
    items = "".join(
        f"<li>{escape(', '.join(names))}: {escape(reason)}</li>" for reason, names in reasons.items()
    )
    return f"<details open><summary>{len(findings)} skipped</summary><ul>{items}</ul></details>"


def _advice(finding: Finding) -> str:
    if not finding.advice or finding.status is Status.OK:
        return ""
    return f'<div class="advice {finding.status.value}">{escape(finding.advice)}</div>'


def _row(finding: Finding) -> str:
    row = (
        f'<tr><td class="status {finding.status.value}">{_WORDS[finding.status]}</td>'
        f'<td class="name">{escape(finding.check)}</td><td>{escape(finding.value)}{_advice(finding)}</td>'
        f'<td class="limit">{escape(finding.limit)}</td></tr>'
    )
    if not finding.pictures:
        return row
    pictures = "".join(
        f'<figure><img alt="{escape(one.title)}" src="data:image/png;base64,'
        f'{base64.b64encode(one.png).decode()}"><figcaption>{escape(one.title)}</figcaption></figure>'
        for one in finding.pictures
    )
    return f'{row}<tr class="pictures"><td></td><td colspan="3"><div>{pictures}</div></td></tr>'
