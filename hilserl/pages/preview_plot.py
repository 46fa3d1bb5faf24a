"""The probability over time, as an SVG drawing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hilserl.pages.preview_shown import Point

WIDTH, HEIGHT = 1200, 170
_LEFT, _RIGHT, _TOP, _FLOOR = 42, 16, 10, 130
_STRIP = 10
"""Height of the strip of truth below the curve."""

TRUE, CALLED, CURVE, MARK, FAINT = "#2fa860", "#1d5c38", "#6fb3ff", "#ffb347", "#5a6068"


def plot(
    points: Sequence[Point],
    threshold: float,
    span_s: tuple[float, float],
    *,
    now_s: float | None = None,
    truth: NDArray[np.bool_] | None = None,
    first_called_s: float | None = None,
    relative: bool = False,
) -> str:
    """The curve of `points` between the two times of span_s [s], and where success is called.

    truth: per point, drawn as a strip. now_s: a cursor. first_called_s: a mark. relative: write times as
    before the end, as of something that goes on.
    """
    start_s, end_s = span_s
    scale = (WIDTH - _LEFT - _RIGHT) / max(end_s - start_s, 1e-6)

    def x(time_s: float) -> float:
        return _LEFT + (time_s - start_s) * scale

    ends_s = [*(point.time_s for point in points[1:]), end_s]
    parts = [_rect(_LEFT, _TOP, WIDTH - _RIGHT - _LEFT, _FLOOR - _TOP, "#16191d")]
    for first, last in _runs([point.called for point in points]):
        left, right = x(points[first].time_s), x(ends_s[last])
        parts.append(_rect(left, _TOP, right - left, _FLOOR - _TOP, CALLED))
    for value in (0.0, 0.5, 1.0):
        parts.append(_line(_LEFT, y(value), WIDTH - _RIGHT, y(value), FAINT, 0.5))
        parts.append(_text(_LEFT - 6, y(value) + 4, f"{value:g}", "end"))
    for time_s in np.linspace(start_s, end_s, 6):
        told = f"{time_s - end_s:.0f} s" if relative else f"{time_s - start_s:.1f} s"
        parts.append(_text(x(float(time_s)), HEIGHT - 4, "now" if relative and time_s == end_s else told))
    for first, last in _runs([point.probability is not None for point in points]):
        curve = " ".join(f"{x(p.time_s):.1f},{y(p.probability or 0.0):.1f}" for p in points[first : last + 1])
        parts.append(f'<polyline points="{curve}" fill="none" stroke="{CURVE}" stroke-width="2"/>')
    parts.append(_line(_LEFT, y(threshold), WIDTH - _RIGHT, y(threshold), MARK, 1.5, dashes="6 4"))
    if truth is not None:
        parts.append(_rect(_LEFT, _FLOOR + 4, WIDTH - _RIGHT - _LEFT, _STRIP, "#2a2e34"))
        for first, last in _runs(truth.tolist()):
            left, right = x(points[first].time_s), x(ends_s[last])
            parts.append(_rect(left, _FLOOR + 4, right - left, _STRIP, TRUE))
    if first_called_s is not None:
        at = x(first_called_s)
        parts.append(f'<path d="M{at:.1f} {_TOP + 10} l-7 -10 h14 z" fill="#ffffff"/>')
        parts.append(_line(at, _TOP, at, _FLOOR, "#ffffff", 1.0, dashes="2 3"))
    if now_s is not None:
        parts.append(_line(x(now_s), _TOP, x(now_s), _FLOOR + 4 + _STRIP, "#ff5c5c", 2.0))
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" class="plot">{"".join(parts)}</svg>'


def y(probability: float) -> float:
    """Height of a probability in the drawing."""
    return _FLOOR - probability * (_FLOOR - _TOP)


def _runs(flags: Sequence[bool]) -> list[tuple[int, int]]:
    """First and last index of each run of true."""
    edges = np.flatnonzero(np.diff(np.array([False, *flags, False], np.int8)))
    return [(int(first), int(end) - 1) for first, end in edges.reshape(-1, 2)]


def _rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1.0):.1f}" height="{height:.1f}" fill="{colour}"/>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-width="{width}"{dashed}/>'
    )


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="tick">{text}</text>'
