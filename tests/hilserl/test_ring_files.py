"""The replay's files survive kills, power cuts, damage and full disks: whole episodes, or dropped by name."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hilserl import ring_files
from hilserl.replay import Key, LayoutChanged, Replay, ReplayError, delete_ring
from hilserl.ring import Ring
from hilserl.ring_journal import Contents, encode_line, read_lines
from hilserl.types import End, Episode, Role
from tests.fakes.frames import Maker, make
from tests.hilserl.test_replay import FAST, Kept, check_batch, check_same, steps_of

torch.set_num_threads(1)
CAPACITY, PROTECTED = 40, 30
ROOT = Path(__file__).resolve().parents[2]


def store(folder: Path, **more: object) -> Replay:
    return make(CAPACITY, PROTECTED, folder=folder, encoder_hash="e", **more)


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=FAST) as name:
        yield Path(name)


@contextmanager
def warnings_of_opening() -> Iterator[list[str]]:
    """What the opening of a replay warns of."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("hilserl").addHandler(handler)
    try:
        yield said
    finally:
        logging.getLogger("hilserl").removeHandler(handler)


def dropped(said: list[str]) -> set[tuple[str, int]]:
    """(role, number) of the episodes named as dropped."""
    found = [re.match(r"replay: dropped (\w+) episode a/(\d+) ", line) for line in said]
    return {(match[1], int(match[2])) for match in found if match}


def named(keys: list[Key]) -> set[tuple[str, int]]:
    return {(key.role.value, key.number) for key in keys}


