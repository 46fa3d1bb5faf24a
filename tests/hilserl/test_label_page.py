"""The page of `hilserl label` in a real browser: the picture on show is the frame that is labelled.

The pictures of the recording show their own frame number, in bits, as rows of black and white.
"""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from hilserl.classifier.decision import Decision
from hilserl.classifier.model import About, RewardClassifier
from hilserl.classifier.network import Sizes, SuccessNetwork
from hilserl.classifier.sources import open_source
from hilserl.config import CropConfig
from hilserl.encoder import FeatureEncoder
from hilserl.episode import save_episode
from hilserl.labels import Label, change_labels, labels_file, read_labels
from hilserl.labels_review import disagreements
from hilserl.pages.frames import KEPT, FramesError, FrameStore, pictures_of
from hilserl.recording_files import Recording
from hilserl.task_record import task_json
from hilserl.types import End
from hilserl.vision import load_trunk
from tests.fakes.browser import browser, page, page_errors, wait_for  # noqa: F401
from tests.fakes.episodes import short_episode
from tests.fakes.takes import TINY, random_take, record

BITS = 8
CAMERA = "gripper_cam"
TASK = replace(
    TINY,
    camera_width=96,
    camera_height=64,
    crop_params_dict={CAMERA: CropConfig(0, 16, 64, 64)},
    resize_size=(64, 64),
)
LENGTHS = (24, 30, 17, 40, 21, 26, 19, 22)
"""Steps of the episodes; each has a frame more."""
TRUNK = "hilserl/assets/twin_trunk_w16"


