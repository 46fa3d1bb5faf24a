"""The page of `hilserl classifier preview` in a real browser: the twin, cameras that die, and a recording."""

from __future__ import annotations

import base64
import json
import threading
import time
from dataclasses import replace

import cv2
import numpy as np
import zmq

from hilserl.classifier.decision import Decision
from hilserl.classifier.model import RewardClassifier
from hilserl.classifier.model_files import CONFIG_FILE
from hilserl.classifier.sources import open_source
from hilserl.config import CropConfig
from hilserl.config_loading import load_config, to_json
from hilserl.env import policy_image
from hilserl.recording_files import Recording
from hilserl.task_record import task_hash
from tests.fakes.browser import browser, page, page_errors, wait_for  # noqa: F401
from tests.fakes.classifiers import save_classifier
from tests.fakes.recordings import CONFIG as TWIN
from tests.fakes.takes import random_take, record

CAMERA = "gripper_cam"
WIDE, HIGH = 96, 64


def config_of(folder, *cameras: str, **more):
    """The lift task with small pictures of these cameras, and its file."""
    config = load_config(TWIN)
    task = replace(
        config.task,
        camera_width=WIDE,
        camera_height=HIGH,
        camera_ids=dict.fromkeys(cameras, ""),
        crop_params_dict=dict.fromkeys(cameras, CropConfig(0, 16, HIGH, HIGH)),
        resize_size=(32, 32),
    )
    config = replace(config, task=task, output_dir=str(folder / "outputs"), **more)
    path = folder / "config.json"
    path.write_text(to_json(config))
    return config, str(path)


def decided(folder, config, decision: Decision) -> RewardClassifier:
    """A classifier nobody trained, in folder/best_model, that is sure of itself, now here, now there."""
    save_classifier(folder / "soft", config, decision)
    soft = RewardClassifier.load(str(folder / "soft"), config.task)
    soft.network.out.weight.mul_(4)
    made = RewardClassifier(soft.network, soft.encoder, soft.about)
    made.save(folder / "best_model")
    return made


class Tab:
    """The page in the browser. Keys are sent as a person does; one script reads one moment."""

    def __init__(self, driver, address: str) -> None:
        from selenium.webdriver.common.keys import Keys

        self.driver, self.keys = driver, Keys
        driver.get(address)
        page_errors(driver)
        wait_for(lambda: self.text("pv-probability"))

    def type(self, *keys: str) -> None:
        self.driver.find_element("css selector", "body").send_keys(*keys)

    def text(self, name: str) -> str:
        return self.driver.execute_script(
            "return document.getElementById(arguments[0])?.textContent.trim() || ''", name
        )

    def moment(self) -> dict:
        """What is on show, all of the same moment: texts, and the pictures as the browser holds them."""
        return self.driver.execute_script(
            "const text = (id) => document.getElementById(id)?.textContent.trim() || '';"
            "const views = {};"
            "for (const it of document.querySelectorAll('.pv-camera')) {"
            "  const [native, policy] = it.querySelectorAll('img');"
            "  views[it.dataset.camera] = {native: native.src, policy: policy.src,"
            "    wide: native.naturalWidth, side: policy.naturalWidth,"
            "    dim: policy.classList.contains('pv-missing')};"
            "}"
            "return {probability: text('pv-probability'), lamp: text('pv-lamp'), held: text('pv-held'),"
            "  threshold: text('pv-threshold'), trouble: text('pv-trouble'), light: text('pv-light'), views}"
        )

    def received(self, moment: dict) -> dict:
        """{camera: uint8 (H, W, 3)} of the enlarged pictures."""
        return {name: decoded(view["policy"]) for name, view in moment["views"].items()}


def decoded(source: str):
    data = np.frombuffer(base64.b64decode(source.partition(",")[2]), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]


def agrees(tab: Tab, model: RewardClassifier) -> dict:
    """The moment, whose number must be what the model says of its pictures."""
    moment = tab.moment()
    assert moment["probability"] == f"{model.probability(tab.received(moment)):.3f}"
    return moment


# --- the lock-step twin --------------------------------------------------------------------------------


