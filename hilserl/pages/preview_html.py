"""The pieces of the preview page that change with every moment, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from hilserl.classifier.model import LOOK_MARGIN
from hilserl.config import CropConfig
from hilserl.pages.preview_decision import DecisionDesk, in_words
from hilserl.pages.preview_shown import Shown, View
from hilserl.pages.preview_times import Row

NO_PROBABILITY = "–"


def head(name: str, parts: Sequence[str]) -> str:
    """The first line: what is shown, and what belongs to it."""
    told = "".join(f'<span class="pv-faint">{part}</span>' for part in parts)
    return f'<div class="pv-head"><b>{escape(name)}</b>{told}</div>'


def banner(trouble: str, light: str) -> str:
    """What keeps pictures from being judged, in red; what makes the verdict doubtful, in amber."""
    red = f'<div id="pv-trouble" class="pv-banner pv-bad">{escape(trouble)}</div>' if trouble else ""
    amber = f'<div id="pv-light" class="pv-banner pv-warn">{escape(light)}</div>' if light else ""
    return red + amber


def verdict(shown: Shown, desk: DecisionDesk) -> str:
    """The probability, its bar, the lamp, what is held, and the decision tried."""
    decision, probability = shown.decision, shown.probability
    number = NO_PROBABILITY if probability is None else f"{probability:.3f}"
    share = 100 * (probability or 0.0)
    over = " over" if probability is not None and probability >= decision.threshold else ""
    lamp, word = (" on", "SUCCESS") if shown.called else ("", "no success")
    pips = "".join(
        f'<span class="pv-pip{" on" if index < shown.held else ""}"></span>'
        for index in range(min(decision.hold_frames, 30))
    )
    least = f"not before step {decision.min_frames}"
    if decision.takeover_frames:
        least += f", nor in the first {decision.takeover_frames} frames of a take-over"
    changed = ""
    if desk.changed:
        changed = f'<div class="pv-changed pv-faint">the model\'s file says {in_words(desk.kept)}</div>'
    return f"""
<div class="pv-top">
  <div id="pv-probability" class="pv-probability" data-number="{shown.number}">{number}</div>
  <div id="pv-lamp" class="pv-lamp{lamp}">{word}</div>
</div>
<div class="pv-bar"><div class="pv-fill{over}" style="width:{share:.2f}%"></div>
  <div class="pv-mark" style="left:{100 * decision.threshold:.2f}%"></div></div>
<div class="pv-row"><span>threshold</span>
  <b id="pv-threshold" class="pv-mono">{decision.threshold:.3g}</b></div>
<div class="pv-row"><span>held</span><span class="pv-pips">{pips}</span>
  <b id="pv-held" class="pv-mono">{shown.held} of {decision.hold_frames} frames</b></div>
<div class="pv-row pv-faint">{least}</div>
{changed}"""


def brightness_row(name: str, view: View, look: tuple[float, float]) -> str:
    """How bright a camera's policy image is, and what training saw."""
    low, high = look
    if view.brightness is None:
        told = NO_PROBABILITY
    else:
        fits = low * (1 - LOOK_MARGIN) <= view.brightness <= high * (1 + LOOK_MARGIN)
        style = "" if fits else ' class="pv-changed"'
        told = f"<b{style}>{view.brightness:.0f}</b>"
    return (
        f'<div class="pv-row pv-faint"><span>brightness {escape(name)}</span>'
        f"<span>{told}, trained {low:.0f}–{high:.0f}</span></div>"
    )


def caption(view: View) -> str:
    """Below a native frame."""
    if view.error:
        return f'<span class="pv-changed">{escape(view.error)}</span>'
    if not view.native:
        return "native frames were not kept"
    age = "" if view.age_s is None else f", {1000 * view.age_s:.0f} ms old"
    return f"what the camera sees{age}; framed: the crop"


def crop_style(crop: CropConfig, size: tuple[int, int]) -> str:
    """Where the crop lies in a frame of size (width, height), as CSS."""
    width, height = size
    return (
        f"left:{100 * crop.left / width:.3f}%;top:{100 * crop.top / height:.3f}%;"
        f"width:{100 * crop.width / width:.3f}%;height:{100 * crop.height / height:.3f}%"
    )


def table(rows: Sequence[Row], chosen: str, fps: float) -> str:
    """True and called success of every episode."""
    lines = []
    for row in rows:
        late = ""
        if row.true is not None and row.called is not None:
            late = f"{(row.called - row.true) / fps:+.1f} s"
        kind = {True: "good", False: "wrong", None: ""}[row.good]
        here = " &#9664;" if row.name == chosen else ""
        lines.append(
            f'<tr><td class="left">{escape(row.name)}{here}</td><td class="left">{escape(row.about)}</td>'
            f"<td>{_frame(row.true)}</td><td>{_frame(row.called)}</td><td>{late}</td>"
            f'<td class="left {kind}">{escape(row.verdict)}</td></tr>'
        )
    return (
        '<table id="pv-table" class="pv-table"><tr><th class="left">episode</th><th class="left"></th>'
        '<th>true from frame</th><th>called at frame</th><th>late by</th><th class="left">verdict</th></tr>'
        + "".join(lines)
        + "</table>"
    )


def _frame(frame: int | None) -> str:
    return NO_PROBABILITY if frame is None else str(frame)
