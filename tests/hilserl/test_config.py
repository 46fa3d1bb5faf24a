"""Configuration: what is written is what is read, and what cannot work is said at once."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilserl.config import CameraConfig, Config, ConfigError, CropConfig, TaskConfig
from hilserl.config_checks import is_loopback
from hilserl.config_loading import config_from_json, describe, load_config, read_config, save, to_json
from hilserl.config_ranges import CHOICES, INTERVALS
from hilserl.config_tree import encode, field_hints, flatten, leaf_names
from hilserl.task_record import TaskMismatch, check_task, task_differences, task_hash, task_json

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "configs").glob("*.json"))
TRAIN = ROOT / "configs" / "grasp_only_hilserl_train_config.json"
NAMES = st.from_regex(r"[a-z]{1,4}", fullmatch=True)
SCALARS = {
    str: st.text(st.characters(codec="utf-8"), max_size=8),
    bool: st.booleans(),
    int: st.integers(-(2**60), 2**60),
    float: st.floats(allow_nan=False, allow_infinity=False),
}


def any_of(hint):
    """Any value of a type, meaningful or not."""
    if hint in SCALARS:
        return SCALARS[hint]
    args = get_args(hint)
    if get_origin(hint) is dict:
        return st.dictionaries(NAMES, any_of(args[1]), max_size=3)
    if get_origin(hint) is tuple:
        if args[-1] is Ellipsis:
            return st.lists(any_of(args[0]), max_size=3).map(tuple)
        return st.tuples(*map(any_of, args))
    return st.builds(hint, **{name: any_of(inner) for name, inner in field_hints(hint).items()})


CONFIGS = any_of(Config)
TASKS = any_of(TaskConfig)


def steps_from(below, above):
    """The smallest tree that turns one encoded configuration into another; null removes an entry."""
    tree = {key: None for key in below if key not in above}
    for key, value in above.items():
        if isinstance(value, dict):
            part = steps_from(below.get(key, {}), value)
            if part or key not in below:
                tree[key] = part
        elif key not in below or below[key] != value:
            tree[key] = value
    return tree


def problems_of(*overrides, path=TRAIN):
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def written(folder, content, name="c.json"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# --- what is written is what is read


@given(CONFIGS)
@settings(max_examples=20, deadline=None)
def test_stored_is_restored(config):
    assert config_from_json(to_json(config), "test") == config


@given(CONFIGS, CONFIGS)
@settings(max_examples=12, deadline=None)
def test_a_file_says_only_what_differs_from_its_base(tmp_path_factory, base, wanted):
    folder = tmp_path_factory.mktemp("configs")
    written(folder, encode(base, Config), "base.json")
    child = written(folder, {"base": "base.json", **steps_from(encode(base, Config), encode(wanted, Config))})
    assert read_config(child) == wanted


@given(CONFIGS, st.booleans())
@settings(max_examples=12, deadline=None)
def test_every_value_can_be_typed_on_the_command_line(wanted, joined):
    words = []
    for name, value in flatten(steps_from(encode(Config(), Config), encode(wanted, Config))).items():
        plain = isinstance(value, str) and not value.startswith('"') and value != "null"
        text = value if plain else json.dumps(value)
        words += [f"--{name}={text}"] if joined or text.startswith("--") else [f"--{name}", text]
    # an entry without fields of its own to name is typed whole
    words += [f"--cameras.{name}={{}}" for name in wanted.cameras if wanted.cameras[name] == CameraConfig()]
    crops = wanted.task.crop_params_dict
    words += [f"--task.crop_params_dict.{name}={{}}" for name in crops if crops[name] == CropConfig()]
    assert read_config(None, words) == wanted


def test_lists_and_flags_can_be_typed_plainly():
    config = read_config(
        None,
        ["--demos=a,b", "--task.reset_xyz", "0.2, 0,0.1", "--resume=True", "--robot.id=7", "--policy.tau=1"],
    )
    assert config.demos == ("a", "b") and config.task.reset_xyz == (0.2, 0.0, 0.1)
    assert config.resume is True and config.robot.id == "7" and type(config.policy.tau) is float


def test_the_later_override_wins_and_negative_values_need_no_equals_sign():
    config = read_config(
        None, ["--policy.utd_ratio=2", "--policy.utd_ratio", "3", "--policy.target_entropy", "-4"]
    )
    assert config.policy.utd_ratio == 3 and config.policy.target_entropy == -4.0


def test_cameras_of_a_file_replace_the_default_and_merge_with_the_base(tmp_path):
    written(tmp_path, {"cameras": {"wrist": {"port": 7}, "side": {}}}, "base.json")
    child = written(tmp_path, {"base": "base.json", "cameras": {"wrist": {"type": "zmq"}, "side": None}})
    assert read_config(child).cameras == {"wrist": CameraConfig(type="zmq", port=7)}
    both = read_config(child, ["--cameras.side.port=9"]).cameras
    assert both == {"side": CameraConfig(port=9), "wrist": CameraConfig(type="zmq", port=7)}
    assert list(both) == ["side", "wrist"], "sorted, whatever order they were written in"


def test_the_command_line_adds_to_the_default_cameras():
    assert read_config(None, ["--cameras.side.port=9"]).cameras == {
        "gripper_cam": CameraConfig(),
        "side": CameraConfig(port=9),
    }


def test_bases_are_followed_and_circles_named(tmp_path):
    (tmp_path / "sub").mkdir()
    written(tmp_path, {"seed": 1, "job_name": "a"}, "a.json")
    written(tmp_path, {"base": "../a.json", "job_name": "b"}, "sub/b.json")
    config = load_config(written(tmp_path, {"base": "sub/b.json", "resume": True}))
    assert (config.seed, config.job_name, config.resume) == (1, "b", True)
    written(tmp_path, {"base": "sub/b.json"}, "a.json")
    assert "back to where it began: b.json -> a.json -> b.json" in problems_of(path=tmp_path / "sub/b.json")
    assert "a.json" in problems_of(path=written(tmp_path, {"base": "nope.json"}, "d.json")) + "a.json"


def test_saving_leaves_one_whole_file(tmp_path):
    config = load_config(TRAIN)
    save(config, tmp_path / "run" / "config.json")
    assert load_config(tmp_path / "run" / "config.json") == config
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["config.json"]


# --- what cannot be read


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "one JSON object"),
        ('{"seed": 1, "seed": 2}', "given twice: seed"),
        ('{"policy": {"tau": NaN}}', "NaN is not a number"),
        ('{"policy": {"tau": 1e999}}', "policy.tau is Infinity"),
        ('{"base": 3}', '"base" is 3'),
        ('{"base": "gone.json"}', "there is no file"),
        ('{"polcy": {}}', 'unknown key "polcy"; did you mean policy?'),
        ('{"policy": {"utd_ration": 4}}', 'unknown key "policy.utd_ration"; did you mean policy.utd_ratio?'),
        ('{"utd_ratio": 4}', 'unknown key "utd_ratio"; did you mean policy.utd_ratio?'),
        ('{"zzz": 4}', "valid here: job_name, output_dir"),
        ('{"policy": 4}', "policy is 4, expected an object with n_obs_steps"),
        ('{"seed": null}', "seed is null, expected a whole number"),
        ('{"task": {"resize_size": [128]}}', "task.resize_size is [128], expected a list of 2"),
        ('{"task": {"resize_size": [128, 128.5]}}', "task.resize_size[1] is 128.5, expected a whole number"),
        ('{"robot": {"port": "/home/me/tty"}}', "relative to the project folder"),
        ('{"demos": ["ok", "~/demos"]}', 'demos is "~/demos"'),
        (
            '{"task": {"crop_params_dict": {"gripper_cam": [0, 80, 480, 480]}}}',
            'name them: {"top": ..., "left": ..., "height": ..., "width": ...}',
        ),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, content, words):
    path = written(tmp_path, content)
    text = problems_of(path=path)
    assert words in text and str(path) in text


def test_a_missing_file_names_its_neighbours():
    text = problems_of(path=TRAIN.with_name("grasp_only_hilserl_trian_config.json"))
    assert "there is no configuration file" in text and TRAIN.name in text


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("4", "'4' is not an override; write --section.key=value"),
        ("--resume", "--resume needs a value"),
        ("--policy.utd_ratio=4.0", "policy.utd_ratio is 4.0, expected a whole number"),
        ("--policy.utd_ratio=true", "policy.utd_ratio is true, expected a whole number"),
        ("--policy.tau=true", "policy.tau is true, expected a number"),
        ("--policy.tau=fast", 'policy.tau is "fast", expected a number'),
        ("--policy.tau=NaN", 'policy.tau is "NaN", expected a number'),
        ("--resume=1", "resume is 1, expected true or false"),
        ("--policy.utd_ratio.x=4", "policy.utd_ratio is"),
        ("--task.reset_xyz=1,2", "expected a list of 3, each entry a number"),
    ],
)
def test_a_bad_override_is_said_to_come_from_the_command_line(word, words):
    text = problems_of(word)
    assert words in text and "the command line" in text


WRONG = {int: [True, 4.0, "4"], float: [True, "1"], bool: [1, 0, "true"], str: [1, True, ["a"]]}


@pytest.mark.parametrize("name", [n for n in leaf_names(Config) if "<name>" not in n])
def test_no_leaf_takes_a_value_of_another_type(tmp_path, name):
    hint = Config
    for key in name.split("."):
        hint = field_hints(hint)[key]
    for value in WRONG.get(hint, [4, {}, [[]], "a"]):
        tree = value
        for key in reversed(name.split(".")):
            tree = {key: tree}
        text = problems_of(path=written(tmp_path, tree))
        assert f"{name}" in text and "expected" in text, value


def test_all_problems_are_listed_at_once():
    text = problems_of("--utd_ratio=4", "--policy.tau=x", "--foo=1")
    assert text.count("\n  - ") == 3
    text = problems_of("--task.action_scale=0.004", "--policy.discount=1", "--teleop.type=mouse")
    assert text.count("\n  - ") == 3


# --- what cannot work


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["--task.reset_xyz=[0.1,0,0.07]"],
            "x = 0.1 +- 0.03 (the random range) m, outside the workspace box",
        ),
        (["--task.reset_xyz=0.34,0,0.07"], "x = 0.34 +- 0.03 (the random range) m, outside"),
        (["--task.reset_xyz=0.25,0,0.3"], "z = 0.3 m, outside"),
        (["--task.random_ee_range_z=0.1"], "z = 0.07 +- 0.1"),
        (["--task.workspace_max=0.14,0.15,0.25"], "each side must be at least 0.05 m"),
        (["--task.crop_params_dict.gripper_cam.left=200"], "columns 200 to 680, outside the native frame"),
        (["--task.crop_params_dict.gripper_cam.top=-1"], "outside the native frame"),
        (["--task.crop_params_dict.gripper_cam.width=0"], "outside the native frame"),
        (["--task.camera_height=470"], "outside the native frame of 470 rows"),
        (["--task.resize_size=100,128"], "multiple of 32"),
        (["--task.resize_size=0,128"], "multiple of 32"),
        (["--task.fps=0"], "task.fps is 0.0"),
        (["--task.control_time_s=-1"], "task.control_time_s is -1.0"),
        (["--task.control_time_s=0.6", "--task.fps=1"], "holds not one step"),
        (["--task.command_hz=5"], "at least task.fps"),
        (["--task.success.hold_s=10"], "shorter than an episode"),
        (["--task.action_scale=0.0046"], "three times what the servos' dead band"),
        (["--task.action_scale=0.04", "--task.leash=0.03"], "must not exceed task.leash = 0.03"),
        (["--task.gripper_scale=0.01"], "task.gripper_scale is 0.01 rad, it must be at least"),
        (["--task.gripper_scale=0.5", "--task.gripper_leash=0.3"], "must not exceed task.gripper_leash"),
        (["--policy.demo_fraction=1.5"], "policy.demo_fraction is 1.5, it must lie in [0, 1]"),
        (["--policy.n_obs_steps=0"], "policy.n_obs_steps is 0"),
        (["--policy.hidden_dims=[]"], "policy.hidden_dims"),
        (["--policy.augmentation_pad=0"], "a pad of 0 shifts nothing"),
        (["--policy.freeze_vision_encoder=false"], "policy.cache_features is true"),
        (["--policy.online_buffer_capacity=100"], "at least one batch"),
        (["--policy.vision_encoder_name="], "policy.vision_encoder_name"),
        (["--policy.device=gpu"], 'policy.device is "gpu"'),
        (["--job_name=a/b"], 'job_name is "a/b"'),
        (["--output_dir="], "output_dir"),
        (["--service.actor_name=a b"], 'service.actor_name is "a b"'),
        (["--robot.type=so100"], "must be one of twin, so101"),
        (["--robot.id="], "robot.id"),
        (["--robot.health.pause_temperature_c=50"], "pause_temperature_c is 50.0, it must not be below"),
        (["--robot.health.pause_voltage_v=6"], "pause_voltage_v is 6.0, it must not be above warn_voltage_v"),
        (["--robot.health.pause_load=0.5"], "pause_load is 0.5, it must not be below warn_load = 0.7"),
        (["--robot.object_time_s=90"], "park_after_s is 60.0, it must exceed robot.object_time_s"),
        (
            ["--robot.max_joint_speed=2.4"],
            "robot.max_joint_speed is 2.4 rad/s, but a step moves the gripper",
        ),
        (["--teleop.type=pedal"], "must be one of gamepad, keyboard, leader, scripted, none"),
        (["--teleop.type=leader"], 'teleop.port is ""'),
        (["--teleop.type=leader", "--teleop.port=a", "--robot.port=a"], 'both "a"; leader and follower have'),
        (
            ["--teleop.type=leader", "--teleop.port=a", "--teleop.id=b", "--robot.id=b"],
            "calibrated one by one",
        ),
        (["--teleop.type=leader", "--teleop.port=a", "--teleop.buttons=none"], 'teleop.buttons is "none"'),
        (["--teleop.buttons=scripted"], "must be one of gamepad, keyboard, none"),
        (["--teleop.type=scripted"], 'only robot.type "twin"'),
        (["--task.success.kind=oracle"], 'only robot.type "twin" can answer'),
        (["--task.success.kind=guess"], "must be one of oracle, button"),
        (["--service.pace=true"], "only the clock of robot.type"),
        (["--cameras.gripper_cam.type=usb"], "must be one of twin, opencv, zmq"),
        (["--cameras.gripper_cam.type=twin"], 'must be "opencv" or "zmq"'),
        (["--robot.type=twin"], 'with robot.type "twin" it must be "twin"'),
        (["--cameras.gripper_cam.index_or_path="], "give the camera's number or device path"),
        (["--cameras.gripper_cam.max_age_s=0"], "max_age_s is 0.0"),
        (["--cameras.gripper_cam.port=0"], "port is 0"),
        (["--cameras.side.type=zmq"], "three places"),
        (["--cameras.gripper_cam=null"], "three places"),
        (["--task.camera_ids.a/b=x"], 'camera name "a/b"'),
        (["--service.learner_host=0.0.0.0"], "service.tls_cert and service.token_file"),
        (["--service.learner_host=box.local", "--service.tls_cert=c"], "set service.token_file"),
        (["--service.learner_host="], "service.learner_host"),
        (["--service.tls_key=k"], "give both"),
        (["--allow_task_difference=task.fps"], 'names "task.fps", which is no field'),
        (["--allow_task_difference=scene.cube"], 'names "scene.cube", which is no field'),
        (["--task.scene.cube_size_min=0.04"], "exceeds cube_size_max"),
    ],
)
def test_what_cannot_work_is_refused(overrides, words):
    assert words in problems_of(*overrides)


def test_the_twins_cube_must_lie_in_the_workspace():
    twin = ROOT / "configs" / "twin_lift_train_config.json"
    assert "puts the cube at y = " in problems_of("--task.scene.cube_range_xy=0.16", path=twin)


@pytest.mark.parametrize("name", INTERVALS)
def test_every_interval_is_kept(name):
    low, high = INTERVALS[name][1:-1].split(",")
    below = str(math.floor(float(low)) - 1)
    assert f"{name} is {below}" in problems_of(f"--{name}={below}")
    if high.strip() != "inf":
        above = str(math.floor(float(high)) + 1)
        assert f"{name} is {above}" in problems_of(f"--{name}={above}")


def test_every_number_has_a_range_or_a_check_of_its_own():
    own_check = {"task.action_scale", "task.gripper_scale", "policy.online_buffer_capacity"}
    any_value = {"policy.target_entropy"}
    leaves = flatten(encode(Config(), Config))
    numbers = {n for n, v in leaves.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    numbers = {n for n in numbers if not n.startswith(("cameras.", "task.crop_params_dict."))}
    assert numbers == set(INTERVALS) | own_check | any_value
    assert set(CHOICES) <= leaves.keys()


def test_what_works_at_the_edge_is_accepted(tmp_path):
    load_config(TRAIN, ["--task.reset_xyz=0.13,-0.12,0.0", "--task.random_ee_range_z=0"])
    load_config(TRAIN, ["--task.reset_xyz=0.1,0.15,0.25", "--task.random_ee_reset=false"])
    load_config(TRAIN, ["--service.learner_host=0.0.0.0", "--service.tls_cert=c", "--service.token_file=t"])
    load_config(TRAIN, ["--allow_task_difference=scene,fps,success.kind,crop_params_dict.gripper_cam.top"])
    load_config(TRAIN, ["--robot.port=/home/me/tty", "--demos=/home/me/a"])
    path = written(tmp_path, {"robot": {"calibration_dir": "/home/me/calibration"}})
    assert load_config(path, ["--robot.calibration_dir=here"]).robot.calibration_dir == "here"
    path = written(tmp_path, {"output_dir": str(tmp_path), "demos": ["/home/me/a"]})
    assert load_config(path).demos == ("/home/me/a",), "a run's own record may name its machine's paths"


def test_loopback_is_this_machine_only():
    assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]"]))
    assert not any(map(is_loopback, ["0.0.0.0", "192.168.1.5", "::", "example.org", "localhost.evil.org"]))


# --- the shipped files


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_shipped_files_are_sound_and_say_only_what_the_schema_knows(path):
    config = load_config(path)
    assert config_from_json(to_json(config), path.name) == config
    assert describe(config)


def test_the_defaults_are_sound():
    assert load_config(None) == Config()
    assert describe(Config()) == "  every value is the default"


def test_the_real_arm_starts_from_the_seed_values():
    config = load_config(TRAIN)
    task, policy = config.task, config.policy
    assert (task.fps, task.control_time_s, task.action_scale) == (10.0, 10.0, 0.02)
    assert task.crop_params_dict == {"gripper_cam": CropConfig(top=0, left=80, height=480, width=480)}
    assert (task.camera_width, task.camera_height, task.resize_size) == (640, 480, (128, 128))
    assert task.reset_xyz == (0.25, 0.0, 0.07)
    assert (task.workspace_min, task.workspace_max) == ((0.10, -0.15, 0.0), (0.35, 0.15, 0.25))
    assert (policy.discount, policy.batch_size, policy.utd_ratio, policy.lr) == (0.97, 256, 20, 3e-4)
    assert (policy.tau, policy.num_critics, policy.temperature_init) == (0.005, 2, 0.01)
    assert (policy.target_entropy, policy.use_backup_entropy) == (-2.0, False)
    assert (policy.latent_dim, policy.hidden_dims, policy.num_spatial_embeddings) == (256, (256, 256), 8)


def test_the_evaluation_differs_from_training_in_the_random_reset_only():
    train, evaluation = (
        load_config(TRAIN),
        load_config(TRAIN.with_name("grasp_only_hilserl_eval_config.json")),
    )
    found = task_differences(evaluation.task, train.task)
    assert [(d.field, d.ours, d.theirs) for d in found] == [("random_ee_reset", "false", "true")]
    check_task(evaluation.task, train.task, "train", evaluation.allow_task_difference)


# --- the task record


@given(TASKS, TASKS)
@settings(max_examples=20, deadline=None)
def test_the_hash_differs_where_a_field_does(ours, theirs):
    a, b = flatten(encode(ours, TaskConfig)), flatten(encode(theirs, TaskConfig))
    expected = {name for name in a.keys() | b.keys() if name not in a or name not in b or a[name] != b[name]}
    assert {d.field for d in task_differences(ours, theirs)} == expected
    assert (task_hash(ours) == task_hash(theirs)) == (not expected)
    assert not task_differences(ours, theirs, allow=expected)


@given(TASKS)
@settings(max_examples=12, deadline=None)
def test_the_hash_survives_storage_and_order(task):
    stored = json.loads(task_json(task))
    assert list(stored) == sorted(stored), "moving a field in its class must not change the hash"
    backwards = json.dumps(dict(reversed(stored.items())))
    assert task_differences(task, backwards) == []
    shuffled = dataclasses.replace(task, camera_ids=dict(reversed(task.camera_ids.items())))
    assert task_hash(shuffled) == task_hash(task)


def other(value):
    """A value of the same type that differs."""
    match value:
        case bool():
            return not value
        case str():
            return value + "x"
        case list():
            return [other(value[0]), *value[1:]]
    return value + 1


@pytest.mark.parametrize("name", flatten(encode(TaskConfig(), TaskConfig)))
def test_every_field_of_the_task_is_hashed_and_named(name):
    stored = encode(TaskConfig(), TaskConfig)
    *path, last = name.split(".")
    part = stored
    for key in path:
        part = part[key]
    here, part[last] = part[last], other(part[last])
    theirs = config_from_json(json.dumps({"task": stored}), "test").task
    assert task_hash(theirs) != task_hash(TaskConfig())
    with pytest.raises(TaskMismatch) as caught:
        check_task(TaskConfig(), json.dumps(stored), "outputs/old/config.json")
    text = str(caught.value)
    assert f"  - {name}: here {json.dumps(here)}, there {json.dumps(part[last])}\n" in text
    assert "outputs/old/config.json" in text and text.count("  - ") == 1
    check_task(TaskConfig(), stored, "old", allow=[name])
    check_task(TaskConfig(), stored, "old", allow=[name.partition(".")[0]])


def test_a_field_one_side_lacks_is_named():
    stored = encode(TaskConfig(), TaskConfig)
    del stored["fps"]
    stored["speed"] = 1
    found = [(d.field, d.ours, d.theirs) for d in task_differences(TaskConfig(), stored)]
    assert found == [("fps", "10.0", "absent"), ("speed", "absent", "1")]


def test_the_hash_is_the_same_in_another_process():
    code = "from hilserl.task_record import TaskConfig, task_hash; print(task_hash(TaskConfig()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == task_hash(TaskConfig())


def test_one_number_has_one_spelling():
    assert task_hash(TaskConfig(fps=10)) == task_hash(TaskConfig(fps=10.0))
    assert task_hash(TaskConfig(random_ee_range_z=-0.0)) == task_hash(TaskConfig())