def test_the_twin_live(browser, tmp_path):  # noqa: F811
    config, path = config_of(tmp_path, CAMERA)
    model = decided(tmp_path, config, Decision(0.5, 3, 0))
    folder = tmp_path / "best_model"
    words = ("classifier", "preview", "--config_path", path, "--model", str(folder), "--no-browser")
    with page(*words) as address:
        tab = Tab(browser, address)
        shown = tab.driver.find_element("css selector", "body").text  # is passed on as a picture
        assert f"model {tmp_path.name}/best_model" in shown and str(tmp_path) not in shown
        seen = set()
        for _ in range(4):
            moment = agrees(tab, model)
            view = moment["views"][CAMERA]
            assert (view["wide"], view["side"]) == (WIDE, 32)
            crop = config.task.crop_params_dict[CAMERA]
            near = policy_image(decoded(view["native"]), crop, config.task.resize_size)
            assert np.abs(near.astype(int) - tab.received(moment)[CAMERA]).mean() < 4  # JPEG
            seen.add(view["policy"])
            wait_for(lambda: tab.moment()["views"][CAMERA]["policy"] not in seen)
        shown = browser.find_element("css selector", ".pv-head").text
        assert model.hash[:12] in shown and task_hash(config.task) in shown and "Hz" in shown

        # the lamp follows the threshold
        tab.type(*[tab.keys.ARROW_DOWN] * 60)
        wait_for(lambda: tab.text("pv-lamp") == "SUCCESS" and tab.text("pv-threshold") == "0.01")
        tab.type(*[tab.keys.ARROW_UP] * 120)
        wait_for(lambda: tab.text("pv-lamp") == "no success" and tab.text("pv-threshold") == "1")
        tab.type(*[tab.keys.ARROW_DOWN] * 30)
        tab.type("]", "]", "[")
        wait_for(lambda: tab.text("pv-threshold") == "0.7" and tab.text("pv-held").endswith("of 4 frames"))

        # only w writes, and Ctrl+W does not
        before = json.loads((folder / CONFIG_FILE).read_text())
        tab.type(tab.keys.CONTROL, "w")
        tab.type(tab.keys.CONTROL, "c")
        time.sleep(0.3)
        assert json.loads((folder / CONFIG_FILE).read_text()) == before
        tab.type("w")
        wait_for(lambda: "was threshold 0.5" in tab.text("pv-message"))
        assert "is threshold 0.7, held 4" in tab.text("pv-message")
        decision = json.loads((folder / CONFIG_FILE).read_text())["decision"]
        assert (decision["threshold"], decision["hold_frames"]) == (0.7, 4)

        # recorded frames can be read, and scored to the same bits
        tab.type("c")
        wait_for(lambda: "recording, " in browser.find_element("css selector", ".pv-head").text)
        previews = tmp_path / "outputs" / config.job_name / "previews"
        wait_for(lambda: len(next(previews.glob("*/frames.jsonl")).read_text().splitlines()) > 4)
        tab.type("c")
        wait_for(lambda: "frames in" in tab.text("pv-message"))
        assert page_errors(browser) == []
    (recorded,) = previews.iterdir()
    for line in map(json.loads, (recorded / "frames.jsonl").read_text().splitlines()):
        rgb = cv2.imread(str(recorded / CAMERA / f"{line['frame']:06d}.png"))[..., ::-1]
        image = policy_image(rgb, config.task.crop_params_dict[CAMERA], config.task.resize_size)
        assert model.probability({CAMERA: image}) == line["probability"]


# --- cameras that die ----------------------------------------------------------------------------------


