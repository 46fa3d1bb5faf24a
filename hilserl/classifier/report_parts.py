"""Small pieces of the report's page: numbers in words, tables, the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from hilserl.classifier.metrics import Estimate
from hilserl.classifier.report_style import STYLE

UNKNOWN = "not known"


def percent(share: float | None, digits: int = 1) -> str:
    """A share as text. What is not quite all or nothing is never rounded to it."""
    if share is None:
        return UNKNOWN
    text, step = f"{100 * share:.{digits}f}", 10.0**-digits
    if share < 1 and float(text) == 100.0:
        return f"&gt;{100 - step:.{digits}f}&nbsp;%"
    if share > 0 and float(text) == 0.0:
        return f"&lt;{step:.{digits}f}&nbsp;%"
    return f"{text}&nbsp;%"


def span95(low: float, high: float) -> str:
    """An interval of a share as text."""
    return f"{percent(low)} to {percent(high)}"


def of_total(estimate: Estimate) -> str:
    """`19 of 20`."""
    if not estimate.total:
        return UNKNOWN
    return f"{estimate.count} of {estimate.total}"


def seconds(frames: int | None, rate_hz: float) -> str:
    """Frames as a time with the frame number; a dash where there is none."""
    if frames is None:
        return "&ndash;"
    return f'{frames / rate_hz:.1f} s <small class="dim">{frames}</small>'


def many(count: int, word: str) -> str:
    """`1 episode`, `2 episodes`."""
    return f"{count:,} {word}".replace(",", "\u202f") + ("" if count == 1 else "s")


def metric(name: str, text: str) -> str:
    """A number that can be found in the page by its name."""
    return f'<span data-metric="{escape(name)}">{text}</span>'


def short_names(sources: Iterable[str]) -> dict[str, str]:
    """{source: as many of its last parts as tell it from the others}, to be shown around. Not escaped."""
    whole = sorted(set(sources))
    parts = [one.rstrip("/").split("/") for one in whole]
    names = {}
    for one, its in zip(whole, parts, strict=True):
        tails = (its[-count:] for count in range(1, len(its) + 1))
        alone = (tail for tail in tails if sum(other[-len(tail) :] == tail for other in parts) == 1)
        names[one] = "/".join(next(alone, its))
    return names


def section(identity: str, title: str, lead: str, *parts: str) -> str:
    """A part of the page under its title. lead: a few sentences (HTML)."""
    body = "".join(parts)
    return f'<section id="{identity}"><h2>{title}</h2><p class="lead">{lead}</p>{body}</section>'


def table(identity: str, head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """Cells are HTML already. numbers: from this column on they are right-aligned (0: none are)."""

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = [' class="n"' if numbers and i >= numbers else "" for i in range(len(cells))]
        return "".join(f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return (
        f'<div class="wide"><table id="{identity}"><thead><tr>{line(head, "th")}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def pairs(identity: str, head: tuple[str, str], values: Mapping[str, object]) -> str:
    """A table of names and values, escaped here."""
    rows = [(f"<code>{escape(str(name))}</code>", escape(str(value))) for name, value in values.items()]
    return table(identity, head, rows)


def chip(kind: str, text: str) -> str:
    """A short coloured word. kind: good, fair, bad or none."""
    return f'<span class="chip {kind}">{text}</span>'


def page(title: str, body: str) -> str:
    """The whole document. title and body: HTML."""
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )
