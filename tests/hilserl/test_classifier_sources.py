"""Pictures of recordings and archives are those the actor had; what does not fit is refused by name."""

from dataclasses import replace

import numpy as np
import pytest

from hilserl.classifier.sources import SourceError, open_source
from hilserl.config import CropConfig, SuccessConfig
from hilserl.dataset_schema import IMAGES, open_dataset
from hilserl.dataset_video import policy_images
from hilserl.episode import TASK_FILE
from hilserl.recording_files import Recording
from hilserl.task_record import TaskMismatch
from hilserl.types import End
from tests.fakes.labelled import classifier_config, noise, played, several, square, write_archive
from tests.fakes.takes import TINY, random_take, record

BOTH = {"hand": square, "room": noise}


@pytest.fixture
def archive(tmp_path):
    config = classifier_config(tmp_path, ("room", "hand"))
    episodes = several(1, 2, shown=BOTH)
    return write_archive(tmp_path / "episodes", config.task, episodes), config.task, episodes


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    root = tmp_path_factory.mktemp("source") / "rec"
    takes = [random_take(TINY, seed, 5 + seed, End.SUCCESS if seed else End.FAILURE) for seed in range(3)]
    with Recording.create(root, TINY) as recorded:
        for seed, take in enumerate(takes):
            recorded.append(take, record(take, TINY, seed=70 + seed, role="reward"))
    return root, takes


def test_an_archive_gives_the_pictures_that_were_saved(archive):
    root, task, episodes = archive
    source = open_source(root, task)
    assert [one.seed for one in source.episodes] == [one.seed for one in episodes]
    for found, saved in zip(source.episodes, episodes, strict=True):
        pictures = source.pictures(found)
        assert list(pictures) == ["hand", "room"]
        assert all(np.array_equal(pictures[camera], saved.images[camera]) for camera in pictures)
        assert found.frames == len(pictures["hand"])
        assert found.facts == saved.info
        assert len(found.helped) == found.frames - 1
        assert found.helped.any()
        assert found.truth is None
        assert found.judge == "button"


def test_an_archive_tells_who_judged(tmp_path):
    config = classifier_config(tmp_path)
    told = replace(played(1), info={"judge": "operator"})
    imported = replace(played(2), info={"dataset_episode": 3.0})
    source = open_source(write_archive(tmp_path / "e", config.task, [told, imported]), config.task)
    assert [one.judge for one in source.episodes] == ["operator", "button"]
    assert [one.seed for one in source.episodes] == [1, None]


def test_a_recording_gives_every_frame_as_the_camera_of_the_actor_would(recording):
    root, takes = recording
    source, dataset = open_source(root, TINY), open_dataset(root)
    for found, take, stored in zip(source.episodes, takes, dataset.episodes, strict=True):
        ours = source.pictures(found)["gripper_cam"]
        crop = TINY.crop_params_dict["gripper_cam"]
        for frame in range(found.frames):
            alone = policy_images(
                stored, IMAGES + "gripper_cam", 10, np.array([frame]), crop, (16, 16), (16, 32, 3)
            )
            assert np.array_equal(ours[frame], alone[0])
            assert abs(ours[frame].mean() - take.frames["gripper_cam"][frame].mean()) < 2, "frames slid"


def test_a_recording_of_two_cameras_gives_each_its_own_pictures(tmp_path):
    names = ("room", "hand")
    crop = TINY.crop_params_dict["gripper_cam"]
    task = replace(TINY, camera_ids=dict.fromkeys(names, ""), crop_params_dict=dict.fromkeys(names, crop))
    take = random_take(TINY, 3, 6)
    frames = take.frames["gripper_cam"]
    take = replace(take, frames={"room": frames, "hand": frames[::-1]})
    with Recording.create(tmp_path / "rec", task) as recorded:
        recorded.append(take, record(take, task))
    source = open_source(tmp_path / "rec", task)
    pictures = source.pictures(source.episodes[0])
    assert list(pictures) == ["hand", "room"]
    for camera, images in pictures.items():
        expected = [frame.mean() for frame in take.frames[camera]]
        assert np.allclose(images.mean(axis=(1, 2, 3)), expected, atol=2)


def test_a_recording_tells_what_is_known_of_its_episodes(recording):
    root, takes = recording
    for index, (found, take) in enumerate(zip(open_source(root, TINY).episodes, takes, strict=True)):
        assert found.name == str(index)
        assert found.frames == len(take) + 1
        assert found.end == take.end.value
        assert found.truth == tuple(tuple(one) for one in take.success_ranges())
        assert found.seed == 70 + index
        assert found.judge == "button"
        assert not found.helped.any(), "nobody took over from anybody"


@pytest.mark.parametrize("which", ["archive", "recording"])
def test_another_task_is_refused_by_field_unless_allowed_but_who_judged_may_differ(which, request):
    root, task, *_ = request.getfixturevalue(which)
    task = TINY if which == "recording" else task
    judged = replace(task, success=SuccessConfig(kind="classifier", reward=5.0))
    assert open_source(root, judged).episodes
    other = replace(task, reset_gripper=0.7)
    with pytest.raises(TaskMismatch, match="reset_gripper"):
        open_source(root, other)
    assert open_source(root, other, ["reset_gripper"]).episodes


def test_a_camera_that_is_missing_is_found_before_any_work(archive, recording):
    root, task, _ = archive
    more = replace(task, camera_ids={**task.camera_ids, "wrist": ""})
    with pytest.raises(SourceError, match=r"no camera 'wrist'.*it has \['hand', 'room'\]"):
        open_source(root, more, ["camera_ids"])
    stranger = replace(TINY, camera_ids={"wrist": ""}, crop_params_dict={"wrist": CropConfig()})
    with pytest.raises(SourceError, match=r"no camera 'wrist'.*it has \['gripper_cam'\]"):
        open_source(recording[0], stranger, ["camera_ids", "crop_params_dict"])


def test_pictures_of_another_size_are_refused(archive, recording):
    root, task, _ = archive
    with pytest.raises(SourceError, match=r"\(12, 32, 32, 3\), the task needs \(12, 64, 64, 3\)"):
        open_source(root, replace(task, resize_size=(64, 64)), ["resize_size"])
    with pytest.raises(SourceError, match=r"\(16, 32, 3\), the task record says \(32, 32, 3\)"):
        open_source(recording[0], replace(TINY, camera_height=32), ["camera_height"])
    with pytest.raises(SourceError, match="10 frames/s, the task record says 20"):
        open_source(recording[0], replace(TINY, fps=20.0), ["fps"])


def test_a_folder_that_is_no_source_is_refused_by_what_it_lacks(tmp_path, archive):
    root, task, _ = archive
    with pytest.raises(SourceError, match="is no folder"):
        open_source(tmp_path / "nothing", task)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds no episode"):
        open_source(tmp_path / "empty", task)
    (root / TASK_FILE).unlink()
    with pytest.raises(SourceError, match="has no task.json"):
        open_source(root, task)