class Stream:
    """lerobot's camera messages of the cameras in `live`: other pictures all the time, grey for `flat`."""

    def __init__(self, *names: str) -> None:
        self.live, self.flat = set(names), set()
        self._socket = zmq.Context.instance().socket(zmq.PUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self.port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        rng = np.random.default_rng(0)
        while not self._stop.wait(0.03):
            images = {}
            for name in sorted(self.live):
                coarse = rng.integers(40, 216, (6, 9, 3), dtype=np.uint8)
                rgb = cv2.resize(coarse, (WIDE, HIGH), interpolation=cv2.INTER_CUBIC)
                rgb = np.full_like(rgb, 90) if name in self.flat else rgb
                images[name] = base64.b64encode(cv2.imencode(".jpg", rgb)[1].tobytes()).decode()
            message = {"timestamps": dict.fromkeys(images, time.time()), "images": images}
            self._socket.send_string(json.dumps(message))

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()


def test_cameras_that_die_are_told_of_and_come_back(browser, tmp_path):  # noqa: F811
    """On a servo bus, with no arm connected: only cameras are opened."""
    stream = Stream("right")
    try:
        base = load_config(TWIN)
        config, path = config_of(
            tmp_path,
            "left",
            "right",
            robot=replace(base.robot, type="so101", port="/dev/no_such_port"),
            teleop=replace(base.teleop, type="none"),
            service=replace(base.service, pace=False),
            cameras={
                name: replace(base.cameras[CAMERA], type="zmq", port=stream.port, max_age_s=2.0)
                for name in ("left", "right")
            },
        )
        save_classifier(tmp_path / "m", config, Decision(0.01, 1, 0), look=(0.0, 10.0))
        model = RewardClassifier.load(str(tmp_path / "m"), config.task)
        words = ("classifier", "preview", "--config_path", path, "--model", str(tmp_path / "m"))
        with page(*words, "--no-browser", "--task.success.kind=button") as address:
            tab = Tab(browser, address)
            # one camera was never there: the other is shown, nothing is judged
            moment = wait_for(lambda: (m := tab.moment())["views"]["right"]["wide"] == WIDE and m)
            assert "left" in moment["trouble"] and moment["probability"] == "–"
            assert moment["lamp"] == "no success"
            stream.live = {"left", "right"}
            wait_for(lambda: not tab.moment()["trouble"])
            moment = agrees(tab, model)
            assert "brightness" in moment["light"] and moment["lamp"] == "SUCCESS"
            left, right = browser.find_elements("css selector", ".pv-camera")
            assert left.location["y"] == right.location["y"] and left.location["x"] < right.location["x"]

            stream.flat = {"right"}
            moment = wait_for(lambda: "flat" in (m := tab.moment())["trouble"] and m)
            assert moment["lamp"] == "no success" and moment["views"]["right"]["dim"]
            stream.flat = set()
            wait_for(lambda: not tab.moment()["trouble"])
            stream.live = {"right"}
            wait_for(lambda: "'left'" in tab.moment()["trouble"])
            stream.live = {"left", "right"}
            wait_for(lambda: not tab.moment()["trouble"])
            agrees(tab, model)
            assert page_errors(browser) == []
    finally:
        stream.close()


# --- a recording ---------------------------------------------------------------------------------------


def test_a_recording(browser, tmp_path):  # noqa: F811
    config, path = config_of(tmp_path, CAMERA)
    root, task = tmp_path / "set", config.task
    rng = np.random.default_rng(5)
    with Recording.create(root, task) as made:
        for index, steps in enumerate((12, 25)):
            coarse = rng.integers(20, 236, (steps + 1, 4, 6, 3), dtype=np.uint8)
            frames = [cv2.resize(one, (WIDE, HIGH), interpolation=cv2.INTER_CUBIC) for one in coarse]
            take = replace(random_take(task, index, steps), frames={CAMERA: frames})
            made.append(take, record(take, task, role="reward"))
    model = decided(tmp_path, config, Decision(0.5, 1, 0))
    pictures = [open_source(root, task).pictures(it)[CAMERA] for it in open_source(root, task).episodes]
    words = ("classifier", "preview", "--config_path", path, "--model", str(tmp_path / "best_model"))
    with page(*words, "--dataset", str(root), "--episode", "1", "--no-browser") as address:
        tab = Tab(browser, address)

        def stands_at(frame: int, episode: int = 1) -> dict:
            told = f"frame {frame} of {len(pictures[episode])}"
            wait_for(lambda: told in tab.text("pv-episode"))
            expected = f"{model.probability({CAMERA: pictures[episode][frame]}):.3f}"
            wait_for(lambda: tab.moment()["probability"] == expected)
            moment = agrees(tab, model)
            np.testing.assert_array_equal(tab.received(moment)[CAMERA], pictures[episode][frame])
            return moment

        stands_at(0)
        tab.type(*[tab.keys.ARROW_RIGHT] * 7, tab.keys.ARROW_LEFT)
        stands_at(6)

        # the threshold decides the lamp of the frame on show
        scores = model.probabilities({CAMERA: pictures[1]})
        frame = int(np.argmin(np.abs(scores[1:] - 0.5))) + 1
        tab.type("r", *[tab.keys.ARROW_RIGHT] * frame)
        stands_at(frame)
        steps = int(np.ceil(abs(float(scores[frame]) - 0.5) * 100)) + 1
        above, below = (tab.keys.ARROW_UP, tab.keys.ARROW_DOWN), ("no success", "SUCCESS")
        for key, count, lamp in ((above[0], steps, below[0]), (above[1], 2 * steps, below[1])):
            tab.type(*[key] * count)
            wait_for(lambda lamp=lamp: tab.text("pv-lamp") == lamp)

        # the slider, then playing to the end
        slider = browser.find_element("id", "pv-slider")
        browser.execute_script("arguments[0].scrollIntoView()", slider)
        slider.click()  # its middle
        wait_for(lambda: "frame 13 of 26" in tab.text("pv-episode") or "frame 12" in tab.text("pv-episode"))
        tab.type(" ")
        stands_at(25)
        tab.type("t")
        wait_for(lambda: "of 2 successes" in tab.text("pv-summary"))
        rows = browser.find_elements("css selector", "#pv-table tr")
        assert len(rows) == 3 and [row.text.split()[0] for row in rows[1:]] == ["0", "1"]
        tab.type("p")
        stands_at(0, 0)
        assert page_errors(browser) == []
