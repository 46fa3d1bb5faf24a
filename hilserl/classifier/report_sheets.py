"""Contact sheets: the frames a classifier is most wrong about, as the network sees them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from html import escape

import cv2
import numpy as np

from hilserl.classifier.metrics_curves import Suspect
from robot.types import U8

Pictures = Callable[[str, str, Sequence[int]], U8]
"""(source, episode, frames) -> what the network sees at those frames, uint8 (K, H, W, 3)."""


class PictureError(ValueError):
    """Pictures that cannot be shown: says of which episode, and what was wrong."""


def data_uri(picture: U8) -> str:
    """An RGB picture uint8 (H, W, 3) as a lossless PNG in a data URI."""
    done, png = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not done:
        raise PictureError(f"a picture {picture.dtype} {picture.shape} cannot be written as PNG")
    return "data:image/png;base64," + base64.b64encode(png.tobytes()).decode()


def fetch(found: Sequence[Suspect], pictures: Pictures) -> dict[Suspect, U8]:
    """The pictures of `found`, asking once per episode."""
    wanted: dict[tuple[str, str], list[Suspect]] = {}
    for one in found:
        wanted.setdefault((one.source, one.episode), []).append(one)
    shown: dict[Suspect, U8] = {}
    for (source, episode), group in wanted.items():
        frames = [one.frame for one in group]
        got = pictures(source, episode, frames)
        if got.dtype != np.uint8 or got.ndim != 4 or got.shape[0] != len(frames) or got.shape[3] != 3:
            raise PictureError(
                f"pictures of frames {frames} of episode {episode} of {source} must be uint8 "
                f"({len(frames)}, H, W, 3), got {got.dtype} {got.shape}"
            )
        shown |= dict(zip(group, got, strict=True))
    return shown


def sheet(
    identity: str,
    found: Sequence[Suspect],
    shown: Mapping[Suspect, U8],
    threshold: float,
    names: Mapping[str, str],
    told: Mapping[tuple[str, str], str],
) -> str:
    """Tiles with probability, episode and frame; those on the wrong side of the threshold are marked.

    names: of the sources, shown where there are several. told: {(source, episode): a word about it}.
    """
    tiles = []
    for one in found:
        wrong = (one.probability >= threshold) != one.success
        more = [told.get((one.source, one.episode), ""), names[one.source] if len(names) > 1 else ""]
        notes = "".join(f"<small>{escape(note)}</small>" for note in more if note)
        text = f"episode {escape(one.episode)}, frame {one.frame}"
        tiles.append(
            f'<figure class="tile{" bad" if wrong else ""}"><img src="{data_uri(shown[one])}" alt="{text}">'
            f"<figcaption><b>{one.probability:.3f}</b><br>{text}{notes}</figcaption></figure>"
        )
    return f'<div class="sheet" id="{identity}">{"".join(tiles)}</div>'
