"""Frames of the preview on disk, as the camera gave them, each beside what the classifier said of it.

outputs/<job>/previews/<time>/
  about.json               model hash, task record and its hash, cameras
  <camera>/000000.png      native frames, bit by bit
  frames.jsonl             a line per frame: frame, time_s, probability, called, and the decision in force
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import IO, Self

from hilserl.classifier.decision import Decision
from hilserl.config import TaskConfig
from hilserl.pages.preview_shown import png
from hilserl.task_record import task_hash, task_json
from robot.types import Frame

ABOUT, LINES = "about.json", "frames.jsonl"


class FrameRecorder:
    """One recording. A frame's line is written after its pictures: what has a line is whole."""

    def __init__(self, folder: Path, lines: IO[str]) -> None:
        """Use `create`."""
        self.folder, self._lines = folder, lines
        self.count = 0
        self._began_s: float | None = None

    @classmethod
    def create(cls, below: Path, now: datetime, task: TaskConfig, model_hash: str) -> Self:
        """In a folder of its own below `below`; an earlier recording is never touched. Raises OSError."""
        stamp = now.strftime("%Y%m%d-%H%M%S")
        below.mkdir(parents=True, exist_ok=True)
        folder = _new_folder(below, stamp)
        about = {
            "model_hash": model_hash,
            "task_hash": task_hash(task),
            "task": json.loads(task_json(task)),
            "recorded": now.isoformat(),
        }
        (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        return cls(folder, (folder / LINES).open("x", encoding="utf-8"))

    def add(
        self,
        frames: Mapping[str, Frame],
        time_s: float,
        probability: float | None,
        called: bool,
        decision: Decision,
    ) -> None:
        """Store one moment: {camera: its frame}. Raises OSError."""
        if self._began_s is None:
            self._began_s = time_s
        for name, frame in frames.items():
            path = self.folder / name / f"{self.count:06d}.png"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(png(frame.rgb))
        line = {
            "frame": self.count,
            "time_s": round(time_s - self._began_s, 4),
            "probability": probability,
            "called": called,
            "decision": asdict(decision),
        }
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()
        self.count += 1

    def close(self) -> str:
        """End it; what became of it, in words."""
        self._lines.close()
        return f"recorded {self.count} frames in {self.folder}"


def _new_folder(below: Path, stamp: str) -> Path:
    number = 1
    while True:
        folder = below / (stamp if number == 1 else f"{stamp}_{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder
