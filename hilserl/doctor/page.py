"""doctor.html: one self-contained page with every verdict, number, limit, advice and picture."""

from __future__ import annotations

import base64
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
:root{--paper:#fff;--ink:#1c2430;--faint:#667085;--line:#e4e7ec;--ok:#1a7f4b;--warn:#b26b00;--fail:#c0392b;
--skipped:#8a94a6}
@media(prefers-color-scheme:dark){:root{--paper:#14181f;--ink:#e6e9ef;--faint:#98a2b3;--line:#2b323d;
--ok:#4cc38a;--warn:#f0b14a;--fail:#ff7b6b;--skipped:#8a94a6}}
body{background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif;max-width:62rem;
margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .4rem}
.sub{color:var(--faint);margin:.2rem 0 1rem}
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.45rem .6rem;
border-top:1px solid var(--line)}th{color:var(--faint);font-weight:500}
.ok{color:var(--ok)}.warn{color:var(--warn)}.fail{color:var(--fail)}.skipped{color:var(--skipped)}
td.status{font-weight:600;white-space:nowrap}td.name{white-space:nowrap}.limit{color:var(--faint)}
.advice{margin-top:.2rem}.wide{overflow-x:auto}
figure{display:inline-block;margin:.6rem .8rem .2rem 0}figcaption{color:var(--faint);font-size:.85rem}
img{max-width:100%;border-radius:4px}
"""


def page_html(result: Result, title: str) -> str:
    """The page. title: names the configuration and the task."""
    verdict = worst(result.findings)
    groups = dict.fromkeys(finding.group for finding in result.findings)
    sections = "".join(_section(group, result) for group in groups)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>doctor: {escape(title)}</title><style>{_STYLE}</style></head><body>"
        f'<h1 class="{verdict.value}">{_HEADS[verdict]}</h1>'
        f'<p class="sub">{escape(title)} · {escape(result.when)} · {result.seconds:.0f} s<br>'
        f"{escape(result.summary)}</p>{sections}</body></html>\n"
    )


def _section(group: str, result: Result) -> str:
    mine = [finding for finding in result.findings if finding.group == group]
    rows = "".join(_row(finding) for finding in mine)
    return (
        f'<h2>{escape(group)} <span class="{worst(mine).value}">{_WORDS[worst(mine)]}</span></h2>'
        f'<div class="wide"><table><tr><th>verdict</th><th>check</th><th>found</th><th>limit</th></tr>'
        f"{rows}</table></div>"
    )


def _row(finding: Finding) -> str:
    advice = ""
    if finding.advice and finding.status is not Status.OK:
        advice = f'<div class="advice {finding.status.value}">{escape(finding.advice)}</div>'
    pictures = "".join(
        f'<figure><img alt="{escape(one.title)}" src="data:image/png;base64,'
        f'{base64.b64encode(one.png).decode()}"><figcaption>{escape(one.title)}</figcaption></figure>'
        for one in finding.pictures
    )
    return (
        f'<tr><td class="status {finding.status.value}">{_WORDS[finding.status]}</td>'
        f'<td class="name">{escape(finding.check)}</td><td>{escape(finding.value)}{advice}{pictures}</td>'
        f'<td class="limit">{escape(finding.limit)}</td></tr>'
    )