class World:
    """A replay on disk, and every episode it was ever given."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.maker, self.replay = folder, Maker(), store(folder)
        self.episodes: dict[Key, Episode] = {}
        self.known: dict[int, Kept] = {}

    def do(self, what: object) -> None:
        """Add an episode of this length (a demonstration if negative), 'sync', 'refresh' or 'reopen'."""
        if what == "sync":
            self.replay.sync()
        elif what == "refresh":
            self.replay.refresh(lambda key: self.episodes[key].images, 6)
        elif what == "reopen":
            self.replay.close()
            self.replay = store(self.folder)
        else:
            assert isinstance(what, int)
            role = Role.DEMO if what < 0 else Role.TRAIN
            helped = np.arange(abs(what)) % 5 == 1
            episode = self.maker(abs(what), End.SUCCESS, role, helped)
            if role is Role.DEMO and not self.replay.protected.fits(len(episode) + 1):
                return
            self.replay.add(episode)
            self.episodes[Key.of(episode)] = episode
            self.known |= {step.frame: step for step in steps_of(episode, np.ones(len(episode), np.bool_))}

    def rings(self) -> tuple[Ring, Ring]:
        return self.replay.online, self.replay.protected

    def check(self, replay: Replay) -> None:
        """Everything in `replay` is whole: each step, frame and picture is one that was once written."""
        for ring, share in ((replay.online, 0.0), (replay.protected, 1.0)):
            taken = np.zeros(ring.capacity, np.int64)
            for entry in ring.entries:
                slots = ring.slots(entry.first, entry.frames)
                taken[slots] += 1
                episode = self.episodes[entry.key]
                np.testing.assert_array_equal(ring.arrays["state"][slots], episode.state)
                np.testing.assert_array_equal(ring.arrays["action"][slots[:-1]], episode.action)
                np.testing.assert_array_equal(ring.arrays["reward"][slots[:-1]], episode.reward)
                pictures = np.stack([episode.images[name][:, 2, 2] for name in ("left", "right")], 1)
                features = ring.arrays["features"][slots][..., 0, 0]
                np.testing.assert_array_equal(features, np.stack([pictures, pictures], 2))
            assert taken.max() <= 1
            if len(ring.samplable):
                check_batch(replay.sample(8, share), self.known, 1)

    def give_back(self, replay: Replay) -> None:
        """The replay takes what it lacks again, and nothing it has."""
        for key, episode in self.episodes.items():
            held = replay.holds(key)
            if key.role is Role.DEMO and not replay.protected.fits(len(episode) + 1):
                continue
            replay.add(episode)
            assert replay.holds(key)
            if held:
                assert replay.add(episode) == 0
        self.check(replay)


works = st.lists(
    st.integers(1, 12)
    | st.integers(1, 12)
    | st.integers(-6, -1)
    | st.sampled_from(["sync", "refresh", "reopen"]),
    min_size=3,
    max_size=16,
)


def damage(folder: Path, draw: st.DataObject, settled: set[str]) -> str:
    """Truncate one file of a ring, flip one bit of it, or remove it; returns its name."""
    path = draw.draw(
        st.sampled_from(sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size))
    )
    size = path.stat().st_size
    kind = draw.draw(st.sampled_from(["flip", "flip", "truncate", "remove"]))
    place = draw.draw(st.integers(0, max(0, size - 1)))
    if path.name == "journal":  # its end is where it is torn most of the time
        place = draw.draw(st.just(place) | st.integers(max(0, size - 200), size - 1))
    if kind == "remove":
        path.unlink()
    elif kind == "truncate":
        os.truncate(path, place)
    else:
        # Features that rot long after they were written are not looked for.
        assume(path.name != "features.column" or path.parent.name not in settled)
        data = bytearray(path.read_bytes())
        data[place] ^= 1 << draw.draw(st.integers(0, 7))
        path.write_bytes(data)
    return path.name


def stages(folder: Path) -> list[set[tuple[str, int]]]:
    """The sets of episodes a ring held after each line of its journal."""
    contents, found = Contents(), [set[tuple[str, int]]()]
    capacity = CAPACITY if folder.name == "online" else PROTECTED
    for line in read_lines(folder / "journal")[0]:
        contents.apply(line, capacity)
        found.append(named([entry.key for entry in contents.entries.values()]))
    return found


@settings(max_examples=150, deadline=None)
@given(work=works, draw=st.data())
def test_whatever_is_damaged_whole_episodes_are_left_and_the_rest_is_named(
    work: list, draw: st.DataObject
) -> None:
    with scratch() as folder:
        world = World(folder / "live")
        for what in work:
            world.do(what)
        rings = {"online": world.replay.online, "protected": world.replay.protected}
        settled = {name for name, ring in rings.items() if not ring.storage.contents.zone[1]}
        hurt = Path(shutil.copytree(folder / "live", folder / "hurt"))
        name = damage(hurt, draw, settled)
        before = {ring: stages(folder / "live" / ring) for ring in ("online", "protected")}
        with warnings_of_opening() as said:
            while True:
                try:
                    replay = store(hurt)
                    break
                except LayoutChanged as changed:
                    assert name == "layout.json"
                    delete_ring(changed.folder)
        world.check(replay)
        for ring in (replay.online, replay.protected):
            folder_name = "online" if ring is replay.online else "protected"
            left = named([entry.key for entry in ring.entries])
            gone = dropped([line for line in said if f"/hurt/{folder_name}:" in line])
            if name.endswith(".column"):
                assert left | gone == before[folder_name][-1]
                assert not left & gone
            elif name == "journal":
                assert left | gone in before[folder_name]
        copy = store(Path(shutil.copytree(hurt, folder / "copy")))
        check_same(replay, copy)
        copy.close()
        world.give_back(replay)
        replay.close()
        again = store(hurt)
        world.check(again)
        again.close()
        world.replay.close()


class Disk:
    """Stands in for `os` in ring_files, and remembers every write and every wait for the disk."""

    def __init__(self, root: Path) -> None:
        self.root, self.events = root, list[tuple[str, Path, int, bytes]]()
        self._paths: dict[int, Path] = {}

    def module(self) -> types.SimpleNamespace:
        """What ring_files sees as `os`."""
        mine = {"open": self.open, "pwrite": self.pwrite, "write": self.write, "fsync": self.fsync}
        return types.SimpleNamespace(**(vars(os) | mine))

    def open(self, path: Path, *more: int) -> int:
        file = os.open(path, *more)
        self._paths[file] = Path(path).relative_to(self.root)
        return file

    def pwrite(self, file: int, data: memoryview, offset: int) -> int:
        self.events.append(("write", self._paths[file], offset, bytes(data)))
        return os.pwrite(file, data, offset)

    def write(self, file: int, data: memoryview) -> int:
        self.events.append(("write", self._paths[file], os.fstat(file).st_size, bytes(data)))
        return os.write(file, data)

    def fsync(self, file: int) -> None:
        os.fsync(file)
        self.events.append(("sync", self._paths[file], 0, b""))


def after_power_cut(base: Path, events: list, lost: np.random.Generator, chunk: int) -> None:
    """Make the files of `base` what a disk may hold after `events`: any chunk of what was not waited for."""
    waited = {path: i for i, (kind, path, *_) in enumerate(events) if kind == "sync"}
    for i, (kind, path, offset, data) in enumerate(events):
        if kind == "sync":
            continue
        kept = i < waited.get(path, -1)
        with (base / path).open("r+b") as file:
            for start in range(0, len(data), chunk):
                if kept or lost.random() < 0.5:
                    file.seek(offset + start)
                    file.write(data[start : start + chunk])


@settings(max_examples=100, deadline=None)
@given(
    work=st.lists(
        st.integers(1, 9) | st.integers(-5, -1) | st.sampled_from(["sync", "refresh"]),
        min_size=4,
        max_size=20,
    ),
    cut=st.floats(0, 1),
    seed=st.integers(0, 2**32),
    chunk=st.sampled_from([8, 64, 512]),
)
def test_a_power_cut_takes_nothing_that_was_synced_and_tears_nothing(
    work: list, cut: float, seed: int, chunk: int
) -> None:
    with scratch() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ring_files, "_RESERVE", 12)
        disk = Disk(folder / "live")
        patch.setattr(ring_files, "os", disk.module())
        world = World(folder / "live")
        base = Path(shutil.copytree(folder / "live", folder / "cut"))
        disk.events.clear()
        promised = [(0, set[Key](), set[Key]())]  # events so far, what must be found online, protected
        for what in work:
            world.do(what)
            now = []
            for ring, before in zip(world.rings(), promised[-1][1:], strict=True):
                contents = ring.storage.contents
                stored = {entry.key for entry in ring.entries}
                moving = {contents.entries[serial].key for serial in contents.unsynced}
                now.append(stored if what == "sync" else before & stored - moving)
            promised.append((len(disk.events), now[0], now[1]))
        happened = round(cut * len(disk.events))
        after_power_cut(base, disk.events[:happened], np.random.default_rng(seed), chunk)
        world.replay.close()
        patch.setattr(ring_files, "os", os)
        before_cut = max(i for i, (events, *_) in enumerate(promised) if events <= happened)
        after_cut = min(before_cut + 1, len(promised) - 1)
        replay = store(base)
        world.check(replay)
        for ring, before, after in zip(
            (replay.online, replay.protected), promised[before_cut][1:], promised[after_cut][1:], strict=True
        ):
            assert before & after <= {entry.key for entry in ring.entries}
        world.give_back(replay)
        replay.close()


@pytest.mark.parametrize("lucky", ["features", "crc", "serial", "state", "action", "reward", "journal"])
def test_a_power_cut_after_which_one_file_alone_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lucky: str
) -> None:
    """The disk may write any file first: old episodes are then partly overwritten, and nothing says so."""
    monkeypatch.setattr(ring_files, "_RESERVE", 12)
    disk = Disk(tmp_path / "live")
    monkeypatch.setattr(ring_files, "os", disk.module())
    world = World(tmp_path / "live")
    for what in (6, 6, 6, 6, 6, "sync"):
        world.do(what)
    base = Path(shutil.copytree(tmp_path / "live", tmp_path / "cut"))
    disk.events.clear()
    for _ in range(3):
        world.do(6)
        world.do("refresh")
    world.replay.close()
    closing = next(i for i, (kind, path, *_) in enumerate(disk.events) if kind == "sync" and path.suffix)
    waited = {path: i for i, (kind, path, *_) in enumerate(disk.events[:closing]) if kind == "sync"}
    for i, (kind, path, offset, data) in enumerate(disk.events[:closing]):
        if kind == "write" and (path.stem == lucky or i < waited.get(path, -1)):
            with (base / path).open("r+b") as file:
                file.seek(offset)
                file.write(data)
    monkeypatch.setattr(ring_files, "os", os)
    replay = store(base)
    world.check(replay)
    world.give_back(replay)
    replay.close()


def test_episodes_with_the_same_numbers_and_other_pictures_are_told_apart(tmp_path: Path) -> None:
    replay, maker = store(tmp_path / "live"), Maker()
    first = maker(9)
    numbered = [replace(first, images=maker(9).images, number=number) for number in range(7)]
    lengths = []
    for episode in numbered:
        replay.add(episode)
        lengths.append((tmp_path / "live" / "online" / "journal").stat().st_size)
    for kept, length in enumerate(lengths, 1):
        hurt = Path(shutil.copytree(tmp_path / "live", tmp_path / str(kept)))
        os.truncate(hurt / "online" / "journal", length)
        again = store(hurt)
        for entry in again.online.entries:
            slots = again.online.slots(entry.first, entry.frames)
            colours = again.online.arrays["features"][slots, 0, 0, :, 0, 0]
            np.testing.assert_array_equal(colours, numbered[entry.key.number].images["left"][:, 2, 2])
        # It knows of the last four by then; of these, the ring's later turns have overwritten some.
        expected = [number for number in range(max(0, kept - 4), kept) if number + 4 >= len(numbered)]
        assert [entry.key.number for entry in again.online.entries] == expected
        again.close()
    replay.close()


def test_bytes_that_a_shortened_journal_forgot_are_not_taken_for_what_comes_next(tmp_path: Path) -> None:
    maker, replay = Maker(), store(tmp_path / "live")
    first = maker(9)
    replay.add(first)
    length = (tmp_path / "live" / "online" / "journal").stat().st_size
    replay.add(replace(first, images=maker(9).images, number=2))
    hurt = Path(shutil.copytree(tmp_path / "live", tmp_path / "hurt"))
    os.truncate(hurt / "online" / "journal", length)
    again = store(hurt)
    cut = Path(shutil.copytree(hurt, tmp_path / "cut"))
    again.add(replace(first, images=maker(9).images, number=3))  # where the forgotten one still lies
    shutil.copy(hurt / "online" / "journal", cut / "online" / "journal")  # all that reaches the disk
    with warnings_of_opening() as said:
        last = store(cut)
    assert dropped(said) == {("train", 3)}
    for closing in (replay, again, last):
        closing.close()


def noisy(episode: Episode, seed: int) -> Episode:
    """Pictures that look otherwise wherever they are shifted to."""
    rng = np.random.default_rng(seed)
    images = {
        name: rng.integers(0, 256, pictures.shape, dtype=np.uint8)
        for name, pictures in episode.images.items()
    }
    return replace(episode, images=images)


def test_a_refresh_survives_a_kill_and_a_torn_one_is_dropped_by_name(tmp_path: Path) -> None:
    maker, replay = Maker(), store(tmp_path / "live", copies=4)
    episodes = [noisy(maker(9), seed) for seed in range(3)]
    pictures = {Key.of(episode): episode.images for episode in episodes}
    for episode in episodes:
        replay.add(episode)
    replay.sync()
    before = shutil.copytree(tmp_path / "live", tmp_path / "before")
    features = replay.online.arrays["features"].copy()
    for round_ in range(5):
        for _ in range(2):
            assert replay.refresh(pictures.__getitem__, 24) > 0
        replay.sync() if round_ == 2 else None
        killed = shutil.copytree(tmp_path / "live", tmp_path / f"killed{round_}")
        with warnings_of_opening() as said:
            again = store(killed, copies=4)
        assert not said
        check_same(replay, again)
        again.close()
    assert (replay.online.arrays["features"] != features).any()
    torn = Path(shutil.copytree(before, tmp_path / "torn"))
    # The lines are on the disk, as they must be by then; of the columns, the features alone.
    for name in ("journal", "features.column"):
        shutil.copy(tmp_path / "live" / "online" / name, torn / "online" / name)
    (torn / "online" / "journal").write_bytes(
        b"".join(
            line
            for line in (torn / "online" / "journal").read_bytes().splitlines(True)
            if b"sync" not in line
        )
    )
    with warnings_of_opening() as said:
        again = store(torn, copies=4)
    assert {number for _, number in dropped(said)} == {1, 2, 3}
    again.close()
    replay.close()


@pytest.mark.parametrize("moment", ["while waiting for the disk", "afterwards"])
def test_a_sync_vouches_only_for_what_came_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    monkeypatch.setattr(ring_files, "_RESERVE", 12)
    maker, replay = Maker(), store(tmp_path / "live", copies=4)
    episodes = [noisy(maker(9), seed) for seed in range(3)]
    pictures = {Key.of(episode): episode.images for episode in episodes}
    for episode in episodes:
        replay.add(episode)
    assert replay.refresh(pictures.__getitem__, 24) == 4  # the oldest's: nobody is about to overwrite it
    before: list[Path] = []

    def refresh_once() -> None:
        if not before:
            before.append(Path(shutil.copytree(tmp_path / "live", tmp_path / "before")))
            replay.refresh(pictures.__getitem__, 24)

    def fsync(file: int) -> None:
        os.fsync(file)
        if moment == "while waiting for the disk":
            refresh_once()

    monkeypatch.setattr(ring_files, "os", types.SimpleNamespace(**(vars(os) | {"fsync": fsync})))
    replay.sync()
    monkeypatch.setattr(ring_files, "os", os)
    if moment == "afterwards":
        refresh_once()
    for name in ("journal", "features.column"):  # of the columns, the features alone have reached the disk
        shutil.copy(tmp_path / "live" / "online" / name, before[0] / "online" / name)
    with warnings_of_opening() as said:
        again = store(before[0], copies=4)
    assert dropped(said) == {("train", 1)}
    again.close()
    replay.close()


def test_a_hole_in_the_protected_ring_is_filled_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    for _ in range(5):
        world.do(-5)
    world.replay.close()
    path = tmp_path / "protected" / "state.column"
    data = bytearray(path.read_bytes())
    data[14 * 8] ^= 1  # in the third of them
    path.write_bytes(data)
    world.replay = store(tmp_path)
    assert [entry.first for entry in world.replay.protected.entries] == [0, 6, 18, 24]
    assert [world.replay.holds(key) for key in world.episodes] == [True, True, False, True, True]
    world.give_back(world.replay)
    assert sorted(entry.first for entry in world.replay.protected.entries) == [0, 6, 12, 18, 24]
    world.replay.close()


def test_what_is_dropped_and_added_again_is_where_it_was(tmp_path: Path) -> None:
    world = World(tmp_path / "live")
    for steps in (9, -5, 6, 8, 9, -3, 6):  # the last one takes the place of the first
        world.do(steps)
    world.replay.close()
    hurt = Path(shutil.copytree(tmp_path / "live", tmp_path / "hurt"))
    for ring in ("online", "protected"):
        (hurt / ring / "features.column").unlink()
    replay = store(hurt)
    assert replay.transitions == 0
    world.give_back(replay)
    for ring, again in zip(world.rings(), (replay.online, replay.protected), strict=True):
        np.testing.assert_array_equal(ring.samplable, again.samplable)
        assert [(e.key, e.first) for e in ring.entries] == [(e.key, e.first) for e in again.entries]
    replay.close()


def test_another_layout_is_refused_with_what_differs(tmp_path: Path) -> None:
    store(tmp_path).close()
    for change, said in (
        ({"encoder_hash": "f"}, "encoder was 'e', is now 'f'"),
        ({"copies": 3}, "copies was 2, is now 3"),
        ({"pad": 2}, "pad was 4, is now 2"),
        ({"n_obs": 2}, "frames_shifted_alike was False, is now True"),
        ({"cache_features": False}, "columns was"),
        ({"capacity": 41}, "capacity was 40, is now 41"),
    ):
        settings_ = {"capacity": CAPACITY, "protected": PROTECTED, "folder": tmp_path, "encoder_hash": "e"}
        with pytest.raises(LayoutChanged, match=said) as caught:
            make(**(settings_ | change))
        assert caught.value.folder == tmp_path / "online"
    store(tmp_path, n_step=3, discount=0.9, seed=7).close()  # these change no byte
    with pytest.raises(ValueError, match="needs encoder_hash"):
        make(folder=tmp_path)


def test_an_answer_to_another_layout_is_to_delete_and_refill(tmp_path: Path) -> None:
    world = World(tmp_path)
    for steps in (3, -4, 7):
        world.do(steps)
    world.replay.close()
    for _ in range(2):
        with pytest.raises(LayoutChanged) as caught:
            make(CAPACITY, PROTECTED, folder=tmp_path, encoder_hash="f")
        delete_ring(caught.value.folder)
    replay = make(CAPACITY, PROTECTED, folder=tmp_path, encoder_hash="f")
    assert replay.transitions == 0
    world.give_back(replay)
    assert len(replay.online.entries) == 2
    replay.close()


@pytest.mark.parametrize("lost", ["online", "protected"])
def test_what_was_lost_of_one_ring_is_added_to_that_ring_only(tmp_path: Path, lost: str) -> None:
    world = World(tmp_path)
    world.do(7)  # helped: it is in both
    world.replay.close()
    delete_ring(tmp_path / lost)
    world.replay = store(tmp_path)
    (key,) = world.episodes
    assert not world.replay.holds(key)
    world.give_back(world.replay)
    assert [len(ring.entries) for ring in world.rings()] == [1, 1]
    world.replay.close()


def test_refused_help_is_counted_once_whatever_is_reopened(tmp_path: Path) -> None:
    world = World(tmp_path)
    for steps in (-6, -6, -6, -6, 7, 7):  # 28 of 30 frames are taken
        world.do(steps)
    assert world.replay.protected.refused_steps == 4
    world.do("reopen")
    world.give_back(world.replay)
    assert world.replay.metrics()["replay/protected_refused_steps"] == 4
    world.replay.close()


def test_two_demonstrations_of_the_same_name_are_two(tmp_path: Path) -> None:
    replay = store(tmp_path)
    one, other = Maker()(4, role=Role.DEMO), Maker(frames=100)(4, role=Role.DEMO)
    assert (one.actor, one.number) == (other.actor, other.number)
    assert [replay.add(one), replay.add(other), replay.add(one)] == [4, 4, 0]
    replay.close()
    replay = store(tmp_path)
    assert [replay.add(one), replay.add(other)] == [0, 0]
    replay.close()


def test_a_rolled_back_episode_stays_out_even_when_the_ring_is_made_anew(tmp_path: Path) -> None:
    world = World(tmp_path)
    for steps in (3, 7, 4):
        world.do(steps)
    gone = Key(Role.TRAIN, "a", 2)
    world.replay.exclude([gone, Key(Role.TRAIN, "a", 9)])
    world.do("reopen")
    late = world.maker
    late.count = 8
    world.do(5)  # becomes a/9, which was excluded before it came
    states = {float(f) for batch in [world.replay.sample(200, 0.5)] for f in batch.state[:, 0, 1]}
    frames = {round(float(a) * 1e4) for a in world.replay.sample(300, 0.5).action[:, 0]}
    assert states and frames == set(range(3)) | set(range(12, 16))
    world.replay.close()


def test_syncing_from_another_thread_while_writing(tmp_path: Path) -> None:
    world, over, failed = World(tmp_path), threading.Event(), list[BaseException]()

    def sync() -> None:
        try:
            while not over.is_set():
                world.replay.sync()
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    thread = threading.Thread(target=sync)
    thread.start()
    for i in range(120):
        world.do("refresh" if i % 3 else 5)
    over.set()
    thread.join()
    assert not failed
    copy = Path(shutil.copytree(tmp_path, tmp_path.parent / "copy"))
    with warnings_of_opening() as said:
        again = store(copy)
    assert not said
    world.check(again)
    assert [e.key for e in again.online.entries] == [e.key for e in world.replay.online.entries]
    again.close()
    world.replay.close()


FULL_DISK = """
import resource, sys
from pathlib import Path
from hilserl.replay import ReplayError
from tests.fakes.frames import Maker, make
endless = resource.RLIM_INFINITY
for limit in (1000, 1001, 2000, 2345):
    maker, replay = Maker(), make(2000, 2000, folder=Path(sys.argv[1]) / str(limit), encoder_hash="e")
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, endless))
    try:
        for count in range(100):
            replay.add(maker(5))
    except ReplayError as error:
        assert "cannot be written" in str(error)
        assert len(replay.online.entries) == count > 0
        batch = replay.sample(64, 0.0)
        assert set((batch.state[:, 0, 0] // 6).int().tolist()) <= set(range(count))
    resource.setrlimit(resource.RLIMIT_FSIZE, (endless, endless))
    replay.add(maker(5))  # there is room again
    print(limit, count)
"""


def test_a_full_disk_is_an_error_with_a_name_and_costs_nothing_that_was_there(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    for line in ran.stdout.splitlines():
        limit, count = line.split()
        with warnings_of_opening() as said:
            replay = make(2000, 2000, folder=tmp_path / limit, encoder_hash="e")
        assert not said
        assert [entry.key.number for entry in replay.online.entries] == [
            *range(1, int(count) + 1),
            int(count) + 2,
        ]
        replay.close()
    assert len(ran.stdout.splitlines()) == 4


def test_columns_cannot_be_written_by_mistake(tmp_path: Path) -> None:
    replay = store(tmp_path)
    with pytest.raises(ValueError, match="read-only"):
        replay.online.arrays["state"][0] = 0
    replay.close()
    with pytest.raises(ReplayError, match="cannot be written"):
        replay.add(Maker()(3))


def test_a_journal_of_the_future_is_not_guessed_at(tmp_path: Path) -> None:
    store(tmp_path).close()
    with (tmp_path / "online" / "journal").open("ab") as file:
        file.write(encode_line({"op": "compress"}))
    with pytest.raises(ReplayError, match="'compress', which this program does not know"):
        store(tmp_path)
    assert json.loads((tmp_path / "online" / "layout.json").read_text())["format"] == 1