def code(episode: int, frame: int) -> np.ndarray:
    """A picture that shows, row by row, the bits of its frame number."""
    bits = [(frame + 40 * episode) % 256 >> bit & 1 for bit in range(BITS)]
    rows = np.repeat(np.array(bits, np.uint8) * 200 + 25, TASK.camera_height // BITS)
    return np.repeat(np.repeat(rows[:, None], TASK.camera_width, 1)[..., None], 3, 2)


def decoded(column, episode: int) -> int:
    """The frame that a picture's column of brightness (height,) shows."""
    middles = (np.arange(BITS) + 0.5) * len(column) / BITS
    value = sum(int(column[int(k)] > 128) << bit for bit, k in enumerate(middles))
    return (value - 40 * episode) % 256


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets") / "coded"
    with Recording.create(root, TASK) as made:
        for index, steps in enumerate(LENGTHS):
            take = random_take(TASK, index, steps, End.FAILURE if index % 2 else End.SUCCESS)
            frames = {CAMERA: [code(index, frame) for frame in range(steps + 1)]}
            take = replace(take, frames=frames, achieved=None)
            made.append(take, record(take, TASK, role="reward"))
    return root


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """Nobody trained it: what it gives is arbitrary, and the same every time."""
    torch.manual_seed(0)
    trunk = load_trunk(TRUNK)
    encoder = FeatureEncoder(trunk, trunk.channels)
    sizes = Sizes(2, 8, 0.0)
    network = SuccessNetwork([CAMERA], encoder.feature_shape((64, 64, 3)), sizes)
    with torch.no_grad():
        network.out.weight.mul_(30)  # sure of itself, now here, now there
    decision = Decision(0.5, 1, 1)
    about = About(
        task_json(TASK), TRUNK, sizes, decision, {CAMERA: (0.0, 255.0)}, False, "never trained", {}, {}
    )
    folder = tmp_path_factory.mktemp("model") / "best_model"
    made = RewardClassifier(network, encoder, about)
    made.save(folder)
    return folder, made


@pytest.fixture(scope="module")
def address(recording, classifier):
    with page("label", str(recording), "--no-browser", "--model", str(classifier[0])) as address:
        yield address


class Tab:
    """A tab that shows an episode. Keys are sent as a person does; nothing else is touched."""

    def __init__(self, driver, address: str, recording, episode: int) -> None:
        from selenium.webdriver.common.keys import Keys

        self.driver, self.keys, self.recording = driver, Keys, recording
        driver.get(f"{address}?episode={episode}")
        self.arrive(str(episode))

    @property
    def player(self):
        return self.driver.find_element("css selector", ".player")

    def state(self, name: str) -> str:
        return self.player.get_attribute(f"data-{name}")

    def arrive(self, episode: str) -> None:
        wait_for(lambda: self.state("episode") == episode)
        self.settled()

    def settled(self) -> int:
        """The cursor's frame, once its picture is there and every key was answered."""
        wait_for(
            lambda: (
                self.state("cursor") == self.state("shown") and self.state("sent") == self.state("answered")
            )
        )
        return int(self.state("cursor"))

    def type(self, *keys: str) -> int:
        self.driver.find_element("css selector", "body").send_keys(*keys)
        return self.settled()

    def go(self, frame: int) -> None:
        self.type(self.keys.HOME, *[self.keys.ARROW_RIGHT] * frame)

    def picture(self) -> int:
        """The frame the picture on show says it is."""
        column = self.driver.execute_script(
            "const c = document.querySelector('.pictures canvas');"
            "return Array.from(c.getContext('2d').getImageData(c.width / 2, 0, 1, c.height).data)"
        )
        return decoded(np.array(column).reshape(-1, 4)[:, 0], int(self.state("episode")))

    def label(self) -> Label | None:
        return read_labels(self.recording).get(self.state("episode"))

    def warned(self) -> str:
        return wait_for(lambda: self.driver.find_elements("css selector", ".q-notification")[-1].text)


@pytest.fixture
def tab(browser, address, recording):  # noqa: F811
    def open_at(episode: int) -> Tab:
        return Tab(browser, address, recording, episode)

    yield open_at
    assert page_errors(browser) == []


def test_the_frame_that_is_labelled_is_the_picture_that_was_shown_and_the_one_trained_on(tab):
    here = tab(0)
    last = LENGTHS[0]
    places = {}
    for keys, frame in [
        ([here.keys.HOME], 0),
        ([here.keys.ARROW_RIGHT], 1),
        ([here.keys.SHIFT, here.keys.ARROW_RIGHT, here.keys.NULL], 11),
        ([here.keys.ARROW_LEFT] * 2, 9),
        ([here.keys.END], last),
        ([here.keys.ARROW_RIGHT], last),
        ([here.keys.SHIFT, here.keys.ARROW_LEFT, here.keys.NULL], last - 10),
        ([here.keys.HOME, here.keys.ARROW_LEFT], 0),
    ]:
        assert here.type(*keys) == frame
        places[frame] = here.picture()
    assert places == {frame: frame for frame in places}

    here.go(5)
    here.type("s")
    assert here.label() is None, "half an interval labels nothing"
    here.type(*[here.keys.ARROW_RIGHT] * 4)
    assert here.picture() == 9
    here.type("e")
    assert here.label() == Label(last + 1, ((5, 10),), "operator")
    here.go(15)
    here.type("f")
    label = here.label()
    assert label == Label(last + 1, ((5, 10), (15, last + 1)), "operator")

    # what a classifier is trained on: these labels beside these policy images
    source = open_source(here.recording, TASK)
    pictures = source.pictures(source.episodes[0])[CAMERA]
    shown = {
        decoded(image[:, 32, 0], 0)
        for image, success in zip(pictures, label.success(), strict=True)
        if success
    }
    assert shown == {*range(5, 10), *range(15, last + 1)}


def test_scrubbing_by_the_strip_shows_the_frame_under_the_pointer(tab):
    from selenium.webdriver import ActionChains

    here = tab(1)
    strip = here.driver.find_element("css selector", ".strip")
    frames, width = LENGTHS[1] + 1, strip.size["width"]
    for frame in (3, 17, 30):
        offset = round((frame + 0.5) / frames * width - width / 2)
        ActionChains(here.driver).move_to_element_with_offset(strip, offset, 0).click().perform()
        assert here.settled() == frame == here.picture()
    here.type(here.keys.HOME)
    here.type(" ")
    wait_for(lambda: int(here.state("cursor")) > 2)
    here.type(" ")
    assert here.settled() == here.picture() > 2


def test_undo_redo_remove_and_no_success(tab):
    here = tab(2)
    frames = LENGTHS[2] + 1
    here.go(4)
    here.type("f")
    here.go(8)
    here.type("s")
    assert here.label().ranges == ((8, frames),), "the start of the interval moves"
    here.type(here.keys.BACKSPACE)
    assert here.label() is None
    here.type("x")
    assert here.label() == Label(frames, (), "operator")
    for keys, ranges in [
        ("u", None),
        ("u", ((8, frames),)),
        ((here.keys.CONTROL, "z", here.keys.NULL), ((4, frames),)),
        ("u", None),
        ("U", ((4, frames),)),
        ("U", ((8, frames),)),
        ("U", None),
        ("U", ()),
    ]:
        here.type(*keys)
        label = here.label()
        assert (label and label.ranges) == ranges
    here.go(2)
    here.type(here.keys.DELETE)
    assert "frame 2 lies in no success interval" in here.warned()
    here.type("s")
    here.type("n")
    assert "press e at its last frame, or Esc" in here.warned() and here.state("episode") == "2"
    here.type(here.keys.ESCAPE)
    here.type("N")
    here.arrive("3")
    here.type("p")
    here.arrive("2")


def test_next_unlabelled_accepting_a_proposal_and_excluding(tab):
    here = tab(4)
    here.type(here.keys.ENTER)
    assert here.label() == Label(LENGTHS[4] + 1, ((LENGTHS[4], LENGTHS[4] + 1),), "operator")
    change_labels(here.recording, {"5": Label(LENGTHS[5] + 1, (), "import")})
    here.type("q")
    assert here.label() == Label(LENGTHS[4] + 1, ((LENGTHS[4], LENGTHS[4] + 1),), "operator", exclude=True)
    here.type("n")
    here.arrive("6")
    assert here.settled() == LENGTHS[6], "it opens where the proposed success is"
    here.type("q")
    assert here.label() == Label(LENGTHS[6] + 1, (), "operator", exclude=True)
    here.type("q")
    assert here.label() is None
    count = here.driver.find_element("css selector", "[data-what=count]")
    done = len(read_labels(here.recording))
    wait_for(lambda: count.text == f"labelled {done} of {len(LENGTHS)}, 1 excluded")


def test_a_reload_and_a_second_tab_show_what_was_said(tab, address, recording):
    here = tab(7)
    here.go(6)
    here.type("f")
    here.driver.refresh()
    here.arrive("7")
    assert here.settled() == 6, "it opens where success begins"
    first = here.driver.current_window_handle
    here.driver.switch_to.new_window("tab")
    try:
        other = Tab(here.driver, address, recording, 7)
        other.go(12)
        other.type("s")
        assert other.label().ranges == ((12, LENGTHS[7] + 1),)
        here.driver.switch_to.window(first)
        word = here.driver.find_element("css selector", ".player .label")
        wait_for(lambda: word.text == f"12–{LENGTHS[7]}")  # noqa: RUF001
        here.go(15)
        here.type("e")
        assert here.label().ranges == ((12, 16),)
        here.type("u")
        here.type("u")
        assert here.label().ranges == ((6, LENGTHS[7] + 1),), "one history for both"
    finally:
        for handle in here.driver.window_handles:
            if handle != first:
                here.driver.switch_to.window(handle)
                here.driver.close()
        here.driver.switch_to.window(first)


def test_the_review_list_leads_to_the_frames_the_classifier_doubts(tab, classifier):
    source = open_source(tab(3).recording, TASK)
    probabilities = {e.name: classifier[1].probabilities(source.pictures(e)) for e in source.episodes}
    here = tab(3)
    here.go(20)
    here.type("f")
    expected = disagreements(read_labels(here.recording), probabilities)
    assert len(expected) >= 2, "choose another seed"
    review = here.driver.find_element("xpath", "//button[contains(text(), 'Review')]")
    wait_for(lambda: review.text == f"Review {len(expected)}")
    for one in expected[:3]:
        here.type("r")
        here.arrive(one.episode)
        assert here.settled() == one.worst == here.picture()
    here.type("R")
    here.arrive(expected[min(3, len(expected)) - 2].episode)
    drawn = here.driver.find_element("css selector", ".strip polyline").get_attribute("points").split()
    values = [1 - float(point.split(",")[1]) for point in drawn]
    assert np.allclose(values, probabilities[here.state("episode")], atol=1e-4)


def test_pictures_come_from_this_computer_only_and_errors_name_the_frame(address):
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    assert urlopen(f"{address}frames/0/{CAMERA}/0").read()[:2] == b"\xff\xd8"
    for request, status, said in [
        (f"{address}frames/0/{CAMERA}/99", 500, "frame 99 of gripper_cam is not in episode 0"),
        (f"{address}frames/no/{CAMERA}/0", 404, "no episode no"),
        (Request(f"{address}frames/0/{CAMERA}/0", headers={"Host": "elsewhere.example"}), 400, "host"),
    ]:
        with pytest.raises(HTTPError) as error:
            urlopen(request)
        assert error.value.code == status and said in error.value.read().decode()


def test_the_pictures_of_episode_archives_are_kept_and_decoded_anew_when_they_were_given_up(tmp_path):
    rng = np.random.default_rng(0)
    images, names = {}, [f"a_{number:08d}_00004_success" for number in range(1, KEPT + 3)]
    for number, name in enumerate(names, 1):
        levels = rng.integers(0, 256, (2, 5, 1, 1, 3))
        images[name] = {c: np.tile(levels[i], (1, 16, 16, 1)).astype(np.uint8) for i, c in enumerate("xy")}
        save_episode(tmp_path, replace(short_episode(4, number=number), images=images[name]))
    (tmp_path / "note.npz").write_text("no episode")
    read, cameras = pictures_of(tmp_path)
    assert cameras == ("x", "y")
    with FrameStore(read) as store:
        for name in [*names, *names[::-1]]:
            for camera, frame in (("y", 4), ("x", 0), ("x", 3)):
                jpeg = np.frombuffer(store.get(name, camera, frame), np.uint8)
                shown = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1].astype(int)
                assert np.abs(shown - images[name][camera][frame]).max() < 12
        with pytest.raises(FramesError, match=f"frame 5 of x is not in episode {names[0]}"):
            store.get(names[0], "x", 5)
        (tmp_path / f"{names[1]}.npz").write_bytes(b"torn")
        for name in names[2:]:
            store.get(name, "x", 0)
        with pytest.raises(FramesError, match=rf"{names[1]}\.npz: cannot be read"):
            store.get(names[1], "x", 0)


def test_nothing_but_the_label_file_was_written(recording, address):
    assert sorted(p.name for p in recording.parent.iterdir()) == ["coded", labels_file(recording).name]
