"""The two things a preview can show, live cameras and recorded episodes: what is special about each."""

from __future__ import annotations

import time
from html import escape
from typing import Protocol

from nicegui import ui

from hilserl.pages import preview_html
from hilserl.pages.preview_live import HISTORY_S, LiveScorer
from hilserl.pages.preview_plot import plot
from hilserl.pages.preview_recorded import RecordedPlayer
from hilserl.pages.preview_shown import Shown

STANDS_S = 2.0
"""A scoring loop that has given nothing for so long stands still."""

SLOW = 0.8
"""Share of the control rate below which the rate is said to be too low."""


class Stage(Protocol):
    """What a page shows. `build` is called once per tab, the rest by its timer and its keys.

    buttons: {text: the key it stands for}.
    """

    buttons: dict[str, str]

    def build(self) -> None: ...

    def shown(self) -> Shown | None: ...

    def drawing(self, shown: Shown) -> str: ...

    def about(self, shown: Shown) -> list[str]: ...

    def press(self, key: str) -> bool:
        """Whether the key means something here."""
        ...

    def message(self) -> str: ...


class LiveStage:
    """The cameras now."""

    buttons = {"r new episode": "r", "c record": "c"}

    def __init__(self, scorer: LiveScorer, fps: float) -> None:
        self._scorer, self._fps = scorer, fps
        self._seen, self._seen_s = 0, time.monotonic()

    def build(self) -> None:
        """Nothing of its own."""

    def shown(self) -> Shown | None:
        newest = self._scorer.newest.get()
        if newest is None:
            return None
        number, shown = newest
        now_s = time.monotonic()
        if number != self._seen:
            self._seen, self._seen_s = number, now_s
        elif now_s - self._seen_s > STANDS_S or not self._scorer.alive:
            stands = (
                f"the scoring loop has stood still for {now_s - self._seen_s:.0f} s; see the terminal, and "
                "start the preview again"
            )
            return Shown(-number, shown.views, None, 0, False, shown.decision, shown.points, trouble=stands)
        return shown

    def drawing(self, shown: Shown) -> str:
        end_s = shown.points[-1].time_s if shown.points else HISTORY_S
        # frames that came slowly reach back further than the drawing
        points = [point for point in shown.points if point.time_s >= end_s - HISTORY_S]
        return plot(points, shown.decision.threshold, (end_s - HISTORY_S, end_s), relative=True)

    def about(self, shown: Shown) -> list[str]:
        recorder = self._scorer.recorder
        parts = ["live" if shown.rate_hz is None else self._rate(shown.rate_hz)]
        if shown.score_ms is not None:
            parts.append(f"scored in {shown.score_ms:.0f} ms")
        if recorder is not None:
            parts.append(f'<span class="pv-rec">&#9679; recording, {recorder.count} frames</span>')
        return parts

    def _rate(self, rate_hz: float) -> str:
        if rate_hz >= SLOW * self._fps:
            return f"live, {rate_hz:.1f} Hz"
        slow = f"live, only {rate_hz:.1f} of {self._fps:g} Hz: frames are held for longer than by the actor"
        return f'<span class="pv-changed">{slow}</span>'

    def press(self, key: str) -> bool:
        match key:
            case "r":
                self._scorer.reset()
            case "c":
                self._scorer.toggle_recording()
            case _:
                return False
        return True

    def message(self) -> str:
        return self._scorer.message


class RecordedStage:
    """Recorded episodes."""

    buttons = {
        "space play": " ",
        "←": "ArrowLeft",
        "→": "ArrowRight",
        "r start": "r",
        "p previous": "p",
        "n next": "n",
        "t table": "t",
    }

    def __init__(self, player: RecordedPlayer, fps: float) -> None:
        self._player, self._fps = player, fps
        self._table_open = False

    def build(self) -> None:
        """Slider and table."""
        with ui.element("div").classes("pv-row w-full"):
            told = ui.html("", sanitize=False).classes("pv-episode").props("id=pv-episode")
            slider = ui.slider(min=0, max=1, value=0).style("flex: 1").props("id=pv-slider dense")
        slider.on("update:model-value", lambda event: self._player.seek(int(event.args)))
        # A focused slider would take the arrow keys for itself.
        slider.on("change", js_handler="() => document.activeElement.blur()")
        table = ui.html("", sanitize=False).classes("pv-rows")

        def refresh() -> None:
            player = self._player
            slider.props["max"] = player.episode.frames - 1
            slider.value = player.frame
            slider.update()
            told.set_content(self._told())
            table.set_content(self._table() if self._table_open else "")

        ui.timer(1.0 / self._fps, refresh)

    def _told(self) -> str:
        player = self._player
        episode = player.episode
        facts = escape(str(episode.facts.get("scenario", "")))
        word = "playing" if player.playing else "paused"
        return (
            f"episode <b>{escape(episode.name)}</b> ({player.index + 1} of {player.count}) {facts}, "
            f"ended: {escape(episode.end)} &nbsp; frame <b>{player.frame}</b> of {episode.frames}, {word}"
        )

    def _table(self) -> str:
        times = self._player.times
        told = f"scored {times.done} of {self._player.count} ..."
        if times.done >= self._player.count:
            told = times.summary()
        rows = preview_html.table(times.rows(), self._player.episode.name, self._fps)
        return f'<div class="pv-faint" id="pv-summary">{escape(told)}</div>{rows}'

    def shown(self) -> Shown | None:
        return self._player.shown(time.monotonic())

    def drawing(self, shown: Shown) -> str:
        if not shown.points:
            return ""
        called = self._player.times.called(self._player.episode)
        return plot(
            shown.points,
            shown.decision.threshold,
            (0.0, self._player.episode.frames / self._fps),
            now_s=self._player.frame / self._fps,
            truth=self._player.times.truth(self._player.episode),
            first_called_s=None if called is None else called / self._fps,
        )

    def about(self, shown: Shown) -> list[str]:
        truth = (
            "green strip: true success"
            if self._player.times.truth(self._player.episode) is not None
            else "not labelled"
        )
        return ["recorded", truth]

    def press(self, key: str) -> bool:
        player = self._player
        match key:
            case " ":
                player.toggle_playing(time.monotonic())
            case "ArrowLeft":
                player.seek(player.frame - 1)
            case "ArrowRight":
                player.seek(player.frame + 1)
            case "p":
                player.choose(player.index - 1)
            case "n":
                player.choose(player.index + 1)
            case "r":
                player.seek(0)
            case "t":
                self._table_open = not self._table_open
                player.want_table()
            case _:
                return False
        return True

    def message(self) -> str:
        return ""
