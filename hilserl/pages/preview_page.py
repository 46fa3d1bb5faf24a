"""`hilserl classifier preview`: what the cameras see, what the network receives, and what it makes of it.

The page never moves an arm. It never writes either, except what a key asks for: `w` the decision into the
model's file, `c` frames into a new folder below outputs/<job>/previews/.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import ExitStack
from html import escape
from pathlib import Path

from nicegui import ui
from nicegui.events import KeyEventArguments

from hilserl.classifier.model import RewardClassifier
from hilserl.classifier.model_files import ClassifierError
from hilserl.classifier.sources import open_source
from hilserl.config import Config, ConfigError, TaskConfig
from hilserl.pages import preview_html
from hilserl.pages.preview_cameras import preview_cameras
from hilserl.pages.preview_decision import DecisionDesk
from hilserl.pages.preview_live import LiveScorer
from hilserl.pages.preview_recorded import RecordedPlayer, position_of
from hilserl.pages.preview_shown import Shown, View
from hilserl.pages.preview_stages import LiveStage, RecordedStage, Stage
from hilserl.pages.server import serve
from hilserl.task_record import task_hash

TITLE = "Reward classifier preview"
STYLE = Path(__file__).with_name("preview.css")
SHORT = 12
"""Characters of a hash that are shown."""
REPEATING = {"ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "[", "]"}
"""Keys that go on while they are held down."""
_NO_SCROLLING = """document.addEventListener('keydown', (e) => {
  if ([' ', 'ArrowUp', 'ArrowDown'].includes(e.key)) e.preventDefault();
});"""
_EMPTY = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="


def run_preview(
    config: Config,
    name: str,
    say: Callable[[str], None],
    *,
    dataset: Path | None = None,
    episode: int | None = None,
    port: int = 0,
    browser: bool = True,
) -> None:
    """Serve the page until it is interrupted.

    name: the model, a folder or a hub id. dataset: show recorded episodes instead of the cameras, from
    number `episode` on. port, browser: see `pages.server.serve`. Raises what keeps the model, the recording
    or the port from being used; cameras may fail and come back.
    """
    if episode is not None and dataset is None:
        raise ConfigError(f"--episode {episode} is an episode of a recording: name it with --dataset")
    if config.run.num_threads:
        import torch

        torch.set_num_threads(config.run.num_threads)
    model = RewardClassifier.load(
        name,
        config.task,
        config.allow_task_difference,
        trunk=config.policy.vision_encoder_name,
        device=config.policy.device,
        allow_untrusted=True,
    )
    folder = Path(name).expanduser()
    desk = DecisionDesk(model.decision, folder if folder.is_dir() else None)
    with ExitStack() as stack:
        stage: Stage
        if dataset is None:
            cameras = stack.enter_context(preview_cameras(config))
            recordings = Path(config.output_dir) / config.job_name / "previews"
            scorer = stack.enter_context(LiveScorer(config.task, model, cameras, desk, recordings))
            stage = LiveStage(scorer, config.task.fps)
        else:
            source = open_source(dataset, config.task, config.allow_task_difference)
            first = position_of(source, episode)
            player = stack.enter_context(RecordedPlayer(config.task, model, source, desk, first))
            stage = RecordedStage(player, config.task.fps)
        shown = "/".join(folder.resolve().parts[-2:]) if folder.is_dir() else name  # outputs/JOB/best_model
        page = _Page(config.task, model, shown, desk, stage)
        serve(page.build, TITLE, say, port=port, browser=browser)


class _CameraView:
    """The elements of one camera."""

    def __init__(self, name: str, task: TaskConfig) -> None:
        crop, size = task.crop_params_dict[name], (task.camera_width, task.camera_height)
        height, width = task.resize_size
        with ui.element("div").classes("pv-camera").props(f'data-camera="{name}"'):
            with ui.element("div").classes("pv-figure"):
                ui.html(f"<b>{name}</b>", sanitize=False)
                with ui.element("div").classes("pv-native"):
                    self._native = ui.element("img").props(f'alt="native frame of {name}"')
                    self._crop = (
                        ui.element("div").classes("pv-crop").style(preview_html.crop_style(crop, size))
                    )
                self._caption = ui.html("", sanitize=False).classes("pv-faint pv-caption")
            with ui.element("div").classes("pv-figure"):
                ui.html("&nbsp;", sanitize=False)
                with ui.element("div").classes("pv-policy"):
                    self._policy = ui.element("img").props(f'alt="policy image of {name}"')
                ui.html(f"what the network receives, {width}x{height}", sanitize=False).classes("pv-faint")

    def show(self, view: View) -> None:
        """Both pictures; of a camera without one the last, greyed."""
        for element, kind, data in (
            (self._native, "jpeg", view.native),
            (self._policy, "png", view.policy),
        ):
            if data:
                element.props["src"] = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
            element.classes(**({"add": "pv-missing"} if not data else {"remove": "pv-missing"}))
            element.props.setdefault("src", _EMPTY)
            element.update()
        self._caption.set_content(preview_html.caption(view))


class _Page:
    """The page of one preview; every tab that opens it shows the same."""

    def __init__(
        self, task: TaskConfig, model: RewardClassifier, name: str, desk: DecisionDesk, stage: Stage
    ) -> None:
        self._task, self._model, self._name, self._desk, self._stage = task, model, name, desk, stage
        self._hash = model.hash[:SHORT]
        self._message = ""

    def build(self) -> None:
        """One tab."""
        ui.add_css(STYLE)
        ui.add_body_html(f"<script>{_NO_SCROLLING}</script>")
        head = ui.html("", sanitize=False).classes("w-full")
        if not self._model.about.trusted:
            warning = f"this model must not give rewards: {self._model.about.trust}"
            ui.html(preview_html.banner("", warning), sanitize=False).classes("w-full")
        banner = ui.html("", sanitize=False).classes("w-full")
        names = sorted(self._task.camera_ids)
        with ui.element("div").classes("pv-main"):
            with ui.element("div").classes("pv-cameras" + (" pv-many" if len(names) > 1 else "")):
                cameras = {name: _CameraView(name, self._task) for name in names}
            with ui.element("div").classes("pv-side"):
                verdict = ui.html("", sanitize=False).style("display:flex;flex-direction:column;gap:10px")
                light = ui.html("", sanitize=False)
                self._buttons()
                message = ui.html("", sanitize=False).classes("pv-message").props("id=pv-message")
        drawing = ui.html("", sanitize=False).classes("w-full")
        self._stage.build()
        ui.keyboard(on_key=self._on_key, ignore=[])
        last: list[object] = [None]

        def refresh() -> None:
            shown = self._stage.shown()
            told = self._message or self._stage.message()
            message.set_content(escape(told))
            if shown is None:
                banner.set_content(preview_html.banner("", "waiting for the first picture ..."))
                return
            if shown.number == last[0]:
                return
            last[0] = shown.number
            for name, view in shown.views.items():
                cameras[name].show(view)
            head.set_content(preview_html.head(TITLE, self._about(shown)))
            banner.set_content(preview_html.banner(shown.trouble, shown.light))
            verdict.set_content(preview_html.verdict(shown, self._desk))
            light.set_content(self._brightness(shown))
            drawing.set_content(self._stage.drawing(shown))

        ui.timer(1.0 / self._task.fps, refresh)

    def _about(self, shown: Shown) -> list[str]:
        model = f'model {escape(self._name)} <span class="pv-mono">{self._hash}</span>'
        task = f'task {self._task.name} <span class="pv-mono">{task_hash(self._task)}</span>'
        return [*self._stage.about(shown), model, task]

    def _brightness(self, shown: Shown) -> str:
        look = self._model.about.look
        return "".join(
            preview_html.brightness_row(name, view, look[name]) for name, view in shown.views.items()
        )

    def _buttons(self) -> None:
        """The keys, for the mouse."""
        told = {
            "↓ threshold": "ArrowDown",
            "↑ threshold": "ArrowUp",
            "[ hold": "[",
            "] hold": "]",
            "w write": "w",
            **self._stage.buttons,
        }
        with ui.element("div").classes("pv-buttons"):
            for text, key in told.items():
                button = ui.button(text, on_click=lambda key=key: self._press(key), color=None)
                # The keyboard stays with the page: a focused button would take the space bar.
                button.props(f'flat no-caps data-key="{key}"').on(
                    "mousedown", js_handler="(e) => e.preventDefault()"
                )

    def _on_key(self, event: KeyEventArguments) -> None:
        modifiers = event.modifiers
        if not event.action.keydown or modifiers.ctrl or modifiers.alt or modifiers.meta:
            return  # Ctrl+W closes a tab and must write nothing
        key = event.key.name
        if not event.action.repeat or key in REPEATING:
            self._press(key)

    def _press(self, key: str) -> None:
        match key:
            case "ArrowUp":
                self._desk.move_threshold(1)
            case "ArrowDown":
                self._desk.move_threshold(-1)
            case "]":
                self._desk.move_hold(1)
            case "[":
                self._desk.move_hold(-1)
            case "w":
                self._message = self._write()
                return
            case _:
                if not self._stage.press(key):
                    return
        self._message = ""

    def _write(self) -> str:
        try:
            return self._desk.write()
        except ClassifierError as error:
            return str(error)
