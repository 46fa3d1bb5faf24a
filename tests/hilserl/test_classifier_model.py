"""A classifier on disk gives back the same bits, or says why it does not."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hilserl.classifier.decision import Decision
from hilserl.classifier.model import LOOK_MARGIN, ClassifierError, RewardClassifier
from hilserl.config import SuccessConfig
from hilserl.task_record import TaskMismatch, hash_of, task_hash, task_json
from tests.fakes.classifiers import save_classifier
from tests.fakes.labelled import SIDE, TRUNK, classifier_config

CAMERAS = ("room", "hand")
DECISION = Decision(0.6, 3, 7, 2)


@pytest.fixture
def config(tmp_path):
    return classifier_config(tmp_path, CAMERAS)


@pytest.fixture
def folder(tmp_path, config):
    return save_classifier(tmp_path / "best_model", config, DECISION, look=(50.0, 100.0))


def pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    return {
        camera: rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8) for camera in sorted(CAMERAS)
    }


def test_many_pictures_are_judged_bit_by_bit_as_one(config, folder):
    model, seen = RewardClassifier.load(str(folder), config.task), pictures(9)
    together = model.probabilities(seen)
    assert together.dtype == np.float32
    for frame in range(9):
        alone = model.probability({camera: images[frame] for camera, images in seen.items()})
        assert np.float32(alone) == together[frame]
    assert len(np.unique(together)) == 9


def test_each_camera_counts_and_their_order_does_not(config, folder):
    model, seen = RewardClassifier.load(str(folder), config.task), pictures(4)
    said = model.probabilities(seen)
    assert np.array_equal(said, model.probabilities(dict(reversed(seen.items()))))
    for camera in seen:
        other = {**seen, camera: pictures(4, seed=1)[camera]}
        assert not (model.probabilities(other) == said).any()
    assert not np.array_equal(model.probabilities({"room": seen["hand"], "hand": seen["room"]}), said)


def test_what_is_saved_again_is_the_same(tmp_path, config, folder):
    first = RewardClassifier.load(str(folder), config.task)
    first.save(tmp_path / "again")
    second = RewardClassifier.load(str(tmp_path / "again"), config.task)
    assert (second.hash, second.decision, second.about) == (first.hash, DECISION, first.about)
    assert np.array_equal(first.probabilities(pictures(5)), second.probabilities(pictures(5)))
    for name in ("config.json", "model.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_the_file_for_people_says_the_task(config, folder):
    told = json.loads((folder / "config.json").read_text())
    assert told["task_hash"] == task_hash(config.task)
    assert hash_of(json.dumps(told["task"], sort_keys=True, separators=(",", ":"))) == told["task_hash"]
    assert json.loads(task_json(config.task)) == told["task"]
    assert told["decision"] == {"threshold": 0.6, "hold_frames": 3, "min_frames": 7, "takeover_frames": 2}


def test_another_task_is_refused_by_field_but_who_judges_may_differ(config, folder):
    judged = replace(config.task, success=SuccessConfig(kind="classifier", step_cost=0.1))
    assert RewardClassifier.load(str(folder), judged)
    crops = {name: replace(crop, left=60) for name, crop in config.task.crop_params_dict.items()}
    other = replace(config.task, crop_params_dict=crops)
    with pytest.raises(TaskMismatch, match=r"crop_params_dict.hand.left: here 60, there 80"):
        RewardClassifier.load(str(folder), other)
    assert RewardClassifier.load(str(folder), other, ["crop_params_dict"])


def test_a_task_of_other_cameras_is_refused_even_if_allowed(tmp_path, folder):
    alone = classifier_config(tmp_path, ("hand",)).task
    with pytest.raises(ClassifierError, match=r"\['hand', 'room'\], the task's cameras are \['hand'\]"):
        RewardClassifier.load(str(folder), alone, ["camera_ids", "crop_params_dict"])


def test_another_trunk_is_refused_and_the_same_under_another_name_is_not(config, folder):
    with pytest.raises(ClassifierError, match=r"trained on the trunk 'random:4:0'.*'random:4:1' has hash"):
        RewardClassifier.load(str(folder), config.task, trunk="random:4:1")
    assert RewardClassifier.load(str(folder), config.task, trunk=TRUNK)


def test_one_that_is_not_trusted_gives_no_reward_but_may_be_looked_at(tmp_path, config):
    folder = save_classifier(tmp_path / "bad", config, trusted=False)
    with pytest.raises(ClassifierError, match="must not give rewards: 1 false success in 3"):
        RewardClassifier.load(str(folder), config.task)
    assert not RewardClassifier.load(str(folder), config.task, allow_untrusted=True).about.trusted


def test_nothing_is_overwritten_and_half_a_classifier_never_appears(tmp_path, config, folder, monkeypatch):
    model, before = RewardClassifier.load(str(folder), config.task), (folder / "config.json").read_bytes()
    with pytest.raises(ClassifierError, match="never overwritten"):
        model.save(folder)
    assert (folder / "config.json").read_bytes() == before

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hilserl.classifier.model_files.fsync", full)
    with pytest.raises(OSError, match="No space"):
        model.save(tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best_model"]


def weights_changed(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["out.weight"] = tensors["out.weight"] + 1
    save_file(tensors, folder / "model.safetensors")


def weight_missing(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["out.weight"]
    save_file(tensors, folder / "model.safetensors")


def file_cut(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def told(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (weights_changed, "not the one config.json was written with"),
        (weight_missing, "missing out.weight"),
        (file_cut, "not a readable safetensors file"),
        (lambda f: (f / "model.safetensors").unlink(), "holds no reward classifier"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
        (lambda f: told(f, lambda c: c.update(format=2)), "no reward classifier of format 1"),
        (lambda f: told(f, lambda c: c.pop("look")), "has no look"),
        (lambda f: told(f, lambda c: c["decision"].update(threshold=0)), "damaged.*threshold"),
        (lambda f: told(f, lambda c: c["network"].update(layers=3)), "damaged.*layers"),
    ],
)
def test_damage_is_named(config, folder, damage, named):
    damage(folder)
    with pytest.raises(ClassifierError, match=named):
        RewardClassifier.load(str(folder), config.task)


def test_the_folder_around_it_is_no_classifier_but_leads_to_it(config, folder):
    with pytest.raises(ClassifierError, match=r"holds no reward classifier; use .*best_model"):
        RewardClassifier.load(str(folder.parent), config.task)
    with pytest.raises(ClassifierError, match="it is no hub id"):
        RewardClassifier.load(str(folder.parent / "nothing"), config.task)


def test_pictures_it_was_not_made_for_are_refused(config, folder):
    model, seen = RewardClassifier.load(str(folder), config.task), pictures(2)
    one = {camera: images[0] for camera, images in seen.items()}
    with pytest.raises(ClassifierError, match="camera 'room' is missing; there is"):
        model.probability({"hand": one["hand"]})
    with pytest.raises(ClassifierError, match=r"'room' gave uint8 \(64, 64, 3\)"):
        model.probability({**one, "room": np.zeros((64, 64, 3), np.uint8)})
    with pytest.raises(ClassifierError, match="gave float32"):
        model.probability({**one, "room": one["room"].astype(np.float32)})
    with pytest.raises(ClassifierError, match=r"\[1, 2\] pictures"):
        model.probabilities({**seen, "room": seen["room"][:1]})


@pytest.mark.parametrize("camera", CAMERAS)
def test_light_that_was_not_seen_is_told_by_camera(config, folder, camera):
    model = RewardClassifier.load(str(folder), config.task)

    def lit(value):
        return {name: np.full((SIDE, SIDE, 3), value if name == camera else 70, np.uint8) for name in CAMERAS}

    low, high = 50 * (1 - LOOK_MARGIN), 100 * (1 + LOOK_MARGIN)
    for value in range(256):
        said = model.out_of_range(lit(value))
        assert bool(said) == (not low <= value <= high)
        assert not said or (repr(camera) in said and f"{value:.1f}" in said and "50.0 to 100.0" in said)
