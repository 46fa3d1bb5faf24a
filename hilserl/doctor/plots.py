"""Plots of what was measured, as PNG files for the page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from robot.kinematics import F64

_INK, _FAINT, _LIMIT = "#2f6fb5", "#8a94a6", "#c0392b"
_AXES = "xyz"


def _figure(count: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(6.6, 2.4 if count == 3 else 2.9), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    plots: list[Axes] = list(np.atleast_1d(figure.subplots(1, count)))
    for axes in plots:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_fontsize(9)
        axes.yaxis.label.set_fontsize(9)
    return figure, plots


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def ways_plot(ways_m: Mapping[str, F64], length_m: float) -> bytes:
    """Where unit actions lead the hand. ways_m: {"+x": measured way (3,) [m]}; length_m: what was asked."""
    figure, plots = _figure(2)
    reach = 1300 * length_m
    for axes, (across, up) in zip(plots, ((1, 0), (1, 2)), strict=True):
        circle = np.linspace(0, 2 * np.pi, 100)
        axes.plot(1000 * length_m * np.cos(circle), 1000 * length_m * np.sin(circle), ":", color=_FAINT, lw=1)
        for name, way in ways_m.items():
            if _AXES.index(name[1]) in (across, up):
                x, y = 1000 * way[across], 1000 * way[up]
                arrow = {"arrowstyle": "->", "color": _INK}
                axes.annotate("", (x, y), (0, 0), arrowprops=arrow)
                axes.text(1.12 * x, 1.12 * y, name, ha="center", va="center", fontsize=8)
        axes.set_xlim(reach, -reach)  # the arm's left is on the left
        axes.set_ylim(-reach, reach)
        axes.set_aspect("equal")
        axes.set_xlabel(f"{_AXES[across]} [mm]")
        axes.set_ylabel(f"{_AXES[up]} [mm]")
    return _png(figure)


def misses_plot(misses_m: F64, limit_m: float) -> bytes:
    """Where resets ended, seen from where they should have: misses_m (N, 3) [m], limit_m a circle."""
    figure, plots = _figure(2)
    off, limit = 1000 * misses_m, 1000 * limit_m
    circle = np.linspace(0, 2 * np.pi, 100)
    for axes, (across, up) in zip(plots, ((1, 0), (1, 2)), strict=True):
        axes.plot(limit * np.cos(circle), limit * np.sin(circle), color=_LIMIT, lw=1)
        axes.plot(off[:, across], off[:, up], "o", color=_INK, ms=4, alpha=0.7)
        reach = max(1.2 * limit, 1.1 * float(np.abs(off).max()))
        axes.set_xlim(reach, -reach)
        axes.set_ylim(-reach, reach)
        axes.set_aspect("equal")
        axes.set_xlabel(f"{_AXES[across]} [mm]")
        axes.set_ylabel(f"{_AXES[up]} [mm]")
    return _png(figure)


def periods_plot(period_s: Sequence[float], due_s: float) -> bytes:
    """How long each step of the control loop took [s], and how long it should have."""
    figure, (axes,) = _figure()
    axes.plot(1000 * np.array(period_s), ".-", color=_INK, lw=0.6, ms=3)
    axes.axhline(1000 * due_s, color=_FAINT, ls="--", lw=1)
    axes.axhline(1500 * due_s, color=_LIMIT, lw=1)
    axes.set_ylim(0, max(1700 * due_s, 1100 * max(period_s)))
    axes.set_xlabel("step")
    axes.set_ylabel("period [ms]")
    return _png(figure)


def moves_plot(asked_m: F64, moved_m: F64) -> bytes:
    """What demonstrations' actions asked for against what the hand did: (N, 3) [m] each."""
    figure, plots = _figure(3)
    reach = 1050 * max(float(np.abs(asked_m).max()), float(np.abs(moved_m).max()), 1e-3)
    for axis, axes in enumerate(plots):
        axes.plot([-reach, reach], [-reach, reach], color=_FAINT, lw=1)
        axes.plot(1000 * asked_m[:, axis], 1000 * moved_m[:, axis], ".", color=_INK, ms=3, alpha=0.5)
        axes.set_xlim(-reach, reach)
        axes.set_ylim(-reach, reach)
        axes.set_aspect("equal")
        axes.set_xlabel(f"{_AXES[axis]} asked [mm]")
    plots[0].set_ylabel("moved [mm]")
    return _png(figure)
