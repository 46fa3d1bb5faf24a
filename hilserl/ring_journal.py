"""What a ring holds, as a sequence of events: applied as they happen, and replayed from a file of lines.

Each line of a journal is the CRC-32 of a JSON object (8 hex digits), a space, the object, and a line feed:

    open     head, serial               where the next episode goes, and its number in this ring
    taken    keys                       episodes that were once in the ring, each with whether it was helped
    write    serial, first, frames ...  the episode's bytes are in place
    evict    serials                    these episodes are about to be overwritten
    refresh  serial, passes             the shifted copies of this episode are about to be encoded anew
    order    serials                    by the age of their encoding, oldest first
    exclude  keys                       these episodes are never sampled again
    refuse   key, steps                 an episode whose helped steps found no room
    reserve  first, frames              slots that may be overwritten from now on, whatever the lines say
    sync     line                       what the lines before this one speak of has reached the disk
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilserl.types import End, Episode, Role

Line = dict[str, Any]


class ReplayError(Exception):
    """An episode, a size or a file the store cannot take; names the numbers."""


@dataclass(frozen=True, slots=True)
class Key:
    """An episode's identity. An actor's numbers are its own; folders of demonstrations may share them.

    checksum: of a demonstration's states, actions and end; 0 for every other episode.
    """

    role: Role
    actor: str
    number: int
    checksum: int = 0

    @staticmethod
    def of(episode: Episode) -> Key:
        """The key of an episode."""
        checksum = 0
        if episode.role is Role.DEMO:
            for part in (episode.state.tobytes(), episode.action.tobytes(), episode.end.value.encode()):
                checksum = zlib.crc32(part, checksum)
        return Key(episode.role, episode.actor, episode.number, checksum)

    def __str__(self) -> str:
        return f"{self.role.value} episode {self.actor}/{self.number}"

    def plain(self) -> list[Any]:
        """The key as JSON has it."""
        return [self.role.value, self.actor, self.number, self.checksum]

    @staticmethod
    def parse(plain: list[Any]) -> Key:
        """The inverse of `plain`."""
        return Key(Role(plain[0]), plain[1], plain[2], plain[3])


@dataclass(slots=True)
class Entry:
    """One episode in a ring: `frames` slots from slot `first` on.

    serial: grows with every episode written to this ring. wanted: bool (frames - 1,), the steps that may be
    sampled. helped: some steps are interventions. crc: of the small columns' bytes. passes: how often its
    shifted copies were encoded anew.
    """

    serial: int
    first: int
    frames: int
    key: Key
    end: End
    wanted: NDArray[np.bool_]
    helped: bool = False
    crc: int = 0
    passes: int = 0

    def line(self) -> Line:
        """The event of writing this episode."""
        return {
            "op": "write",
            "serial": self.serial,
            "first": self.first,
            "frames": self.frames,
            "key": self.key.plain(),
            "end": self.end.value,
            "wanted": None if self.wanted.all() else np.packbits(self.wanted).tobytes().hex(),
            "helped": self.helped,
            "crc": self.crc,
            "passes": self.passes,
        }

    @staticmethod
    def parse(line: Line) -> Entry:
        """The inverse of `line`."""
        steps = line["frames"] - 1
        wanted = np.ones(steps, np.bool_)
        if line["wanted"] is not None:
            bits = np.frombuffer(bytes.fromhex(line["wanted"]), np.uint8)
            wanted = np.unpackbits(bits, count=steps).astype(np.bool_)
        return Entry(
            line["serial"],
            line["first"],
            line["frames"],
            Key.parse(line["key"]),
            End(line["end"]),
            wanted,
            line["helped"],
            line["crc"],
            line["passes"],
        )


@dataclass(slots=True)
class Contents:
    """What the events so far amount to.

    entries: by serial, oldest first. taken: every episode that is or once was in the ring, and whether it was
    helped. encoded: serials, the oldest encoding first. head: the slot after the newest. serial: the next
    one. unsynced: serials whose bytes may not have reached the disk, and the line that last spoke of them.
    zone: (first slot, slots) last reserved.
    """

    entries: dict[int, Entry] = field(default_factory=dict)
    taken: dict[Key, bool] = field(default_factory=dict)
    encoded: dict[int, None] = field(default_factory=dict)
    excluded: set[Key] = field(default_factory=set)
    refused: dict[Key, int] = field(default_factory=dict)
    head: int = 0
    serial: int = 0
    lines: int = 0
    unsynced: dict[int, int] = field(default_factory=dict)
    zone: tuple[int, int] = (0, 0)

    def apply(self, line: Line, capacity: int) -> None:
        """Take in one event of a ring of `capacity` slots."""
        match line["op"]:
            case "open":
                self.head, self.serial = line["head"], line["serial"]
            case "taken":
                self.taken |= {Key.parse(key): helped for *key, helped in line["keys"]}
            case "write":
                entry = Entry.parse(line)
                self.entries[entry.serial] = entry
                self.taken[entry.key] = entry.helped
                self.encoded[entry.serial] = None
                self.head = (entry.first + entry.frames) % capacity
                self.serial = entry.serial + 1
                self.unsynced[entry.serial] = self.lines
            case "evict":
                for serial in line["serials"]:
                    del self.entries[serial], self.encoded[serial]
                    self.unsynced.pop(serial, None)
            case "refresh":
                self.entries[line["serial"]].passes = line["passes"]
                self.unsynced[line["serial"]] = self.lines
                del self.encoded[line["serial"]]
                self.encoded[line["serial"]] = None
            case "order":
                self.encoded = dict.fromkeys(line["serials"])
            case "exclude":
                self.excluded |= {Key.parse(key) for key in line["keys"]}
            case "refuse":
                self.refused[Key.parse(line["key"])] = line["steps"]
            case "reserve":
                self.zone = (line["first"], line["frames"])
            case "sync":
                self.unsynced = {s: at for s, at in self.unsynced.items() if at >= line["line"]}
            case other:
                raise ReplayError(f"the journal speaks of {other!r}, which this program does not know")
        self.lines += 1

    def drop(self, serial: int, capacity: int) -> None:
        """Forget an episode as if it had never been written, so that it may be added again."""
        entry = self.entries.pop(serial)
        self.taken.pop(entry.key, None)
        del self.encoded[serial]
        self.unsynced.pop(serial, None)
        if (entry.first + entry.frames) % capacity == self.head:
            self.head = entry.first

    def compact(self) -> list[Line]:
        """The shortest sequence of events that amounts to the same, everything being on disk."""
        inside = {entry.key for entry in self.entries.values()}
        gone = [[*key.plain(), helped] for key, helped in self.taken.items() if key not in inside]
        lines: list[Line] = [{"op": "taken", "keys": gone}] if gone else []
        if self.excluded:
            keys = sorted((key.plain() for key in self.excluded), key=str)
            lines.append({"op": "exclude", "keys": keys})
        lines += [{"op": "refuse", "key": k.plain(), "steps": n} for k, n in self.refused.items()]
        lines += [entry.line() for entry in self.entries.values()]
        lines.append({"op": "order", "serials": list(self.encoded)})
        # Last, for `write` moves both.
        lines.append({"op": "open", "head": self.head, "serial": self.serial})
        return [*lines, {"op": "sync", "line": len(lines)}]


def encode_line(line: Line) -> bytes:
    """A journal's line as its bytes."""
    text = json.dumps(line, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def write_lines(path: Path, lines: Iterable[Line]) -> None:
    """Write a whole journal to `path`."""
    path.write_bytes(b"".join(map(encode_line, lines)))


def read_lines(path: Path) -> tuple[list[Line], int]:
    """The lines up to the first damaged one, and the number of bytes from there on (0: undamaged)."""
    data = path.read_bytes()
    lines: list[Line] = []
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        crc, _, text = data[start:end].partition(b" ")
        if crc != b"%08x" % zlib.crc32(text):
            break
        lines.append(json.loads(text))
        start = end + 1
    return lines, len(data) - start
