import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load

from hilserl import checkpoint
from hilserl.checkpoint import (
    CheckpointError,
    available,
    latest,
    load_pretrained,
    load_training_state,
    save_checkpoint,
    sweep,
    verify_golden,
)
from hilserl.config import Config, PolicyConfig
from hilserl.config_loading import load_config
from hilserl.contract import ContractMismatch, build_contract, check_contract, check_encoder, policy_of
from hilserl.env import task_spec
from hilserl.task_record import task_hash
from hilserl.tensor_file import write_tensors

CONFIGS = Path(__file__).parents[2] / "configs"
TASK = Config().task
SPEC = task_spec(TASK)
CONTRACT = build_contract(SPEC, TASK, PolicyConfig(), "ab" * 32)
FILES = [
    "pretrained_model/config.json",
    "pretrained_model/model.safetensors",
    "training_state/state.json",
    "training_state/tensors.safetensors",
]
ARRAYS = hnp.arrays(
    st.sampled_from([np.float32, np.float16, np.int64, np.uint8, np.bool_]),
    hnp.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=3),
    elements={"allow_nan": False, "allow_infinity": False},
)


@pytest.fixture(scope="module", autouse=True)
def fast_disk():
    """Waiting for the platter proves nothing here and takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


def put(root: Path, transitions: int, *, best=False, keep=10, value=None, **more) -> Path:
    model = {"w": np.full((2, 3), transitions if value is None else value, np.float32)}
    given = {
        "model": model,
        "contract": CONTRACT,
        "training_tensors": {"m": 2 * model["w"]},
        "training_state": {"updates": 5 * transitions},
    }
    return save_checkpoint(root, transitions, best=best, keep=keep, **{**given, **more})


def assert_whole(path: Path) -> None:
    """Both halves load and belong to one another."""
    model, state = load_pretrained(path), load_training_state(path)
    np.testing.assert_array_equal(2 * model.tensors["w"], state.tensors["m"])
    assert path.resolve().name == f"{state.transitions:06d}"


def equal(a, b) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape
        np.testing.assert_array_equal(a[name], b[name])


@settings(max_examples=20, deadline=None)
@given(
    st.dictionaries(st.text("ab._0", min_size=1, max_size=5), ARRAYS, max_size=4),
    st.integers(0, 10**7),
    st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4) | st.none()),
)
def test_what_is_saved_is_what_is_loaded(tensors, transitions, state):
    with tempfile.TemporaryDirectory() as folder:
        state = {k: v for k, v in state.items() if k not in ("sha256", "transitions")}
        turned = {name: np.asarray(array, order="F") for name, array in tensors.items()}
        path = put(
            Path(folder),
            transitions,
            model=turned,
            training_tensors=turned,
            training_state=state,
            golden_inputs=tensors,
            golden_outputs=tensors,
        )
        model, training = load_pretrained(path), load_training_state(path)
        for found in (model.tensors, training.tensors, model.golden_inputs, model.golden_outputs):
            equal(found, tensors)
        assert model.contract == CONTRACT
        assert (training.state, training.transitions) == (state, transitions)


def test_the_layout_is_the_documented_one_and_holds_no_pickle(tmp_path):
    path = put(tmp_path, 3000)
    assert path == tmp_path / "003000"
    found = sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())
    assert found == sorted(FILES)
    for name in FILES:
        data = (path / name).read_bytes()
        if name.endswith("json"):
            json.loads(data)
        else:
            length = int.from_bytes(data[:8], "little")
            json.loads(data[8 : 8 + length])


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text("ab", min_size=1, max_size=4), ARRAYS, max_size=5))
def test_a_tensor_file_is_a_safetensors_file_with_aligned_arrays_and_its_own_hash(tensors):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        digest = write_tensors(path, tensors)
        data = path.read_bytes()
    assert digest == hashlib.sha256(data).hexdigest()
    equal(load(data), tensors)
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    for name, about in json.loads(data[8 : 8 + length]).items():
        assert about["data_offsets"][0] % tensors[name].dtype.itemsize == 0, name


def test_a_number_format_no_tensor_file_has_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="x.safetensors: w is complex64"):
        write_tensors(tmp_path / "x.safetensors", {"w": np.zeros(2, np.complex64)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "way", ["003000", "003000/pretrained_model", "003000/training_state", "last", "best/pretrained_model"]
)
def test_a_checkpoint_is_found_by_each_of_its_names(tmp_path, way):
    put(tmp_path, 3000, best=True)
    assert_whole(tmp_path / "003000")
    assert load_pretrained(tmp_path / way).tensors["w"][0, 0] == 3000
    assert load_training_state(str(tmp_path / way)).state == {"updates": 15000}


def test_links_move_with_the_folder(tmp_path):
    put(tmp_path / "a", 100, best=True)
    put(tmp_path / "a", 200)
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert load_pretrained(tmp_path / "b" / "last").tensors["w"][0, 0] == 200
    assert load_pretrained(tmp_path / "b" / "best").tensors["w"][0, 0] == 100
    assert latest(tmp_path / "b") == tmp_path / "b" / "000200"


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=8), st.integers(1, 3))
def test_the_newest_the_last_and_the_best_stay(saves, keep):
    with tempfile.TemporaryDirectory() as folder:
        root, best = Path(folder), None
        for number, is_best in saves:
            before = {int(p.name) for p in available(root)}
            put(root, number, best=is_best, keep=keep)
            best = number if is_best else best
            newest = set(sorted(before | {number})[-keep:])
            expected = newest | {number} | ({best} - {None})
            assert {int(p.name) for p in available(root)} == expected
            assert int(load_pretrained(root / "last").tensors["w"][0, 0]) == number
            assert (root / "best").exists() == (best is not None)
            if best is not None:
                assert int(load_pretrained(root / "best").tensors["w"][0, 0]) == best
        visible = {p.name for p in root.iterdir()} - {"last", "best"}
        assert visible == {p.name for p in available(root)}


class Crash(BaseException):
    """The power goes out."""


def crash_at(monkeypatch, operation: int) -> None:
    """The operation-th touch of the disk does not happen, nor anything after it."""
    left = [operation]

    def guarded(real):
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise Crash
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr(checkpoint, "fsync", guarded(checkpoint.fsync))
    monkeypatch.setattr(checkpoint.shutil, "rmtree", guarded(shutil.rmtree))
    for name in ("rename", "replace", "symlink_to", "write_bytes", "write_text", "mkdir"):
        monkeypatch.setattr(Path, name, guarded(getattr(Path, name)))


@pytest.mark.parametrize("again", [200, 100])
def test_a_crash_at_any_moment_leaves_whole_checkpoints_only(tmp_path, again):
    """Saving a new number, and replacing one in place."""
    operation = 0
    while True:
        root = tmp_path / f"{again}-{operation}"
        put(root, 50)
        put(root, 100, best=True, keep=2)
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, operation)
            try:
                put(root, again, best=True, keep=2, value=7)
                break
            except Crash:
                pass
        for path in available(root):
            assert_whole(path)
        sweep(root)  # what the learner does when it comes back
        assert not [p for p in root.iterdir() if p.name.startswith(".")]
        for path in [root / "last", root / "best", *available(root)]:
            assert_whole(path)
        assert_whole(put(root, again, value=8))
        assert load_pretrained(root / "last").tensors["w"][0, 0] == 8
        operation += 1
    assert operation > 15


def test_saving_sweeps_what_an_earlier_crash_left(tmp_path):
    put(tmp_path, 100)
    (tmp_path / ".000200-x.tmp" / "pretrained_model").mkdir(parents=True)
    assert available(tmp_path) == [tmp_path / "000100"]  # a half-written one is never visible
    put(tmp_path, 300)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000100", "000300", "last"]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_damaged_file_is_named(tmp_path, name):
    put(tmp_path, 100)
    path = put(tmp_path, 200)
    read = load_pretrained if name.startswith("pretrained") else load_training_state
    file = path / name
    data = file.read_bytes()
    for damaged in (data[:-1], data[: len(data) // 2], b"", data[:-1] + bytes([data[-1] ^ 1])):
        file.write_bytes(damaged)
        if name.endswith("json") and damaged == data[:-1]:
            continue  # only the last newline is gone
        with pytest.raises(CheckpointError, match=file.name):
            read(path)
    file.unlink()
    with pytest.raises(CheckpointError, match=rf"(?s){file.name} is missing, there is .*000100, 000200"):
        read(path)
    shutil.rmtree(file.parent)
    with pytest.raises(CheckpointError, match=f"{file.parent.name}/ is missing"):
        read(path)


def test_the_model_of_another_checkpoint_is_refused(tmp_path):
    first, second = put(tmp_path, 100), put(tmp_path, 200)
    shutil.copy(first / FILES[1], second / FILES[1])
    with pytest.raises(CheckpointError, match="of another checkpoint"):
        load_pretrained(second)


@pytest.mark.parametrize("path", ["000300", "000300/pretrained_model", "last"])
def test_a_checkpoint_that_is_not_there_names_those_that_are(tmp_path, path):
    put(tmp_path, 100)
    (tmp_path / "last").unlink()
    (tmp_path / "last").symlink_to("000900")
    with pytest.raises(CheckpointError, match=r"checkpoints in .*: 000100"):
        load_pretrained(tmp_path / path)


def test_an_empty_run_has_no_latest(tmp_path):
    assert latest(tmp_path / "none") is None
    assert available(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": 0}, "keep is 0"),
        ({"model": {"w": np.array([1, np.nan], np.float32)}}, "not finite: w"),
        ({"training_state": {"x": float("nan")}}, "JSON"),
    ],
)
def test_what_could_not_be_used_is_not_saved(tmp_path, change, message):
    put(tmp_path, 100)
    with pytest.raises(ValueError, match=message):
        put(tmp_path, 200, **change)
    assert latest(tmp_path) == tmp_path / "000100"
    assert_whole(put(tmp_path, 200))


def test_the_golden_pair_is_verified(tmp_path):
    inputs, outputs = {"x": np.arange(3, dtype=np.float32)}, {"y": np.arange(3, dtype=np.float32) * 2}
    pretrained = load_pretrained(put(tmp_path, 1, golden_inputs=inputs, golden_outputs=outputs))
    verify_golden(pretrained, lambda given: {"y": given["x"] * 2})
    for wrong in (lambda g: {"y": g["x"] * 2 + 0.01}, lambda g: {"y": g["x"] * np.nan}):
        with pytest.raises(CheckpointError, match="y is off by"):
            verify_golden(pretrained, wrong)
    with pytest.raises(CheckpointError, match="shape"):
        verify_golden(pretrained, lambda given: {"y": given["x"][:2]})
    with pytest.raises(CheckpointError, match="no golden"):
        verify_golden(load_pretrained(put(tmp_path, 2)), lambda given: given)


def test_the_contract_says_names_units_shapes_and_task():
    told = json.loads(json.dumps(CONTRACT))
    assert told == CONTRACT
    state = told["observation"]["state"]
    assert [s["name"] for s in state] == list(SPEC.state_names)
    assert {s["unit"] for s in state} == {"rad", "rad/s", "m"}
    assert told["action"]["names"] == list(SPEC.action_names)
    assert told["crop_top_left_height_width"] == {"gripper_cam": [0, 80, 480, 480]}
    assert told["task_hash"] == task_hash(TASK)
    check_contract(told, SPEC, TASK, "here")


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        (replace(SPEC, cameras=("side",)), ["observation.cameras", "gripper_cam", "side"]),
        (replace(SPEC, image_shape=(64, 64, 3)), ["observation.image", "64", "128"]),
        (replace(SPEC, state_names=SPEC.state_names[:-1]), ["state[17]", "absent", "ee_euler.z_rad"]),
        (replace(SPEC, state_names=SPEC.state_names[::-1]), ["state[0]", "shoulder_pan", "ee_euler.z_rad"]),
        (replace(SPEC, action_names=("gripper", "delta_x")), ["action.names", "delta_z"]),
    ],
)
def test_another_observation_or_action_is_refused_by_name(spec, names):
    with pytest.raises(ContractMismatch) as error:
        check_contract(CONTRACT, spec, TASK, "outputs/x/config.json")
    for name in ["outputs/x/config.json", *names]:
        assert name in str(error.value)


def test_another_task_is_refused_unless_the_difference_is_allowed():
    task = replace(TASK, action_scale=0.05, random_ee_reset=False)
    with pytest.raises(ContractMismatch, match=r"(?s)action_scale: here 0.05, there 0.02") as error:
        check_contract(CONTRACT, SPEC, task, "x")
    assert "random_ee_reset: here false, there true" in str(error.value)
    with pytest.raises(ContractMismatch, match="action_scale"):
        check_contract(CONTRACT, SPEC, task, "x", ["random_ee_reset"])
    check_contract(CONTRACT, SPEC, task, "x", ["random_ee_reset", "action_scale"])


def test_the_shipped_eval_config_takes_checkpoints_of_the_shipped_train_config():
    train = load_config(CONFIGS / "grasp_only_hilserl_train_config.json")
    tested = load_config(CONFIGS / "grasp_only_hilserl_eval_config.json")
    contract = build_contract(task_spec(train.task), train.task, train.policy, "00")
    check_contract(contract, task_spec(tested.task), tested.task, "x", tested.allow_task_difference)
    with pytest.raises(ContractMismatch, match="random_ee_reset"):
        check_contract(contract, task_spec(tested.task), tested.task, "x")


def test_another_encoder_is_refused():
    check_encoder(CONTRACT, "ab" * 32, "x")
    with pytest.raises(ContractMismatch, match=r"helper2424/resnet10.*abab.*cdcd"):
        check_encoder(CONTRACT, "cd" * 32, "x")


def test_the_architecture_comes_from_the_checkpoint(tmp_path):
    policy = PolicyConfig(hidden_dims=(64, 32), latent_dim=17, n_obs_steps=3)
    path = put(tmp_path, 1, contract=build_contract(SPEC, TASK, policy, "00"))
    contract = load_pretrained(path).contract
    assert policy_of(contract, "x") == policy
    assert policy_of(contract, "x", "cuda") == replace(policy, device="cuda")
    check_contract(contract, SPEC, TASK, "x")  # n_obs_steps is the checkpoint's own


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("latent_dim", "wide", "latent_dim"), ("layers", 3, "layers"), ("tau", None, "no value for tau")],
)
def test_a_policy_of_another_program_is_refused(key, value, message):
    policy = {**CONTRACT["policy"], key: value}
    if value is None:
        del policy[key]
    with pytest.raises(CheckpointError, match=message):
        policy_of({**CONTRACT, "policy": policy}, "x")


@pytest.mark.parametrize("change", [{"format": 2}, {"format": None}, {"action": None}])
def test_another_format_is_refused(tmp_path, change):
    contract = {k: v for k, v in {**CONTRACT, **change}.items() if v is not None}
    with pytest.raises(CheckpointError, match=r"config\.json has (format|no section)"):
        load_pretrained(put(tmp_path, 1, contract=contract))
