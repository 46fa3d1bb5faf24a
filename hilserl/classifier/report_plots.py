"""The report's plots, drawn as SVG that takes its colours from the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hilserl.classifier.metrics import F64, Scored
from hilserl.classifier.metrics_calls import Call
from hilserl.classifier.metrics_curves import Calibration, PrecisionRecall
from hilserl.classifier.report_parts import UNKNOWN, percent

Losses = Sequence[tuple[int, float, float]]
"""(epoch, training loss, held-out loss) of one fold, in order."""
_WIDTH, _HEIGHT = 340.0, 270.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 12.0, 12.0, 42.0
_NEAR_PX = 0.4
"""Points of a curve closer than this cannot be told apart."""
_LARGEST_DOT = 9.0
_STRIP_HEIGHT = 40.0


class _Axes:
    """A frame with ticks; x and y map to pixels."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], labels: tuple[str, str]) -> None:
        self._x, self._y, self._labels = x, y, labels
        self._parts: list[str] = []

    def x(self, value: float) -> float:
        low, high = self._x
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self._y
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def add(self, part: str) -> None:
        self._parts.append(part)

    def line(self, kind: str, points: Sequence[tuple[float, float]]) -> None:
        self.add(f'<polyline class="{kind}" points="{_thin([(self.x(a), self.y(b)) for a, b in points])}"/>')

    def dot(self, kind: str, at: tuple[float, float], radius: float, told: str) -> None:
        x, y = self.x(at[0]), self.y(at[1])
        self.add(
            f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">'
            f"<title>{told}</title></circle>"
        )

    def svg(self, told: str, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> str:
        left, right, bottom = _LEFT, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        frame = []
        for tick in y_ticks:
            y = self.y(tick)
            frame.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            frame.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
        for tick in x_ticks:
            x = self.x(tick)
            frame.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
        frame.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
        middle_x, middle_y = (left + right) / 2, (_TOP + bottom) / 2
        frame.append(f'<text x="{middle_x}" y="{_HEIGHT - 6}" text-anchor="middle">{self._labels[0]}</text>')
        frame.append(
            f'<text transform="translate(11 {middle_y}) rotate(-90)" text-anchor="middle">'
            f"{self._labels[1]}</text>"
        )
        return (
            f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{told}">'
            + "".join(frame + self._parts)
            + "</svg>"
        )


_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def precision_recall_svg(curve: PrecisionRecall, precision: float | None, recall: float | None) -> str:
    """The curve; precision and recall: where the decision's threshold lies on it."""
    axes = _Axes((0.0, 1.0), (0.0, 1.0), ("recall", "precision"))
    axes.line("curve", [(0.0, float(curve.precision[0])), *_points(curve.recall, curve.precision)])
    if precision is not None and recall is not None:
        axes.dot("use", (recall, precision), 5.0, f"precision {precision:.3f}, recall {recall:.3f}")
    return axes.svg("precision against recall", _SHARES, _SHARES)


def calibration_svg(found: Calibration) -> str:
    """A dot per bin, larger where more frames are; what is said against what is true."""
    axes = _Axes((0.0, 1.0), (0.0, 1.0), ("probability said", "share of successes"))
    axes.line("ideal", [(0.0, 0.0), (1.0, 1.0)])
    full = [i for i in range(found.count.size) if found.count[i]]
    axes.line("curve faint", [(float(found.said[i]), float(found.true[i])) for i in full])
    for i in full:
        radius = 2.5 + (_LARGEST_DOT - 2.5) * math.sqrt(found.count[i] / found.count.max())
        told = f"{found.count[i]:.0f} frames: said {found.said[i]:.2f}, true {found.true[i]:.2f}"
        axes.dot("dot", (float(found.said[i]), float(found.true[i])), radius, told)
    return axes.svg("calibration", _SHARES, _SHARES)


def losses_svg(folds: Sequence[Losses]) -> str | None:
    """Training and held-out loss of every fold by epoch; None without one finite point."""
    clean = [[p for p in fold if math.isfinite(p[1]) and math.isfinite(p[2])] for fold in folds]
    points = [point for fold in clean for point in fold]
    if not points:
        return None
    first, last = min(p[0] for p in points), max(p[0] for p in points)
    # the first epochs may be far above the rest: the scale is that of what follows, and the curve is cut
    top = 1.1 * float(np.percentile([value for p in points for value in p[1:]], 98)) or 1.0
    axes = _Axes((first, max(last, first + 1)), (0.0, top), ("epoch", "loss"))
    for fold in clean:
        axes.line("second", [(p[0], min(p[1], top)) for p in fold])
    for fold in filter(None, clean):
        axes.line("curve thin", [(p[0], min(p[2], top)) for p in fold])
    for fold in filter(None, clean):
        best = min(fold, key=lambda p: p[2])
        axes.dot("dot", (best[0], min(best[2], top)), 3.5, f"epoch {best[0]}: held-out loss {best[2]:.4f}")
    return axes.svg("loss by epoch", _ticks(first, max(last, first + 1), whole=True), _ticks(0.0, top))


def strip_svg(one: Scored, call: Call, threshold: float) -> str:
    """Probability over one episode, the labelled success behind it, the threshold, where it was called."""
    last = max(one.frames - 1, 1)
    line = _thin(
        [
            (float(frame), _STRIP_HEIGHT * (1 - float(p)))
            for frame, p in enumerate(one.probability)
        ]
    )  # fmt: skip
    edges = np.flatnonzero(np.diff(np.concatenate([[False], one.success, [False]]).astype(np.int8)))
    shades = [
        f'<rect class="truth" x="{a - 0.5:g}" y="0" width="{b - a:g}" height="{_STRIP_HEIGHT:g}"/>'
        for a, b in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    ]
    level = _STRIP_HEIGHT * (1 - threshold)
    parts = [*shades, f'<polygon class="said" points="0,{_STRIP_HEIGHT:g} {line} {last},{_STRIP_HEIGHT:g}"/>']
    parts.append(f'<line class="level" x1="0" x2="{last}" y1="{level:.2f}" y2="{level:.2f}"/>')
    parts.append(f'<polyline class="line" points="{line}"/>')
    if call.frame is not None:
        kind = "right" if call.right else "wrong"
        parts.append(
            f'<line class="{kind}" x1="{call.frame}" x2="{call.frame}" y1="0" y2="{_STRIP_HEIGHT:g}"/>'
        )
    return (
        f'<svg viewBox="-0.5 -1 {last + 1} {_STRIP_HEIGHT + 2:g}" preserveAspectRatio="none" role="img" '
        f'aria-label="probability over the episode, {call.word}">{"".join(parts)}</svg>'
    )


def caption_curve(curve: PrecisionRecall | None, threshold: float) -> str:
    """Under the precision-recall curve."""
    average = percent(curve.average_precision) if curve else UNKNOWN
    return (
        f"<b>Precision and recall</b> of frames over all thresholds. Average precision {average}. "
        f"The ring is the threshold in use, {threshold:.3g}."
    )


def _points(x: F64, y: F64) -> list[tuple[float, float]]:
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _thin(points: Sequence[tuple[float, float]]) -> str:
    """Pixels as text, without those that lie on top of the one before; the last one always stays."""
    kept: list[tuple[float, float]] = []
    for point in points:
        if not kept or math.dist(point, kept[-1]) >= _NEAR_PX:
            kept.append(point)
    if points and kept[-1] != points[-1]:
        kept.append(points[-1])
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in kept)


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Round numbers in [low, high], about five."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * 0.999)
    if whole:
        step = max(1.0, round(step))
    start = math.ceil(low / step)
    return [step * i for i in range(start, math.floor(high / step + 1e-9) + 1)]
