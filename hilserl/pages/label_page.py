"""The page of `hilserl label`: an episode's pictures, its timeline, and keys to say where success is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Response
from nicegui import context, ui
from nicegui.element import Element
from nicegui.events import GenericEventArguments

from hilserl.classifier.sources import SourceEpisode
from hilserl.labels import Label, LabelError, Ranges, labels_file
from hilserl.labels_proposals import Proposal, proposals
from hilserl.labels_review import Disagreement, disagreements
from hilserl.labels_scores import Scores
from hilserl.labels_session import MARKS, LabelSession, next_after
from hilserl.pages.frames import FramesError, FrameStore

_STYLE = Path(__file__).with_name("label_page.css")
_LOOK_S = 0.4
"""How often a tab looks for what another tab or the classifier has changed."""


class Player(Element, component="label_player.js"):
    """See label_player.js."""


class EpisodeList(Element, component="label_list.js"):
    """See label_list.js."""


@dataclass(frozen=True)
class LabelPage:
    """What all tabs share. fps: of the recording. serve `build` as the page and `routes` as its pictures."""

    root: Path
    episodes: Sequence[SourceEpisode]
    session: LabelSession
    frames: FrameStore
    cameras: tuple[str, ...]
    fps: float
    scores: Scores | None = None
    known: dict[str, tuple[Proposal, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.known.update({episode.name: proposals(episode) for episode in self.episodes})

    def routes(self, app: FastAPI) -> None:
        """Add /frames/EPISODE/CAMERA/FRAME, a JPEG."""

        @app.get("/frames/{name}/{camera}/{frame}")
        def picture(name: str, camera: str, frame: int) -> Response:
            if name not in self.known:
                return Response(f"there is no episode {name}", 404)
            try:
                jpeg = self.frames.get(name, camera, frame)
            except FramesError as error:
                return Response(str(error), 500)
            # a port may show another recording tomorrow
            return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    def build(self) -> None:
        """The elements of one tab."""
        _Tab(self, context.client.request.query_params.get("episode", ""))

    def review(self) -> list[Disagreement]:
        """What to look at again, the worst first."""
        if self.scores is None:
            return []
        return disagreements(self.session.labels, dict(self.scores.probabilities))


class _Tab:
    """One tab: where the person is."""

    def __init__(self, page: LabelPage, wanted: str) -> None:
        self._page, self._session = page, page.session
        self._episodes = {episode.name: episode for episode in page.episodes}
        first = next(iter([*self._session.unlabelled(), *self._episodes]))
        self._at = wanted if wanted in self._episodes else first
        self._pending: tuple[str, int] | None = None
        self._answered, self._serial, self._seen = 0, 0, ""
        self._drawn: tuple[int, int, str] = (-1, -1, "")
        self._review: list[Disagreement] = []
        ui.add_css(_STYLE)
        self._header()
        with ui.element("div").classes("bench"):
            self._list = EpisodeList()
            self._player = Player()
        self._list.on("open", lambda event: self._open(event.args))
        self._list.on("review", lambda event: self._look(event.args))
        self._player.on("press", self._pressed)
        self._player.on("early", lambda _: self._warn("the next episode is not here yet: press it again"))
        self._open(self._at)
        self._refresh()
        ui.timer(_LOOK_S, self._refresh)

    def _header(self) -> None:
        with ui.header().classes("items-center q-py-xs no-wrap").style("height: 52px; gap: 16px"):
            ui.label(f"Label {self._page.root.name}").classes("text-subtitle1 text-weight-medium")
            self._bar = ui.linear_progress(0.0, show_value=False, color="positive").style("width: 220px")
            self._count = ui.label().props('data-what="count"')
            ui.space()
            ui.label(f"saved at once in {labels_file(self._page.root).name}").classes(
                "text-caption text-grey-5"
            )

    def _open(self, name: str, frame: int | None = None) -> None:
        """Show an episode: at `frame`, or where its success, known or proposed, begins."""
        if self._pending is not None and name != self._at:
            kind, edge = self._pending
            raise_first = "e at its last frame" if kind == "start" else "s at its first frame"
            self._warn(f"an interval that {kind}s at frame {edge} is open: press {raise_first}, or Esc")
            return
        self._at, self._serial = name, self._serial + 1
        episode = self._episodes[name]
        if frame is None:
            label = self._session.labels.get(name)
            ghost = self._ghost()
            ranges = label.ranges if label else ghost.ranges if ghost else ()
            frame = ranges[0][0] if ranges else 0
        self._player.props["view"] = {
            "name": name,
            "frames": episode.frames,
            "fps": self._page.fps,
            "cameras": list(self._page.cameras),
            "url": f"/frames/{quote(name, safe='')}",
            "start": frame,
            "serial": self._serial,
        }
        self._ahead()
        self._draw()

    def _ahead(self) -> None:
        """Decode what `n` will most likely show next."""
        following = next_after(self._episodes, self._session.unlabelled() or self._episodes, self._at)
        if following is not None:
            self._page.frames.ahead(following)

    def _ghost(self) -> Proposal | None:
        """The proposal to show: the best one, unless the label says the same."""
        label = self._session.labels.get(self._at)
        known = self._page.known[self._at]
        return known[0] if known and (label is None or label.ranges != known[0].ranges) else None

    def _look(self, key: str) -> None:
        found = next((one for one in self._review if _key(one) == key), None)
        if found is not None:
            self._seen = key
            self._open(found.episode, found.worst)

    def _pressed(self, event: GenericEventArguments) -> None:
        """A key, with the episode and the frame on show."""
        said: dict[str, Any] = event.args
        try:
            self._do(str(said["what"]), str(said["episode"]), int(said["frame"]))
        except LabelError as error:
            self._warn(str(error))
        self._answered = int(said["id"])
        self._refresh(force=True)

    def _do(self, what: str, name: str, frame: int) -> None:
        if what in MARKS:
            # a pending edge belongs to the episode on show
            pending = self._pending if name == self._at else None
            self._pending = self._session.mark(name, what, frame, pending).pending
        elif what == "exclude":
            self._session.exclude(name)
        elif what == "accept":
            known = self._page.known[name]
            if not known:
                raise LabelError(f"nothing is proposed for episode {name}")
            self._pending = None
            self._session.accept(name, known[0].ranges)
        elif what in ("undo", "redo"):
            self._pending = None
            changed = self._session.undo() if what == "undo" else self._session.redo()
            if changed != self._at:
                self._open(changed)
        else:
            self._go(what)

    def _go(self, what: str) -> None:
        names = list(self._episodes)
        place = names.index(self._at)
        if what == "next":
            following = next_after(names, self._session.unlabelled(), self._at)
            if following is None:
                done = self._at in self._session.labels
                raise LabelError("every episode is labelled" if done else "every other episode is labelled")
            self._open(following)
        elif what in ("following", "previous"):
            place += 1 if what == "following" else -1
            if not 0 <= place < len(names):
                raise LabelError(f"this is the {'last' if what == 'following' else 'first'} episode")
            self._open(names[place])
        elif what in ("review", "review_back"):
            self._step_review(1 if what == "review" else -1)
        else:
            raise LabelError(f"no key is called {what!r}")

    def _step_review(self, step: int) -> None:
        if self._page.scores is None:
            raise LabelError("there is no classifier to compare with: start with --model DIR")
        keys = [_key(one) for one in self._review]
        if not keys:
            raise LabelError("labels and classifier agree everywhere, as far as it has looked")
        place = keys.index(self._seen) + step if self._seen in keys else 0
        if not 0 <= place < len(keys):
            raise LabelError("this was the last of the review list" if step > 0 else "this is its first")
        self._look(keys[place])

    def _warn(self, text: str) -> None:
        with self._player:
            ui.notify(text, type="warning", position="bottom", timeout=3500)

    def _refresh(self, *, force: bool = False) -> None:
        """Draw what this tab, another one or the classifier has changed."""
        scores = self._page.scores
        now = (self._session.changes, scores.done if scores else 0, scores.error if scores else "")
        if now != self._drawn:
            self._drawn = now
            self._review = self._page.review()
            self._draw_list()
        elif not force:
            return
        self._draw()

    def _draw(self) -> None:
        episode = self._episodes[self._at]
        label = self._session.labels.get(self._at)
        kind, text = _status(label)
        ghost, scores = self._ghost(), self._page.scores
        probability = scores.probabilities.get(self._at) if scores else None
        self._player.props["state"] = {
            "ranges": label.ranges if label else (),
            "exclude": label is not None and label.exclude,
            "label": {"kind": kind, "text": text, "by": label.by if label else ""},
            "pending": self._pending,
            "ghost": ghost and {"ranges": ghost.ranges, "text": _ranges_text(ghost.ranges), "why": ghost.why},
            "scores": None if probability is None else [round(float(p), 4) for p in probability],
            "threshold": scores.threshold if scores else 1.0,
            "facts": _facts(episode),
            "answered": self._answered,
        }
        self._list.props["at"], self._list.props["seen"] = self._at, self._seen

    def _draw_list(self) -> None:
        labels = self._session.labels
        self._list.props["rows"] = [
            {"name": name, "kind": _status(labels.get(name))[0], "text": _status(labels.get(name))[1]}
            for name in self._episodes
        ]
        scores = self._page.scores
        if scores is not None:
            looked = f"{scores.done} of {len(self._episodes)} episodes looked at"
            note = scores.error or f"Where labels and classifier disagree most. {looked}."
            self._list.props["review"] = {"note": note, "rows": [_review_row(one) for one in self._review]}
        done, excluded = len(labels), sum(label.exclude for label in labels.values())
        self._bar.value = done / len(self._episodes)
        text = f"labelled {done} of {len(self._episodes)}"
        self._count.text = text + (f", {excluded} excluded" if excluded else "")


def _key(one: Disagreement) -> str:
    return f"{one.episode}:{one.first}-{one.end}:{'success' if one.success else 'failure'}"


def _review_row(one: Disagreement) -> dict[str, object]:
    what = "success" if one.success else "failure"
    return {
        "key": _key(one),
        "name": one.episode,
        "text": f"{what} {one.first}–{one.end - 1} scored {one.probability:.2f}",
        "bar": one.difference,
        "success": one.success,
    }


def _status(label: Label | None) -> tuple[str, str]:
    if label is None:
        return "unlabelled", "not labelled"
    if label.exclude:
        return "excluded", "excluded"
    return ("success" if label.ranges else "none"), _ranges_text(label.ranges)


def _ranges_text(ranges: Ranges) -> str:
    """Ranges for a person: their first and last frame."""
    return ", ".join(f"{first}–{end - 1}" for first, end in ranges) or "no success"


def _facts(episode: SourceEpisode) -> list[tuple[str, str]]:
    told = [("ended by", episode.end), *episode.facts.items()]
    return [
        (name.replace("_", " "), f"{v:.3g}" if isinstance(v, float) and math.isfinite(v) else str(v))
        for name, v in told
    ]
