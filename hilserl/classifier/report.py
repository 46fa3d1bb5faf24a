"""The report of a trained reward classifier: one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from hilserl.classifier.metrics import Estimate
from hilserl.classifier.metrics_summary import Summary
from hilserl.classifier.report_advice import advice, standing
from hilserl.classifier.report_parts import (
    UNKNOWN,
    chip,
    many,
    metric,
    of_total,
    page,
    pairs,
    percent,
    section,
    short_names,
    span95,
)
from hilserl.classifier.report_plots import Losses
from hilserl.classifier.report_sections import (
    confusion_section,
    coverage_section,
    curves_section,
    data_section,
    episodes_section,
    mistakes_section,
)
from hilserl.classifier.report_sheets import Pictures

__all__ = ["Losses", "Pictures", "Report", "report_html"]


@dataclass(frozen=True, slots=True)
class Report:
    """What the page is made of.

    name: of the job. summary: of every labelled episode, each scored by a model that was not trained on it.
    false_success_rate: share of failed episodes the decision was chosen for. split: how episodes were held
    out, in words. losses: one per fold, in order. pictures: called once per episode with a frame to show.
    settings: shown as they are. left_out: {what was not used: why}, unlabelled and excluded episodes.
    """

    name: str
    summary: Summary
    false_success_rate: float
    split: str
    losses: Sequence[Losses]
    pictures: Pictures
    settings: Mapping[str, object] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)


def report_html(report: Report) -> str:
    """The page. It holds its own style, pictures and plots, and no script.

    Raises PictureError for pictures of another shape than was asked for.
    """
    summary = report.summary
    names = short_names(one.source for one in summary.episodes)
    body = [
        _headline(report),
        _next(report),
        data_section(summary, names, report.left_out),
        confusion_section(summary),
        curves_section(summary, report.losses),
        coverage_section(summary),
        mistakes_section(summary, names, report.pictures),
        episodes_section(summary, names),
        _method(report),
    ]
    return page(f"Reward classifier {escape(report.name)}", "".join(body))


def _headline(report: Report) -> str:
    summary, confusion = report.summary, report.summary.confusion
    kind, words, sentence = standing(summary, report.false_success_rate)
    return (
        '<header><p class="over">Reward classifier</p>'
        f"<h1>{escape(report.name)}</h1><p>{chip(kind, words)}{sentence}</p>"
        f'<p class="dim">Judged on {many(len(summary.episodes), "whole episode")} it was not trained on '
        f"({many(summary.accuracy.total, 'frame')}; {escape(report.split)}).</p>"
        f'<div class="cards">{_accuracy_card(summary)}'
        + _card(
            "successes called",
            metric("called_rate", of_total(confusion.called_rate)),
            f"{_share(confusion.called_rate)}<br>{_delay(summary)}",
        )
        + _card(
            "false successes",
            metric("false_success_rate", of_total(confusion.false_rate)),
            f"of failed episodes: {_share(confusion.false_rate)}<br>"
            f"wished: at most {percent(report.false_success_rate)}",
        )
        + _per_hour_card(summary)
        + _decision_card(summary)
        + "</div></header>"
    )


def _card(what: str, value: str, more: str) -> str:
    return f'<div class="card"><span class="what">{what}</span><b>{value}</b><small>{more}</small></div>'


def _share(found: Estimate) -> str:
    return f"{percent(found.value)}, 95&nbsp;% interval {span95(found.low, found.high)}"


def _accuracy_card(summary: Summary) -> str:
    found = summary.accuracy
    low, high = percent(found.low), percent(found.high)
    interval = f"{metric('accuracy_low95', low)} to {metric('accuracy_high95', high)}"
    return _card(
        "frames right",
        metric("episode_split_accuracy", percent(found.value)),
        f"95&nbsp;% interval {interval}",
    )


def _per_hour_card(summary: Summary) -> str:
    found = summary.false_successes
    if found.per_hour is None:
        return _card("false successes per hour", UNKNOWN, "there is no play without success")
    return _card(
        "false successes per hour",
        metric("false_successes_per_hour", f"{found.per_hour:.1f}"),
        f"{metric('false_successes', str(found.count))} in {60 * found.hours:.1f} min without success; "
        f"95&nbsp;% interval {found.low:.1f} to {found.high:.1f} per hour",
    )


def _decision_card(summary: Summary) -> str:
    decision, rate = summary.decision, summary.rate_hz
    takeover = decision.takeover_frames / rate
    hold, least = (metric(name, str(getattr(decision, name))) for name in ("hold_frames", "min_frames"))
    more = (
        f"probability or more, held {hold} frames ({decision.hold_frames / rate:.1f} s), "
        f"not before frame {least} ({decision.min_frames / rate:.1f} s)"
        + (f", not within {takeover:.1f} s of a take-over" if takeover else "")
    )
    return _card("success is called at", metric("threshold", f"{decision.threshold:.3g}"), more)


def _delay(summary: Summary) -> str:
    delays = summary.delays
    if not delays:
        return "delay not known"
    middle = delays[(len(delays) - 1) // 2] / summary.rate_hz
    return (
        f"{metric('median_delay_s', f'{middle:.1f} s')} after it was reached (median), "
        f"{delays[-1] / summary.rate_hz:.1f} s at most"
    )


def _next(report: Report) -> str:
    found = advice(report.summary, report.false_success_rate, report.losses)
    items = "".join(f"<li>{text}</li>" for text in found)
    return f'<section id="next"><h2>What to do next</h2><ol class="next">{items}</ol></section>'


def _method(report: Report) -> str:
    notes = (
        "Frames right: at probability 0.5, which was fixed beforehand. Frames of one episode look alike, so "
        "the interval resamples whole episodes (bootstrap by episode, fixed seed) and is never narrower than "
        "Wilson's for independent frames. Shares of episodes have Wilson's interval, counts per hour "
        "Poisson's. Threshold and times were chosen on these same episodes: on new ones expect a few more "
        "false successes."
    )
    return section(
        "method", "How this was measured", notes, pairs("settings", ("setting", "value"), report.settings)
    )
