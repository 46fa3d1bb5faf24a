"""The sections of the report: data, confusion, curves, coverage, mistakes, episodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape

from hilserl.classifier.metrics import Scored
from hilserl.classifier.metrics_calls import Call
from hilserl.classifier.metrics_coverage import Cell
from hilserl.classifier.metrics_curves import suspects
from hilserl.classifier.metrics_summary import Summary
from hilserl.classifier.report_advice import kind_of
from hilserl.classifier.report_parts import (
    UNKNOWN,
    chip,
    many,
    pairs,
    percent,
    seconds,
    section,
    table,
)
from hilserl.classifier.report_plots import (
    Losses,
    calibration_svg,
    caption_curve,
    losses_svg,
    precision_recall_svg,
    strip_svg,
)
from hilserl.classifier.report_sheets import Pictures, fetch, sheet
from hilserl.types import End

SHEET_TILES = 12
"""Pictures on each contact sheet."""


def data_section(summary: Summary, names: Mapping[str, str], left_out: Mapping[str, str]) -> str:
    """Sources, their episodes and labels, and what was not used."""
    rows = [
        _data_row(escape(names[source]), [e for e in summary.episodes if e.source == source])
        for source in names
    ]
    if len(names) > 1:
        rows.append(_data_row("<b>all</b>", summary.episodes))
    head = ("source", "labelled by", "episodes", "with success", "frames", "success frames", "share")
    parts = [table("data", head, rows, 2)]
    if left_out:
        parts += ["<h3>Not used</h3>", pairs("left-out", ("episodes", "why"), left_out)]
    lead = "Every episode counts once, scored by a model that never saw it."
    return section("data-section", "Data", lead, *parts)


def _data_row(name: str, episodes: Sequence[Scored]) -> tuple[str, ...]:
    frames, success = sum(one.frames for one in episodes), sum(int(one.success.sum()) for one in episodes)
    by = Counter(one.by or UNKNOWN for one in episodes)
    return (
        name,
        ", ".join(f"{escape(who)} {count}" for who, count in sorted(by.items())),
        str(len(episodes)),
        str(sum(one.true_frame is not None for one in episodes)),
        str(frames),
        str(success),
        percent(success / frames),
    )


def confusion_section(summary: Summary) -> str:
    """Episodes as the actor would judge them, and single frames."""
    episodes, frames = summary.confusion, summary.frames
    by_episode = table(
        "confusion-episodes",
        ("", "called where it is", "called where it is not", "not called"),
        [
            ("a success in it", _hit(episodes.called), _slip(episodes.early), _slip(episodes.missed)),
            ("failed", "&ndash;", _slip(episodes.false), _hit(episodes.quiet)),
        ],
        1,
    )
    by_frame = table(
        "confusion-frames",
        ("", "said success", "said failure"),
        [
            ("success", _hit(frames.true_success), _slip(frames.missed)),
            ("failure", _slip(frames.false_success), _hit(frames.true_failure)),
        ],
        1,
    )
    more = (
        f'<p class="dim">Precision {percent(frames.precision)}, recall {percent(frames.recall)}, '
        f"{percent(summary.accuracy_in_use.value)} of frames right at the threshold in use.</p>"
    )
    lead = (
        "An episode is judged as the actor judges it: by threshold, hold and minimum time. A call counts "
        "where it rests on at least one frame labelled a success."
    )
    return section(
        "confusion",
        "Right and wrong",
        lead,
        f'<div class="two"><div><h3>Episodes</h3>{by_episode}</div>',
        f"<div><h3>Frames</h3>{by_frame}{more}</div></div>",
    )


def _hit(count: int) -> str:
    return f'<span class="hit">{count}</span>'


def _slip(count: int) -> str:
    return f'<span class="slip">{count}</span>' if count else "0"


def curves_section(summary: Summary, losses: Sequence[Losses]) -> str:
    """Precision and recall, calibration, losses."""
    curve, calibrated, frames = summary.curve, summary.calibration, summary.frames
    loss = losses_svg(losses)
    figures = [
        _figure(
            precision_recall_svg(curve, frames.precision, frames.recall) if curve else None,
            caption_curve(curve, summary.decision.threshold),
        ),
        _figure(
            calibration_svg(calibrated),
            "<b>Calibration</b>: on the dashed line it is right as often as it says; a larger dot is more "
            f"frames. Off by {percent(calibrated.error)} on average (expected calibration error).",
        ),
        _figure(
            loss,
            f"<b>Loss</b> of {many(len(losses), 'fold')}: blue on held-out episodes, yellow in training. A "
            "dot is the lowest held-out loss.",
        ),
    ]
    lead = "All on held-out episodes, except the training loss."
    return section("curves", "Curves", lead, f'<div class="plots">{"".join(figures)}</div>')


def _figure(drawing: str | None, caption: str) -> str:
    shown = drawing or f"<p>{UNKNOWN}: there is nothing to draw.</p>"
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


def coverage_section(summary: Summary) -> str:
    """Counts and accuracy per condition, with warnings."""
    found = summary.coverage
    if not found.cells:
        lead = "Nothing is known about the conditions of these episodes, so nothing can be said of others."
        return section("coverage-section", "Conditions covered", lead)
    head = (
        "condition",
        "value",
        "episodes",
        "with success",
        "frames",
        "success frames",
        "frames right",
        "episodes right",
        "95 %",
    )
    rows, before = [], ""
    for cell in found.cells:
        rows.append(_coverage_row(cell, cell.fact != before))
        before = cell.fact
    skipped = "".join(
        f'<p class="dim">{escape(fact)} is left out: {escape(why)} are no condition.</p>'
        for fact, why in found.skipped
    )
    warned = len(found.warnings)
    lead = f"{many(warned, 'warning')}." if warned else "No thin or one-sided condition."
    lead += " It can be trusted where it was tested; a light or place not listed is unknown."
    return section("coverage-section", "Conditions covered", lead, table("coverage", head, rows, 2), skipped)


def _coverage_row(cell: Cell, first: bool) -> tuple[str, ...]:
    warning = "".join(f'<br><small class="warn">{escape(text)}</small>' for text in cell.warnings)
    return (
        f"<b>{escape(cell.fact)}</b>" if first else f'<span class="dim">{escape(cell.fact)}</span>',
        f'<span class="value">{escape(cell.value)}</span>' + warning,
        str(cell.episodes),
        str(cell.success_episodes),
        str(cell.frames),
        str(cell.success_frames),
        percent(cell.accuracy.value),
        f"{cell.correct.count}/{cell.correct.total}",
        f"{100 * cell.correct.low:.0f}&ndash;{100 * cell.correct.high:.0f}&nbsp;%",
    )


def mistakes_section(summary: Summary, names: Mapping[str, str], pictures: Pictures) -> str:
    """Contact sheets of the highest-scored failures and the lowest-scored successes."""
    told = {(one.source, one.episode): kind_of(one) for one in summary.episodes}
    parts = []
    for identity, success, title in (
        ("failures", False, "Failures that look most like a success"),
        ("successes", True, "Successes that look least like one"),
    ):
        found = suspects(summary.episodes, success, SHEET_TILES)
        parts.append(f"<h3>{title}</h3>")
        if found:
            shown = fetch(found, pictures)
            parts.append(sheet(identity, found, shown, summary.decision.threshold, names, told))
        else:
            parts.append(
                f'<p class="dim">There is no frame labelled a {"success" if success else "failure"}.</p>'
            )
    lead = (
        "What the network sees, with its probability of success. A red frame is on the wrong side of the "
        "threshold. Where the label is at fault, correct it and train again."
    )
    return section("mistakes", "Worst mistakes", lead, *parts)


def episodes_section(summary: Summary, names: Mapping[str, str]) -> str:
    """One line per episode: verdict, times, and probability over time; the wrong ones first."""
    order = sorted(range(len(summary.episodes)), key=lambda i: _rank(summary.calls[i]))
    rows = "".join(_episode_row(summary, i, names) for i in order)
    head = ("episode", "verdict", "success at", "called at", "delay", "probability over time")
    titles = "".join(f"<th{' class="n"' if 2 <= i <= 4 else ''}>{name}</th>" for i, name in enumerate(head))
    lead = (
        "The wrong ones first. Times from the start of the episode, with the frame."
        '<br><span class="key" style="background:var(--good-soft);margin-left:0"></span>labelled success'
        '<span class="key" style="background:var(--main)"></span>probability'
        '<span class="key" style="background:var(--good);width:4px"></span>called rightly'
        '<span class="key" style="background:var(--bad);width:4px"></span>called falsely; '
        "dashed: the threshold"
    )
    return section(
        "episodes",
        "Every episode",
        lead,
        f'<div class="wide"><table id="episodes-table"><thead><tr>{titles}</tr></thead>',
        f"<tbody>{rows}</tbody></table></div>",
    )


_CHIPS = {"false success": "bad", "missed": "fair", "called": "good", "rightly not called": "none"}


def _rank(call: Call) -> int:
    return list(_CHIPS).index(call.word)


def _episode_row(summary: Summary, index: int, names: Mapping[str, str]) -> str:
    one, call, rate = summary.episodes[index], summary.calls[index], summary.rate_hz
    if one.end and (one.end == End.SUCCESS.value) != (one.true_frame is not None):
        ended = f"ended by {one.end}, labelled otherwise"
    else:
        ended = ""
    about = [part for part in (kind_of(one), names[one.source] if len(names) > 1 else "", ended) if part]
    cells = (
        f'<td><b>{escape(one.episode)}</b> <small class="dim">{escape(" \u00b7 ".join(about))}</small></td>',
        f"<td>{chip(_CHIPS[call.word], call.word)}</td>",
        f'<td class="n" data-label="success">{seconds(call.true_frame, rate)}</td>',
        f'<td class="n" data-label="called">{seconds(call.frame, rate)}</td>',
        f'<td class="n" data-label="delay">{seconds(call.delay, rate)}</td>',
        f'<td class="strip">{strip_svg(one, call, summary.decision.threshold)}</td>',
    )
    return f"<tr>{''.join(cells)}</tr>"
