"""A classifier is tested on whole episodes it has not seen, and data that cannot tell are refused."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hilserl.classifier.augment import relit
from hilserl.classifier.crossvalidation import train
from hilserl.classifier.features import encode_episode, encode_episodes
from hilserl.classifier.fitting import Frames, fit
from hilserl.classifier.folds import hold_out, same_episodes
from hilserl.classifier.labelled import TrainingDataError, read_training_data
from hilserl.classifier.model import ClassifierError, RewardClassifier
from hilserl.classifier.network import Sizes
from hilserl.classifier.training import run_train
from hilserl.cli import NAMED_ERRORS, main
from hilserl.encoder import FeatureEncoder
from hilserl.labels import Label, LabelError, labels_file, read_labels, write_labels
from hilserl.vision import load_trunk, tensors_hash
from tests.fakes.labelled import (
    TRUNK,
    Played,
    classifier_config,
    noise,
    played,
    several,
    square,
    write_archive,
)

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "twin_lift_train_config.json"


@pytest.fixture(scope="module")
def encoder():
    trunk = load_trunk(TRUNK)
    return FeatureEncoder(trunk, trunk.channels)


def with_data(config, *roots: Path, **classifier: object):
    datasets = tuple(str(root) for root in roots)
    return replace(config, classifier=replace(config.classifier, datasets=datasets, **classifier))


def trained(config, encoder):
    data = read_training_data(config.classifier.datasets, config.task)
    features = encode_episodes(data.episodes, encoder, config.classifier, config.seed)
    return train(config, data.episodes, features, lambda _: None)


# who is tested on what


@st.composite
def collections(draw):
    """Groups, successes and conditions with enough of each for some tests."""
    tests = draw(st.integers(2, 5))
    groups, success = [], []
    for group in range(tests + draw(st.integers(0, 12))):
        size = draw(st.sampled_from([1, 1, 1, 2, 3]))
        groups += [group] * size
        success += [group < tests or (group > tests + 1 and draw(st.booleans()))] * size
    for group in (len(set(groups)), len(set(groups)) + 1):
        groups.append(group)
        success.append(False)
    order = draw(st.permutations(range(len(groups))))
    conditions = [draw(st.sampled_from("abc")) for _ in groups]
    return [groups[i] for i in order], [success[i] for i in order], conditions, tests


@settings(deadline=None)
@given(collections(), st.integers(0, 3))
def test_each_episode_is_held_out_once_with_its_like_and_every_test_has_a_success(told, seed):
    groups, success, conditions, tests = told
    held = hold_out(groups, success, conditions, tests, seed)
    assert sorted(i for test in held for i in test) == list(range(len(groups)))
    assert len(held) == tests
    homes = {
        group: {t for t, test in enumerate(held) for i in test if groups[i] == group} for group in groups
    }
    assert all(len(home) == 1 for home in homes.values()), "one episode was trained and tested on"
    for test in held:
        assert any(success[i] for i in test)
        rest = set(range(len(groups))) - set(test)
        assert {success[i] for i in rest} == {True, False}
    assert held == hold_out(groups, success, conditions, tests, seed)


@given(st.integers(2, 5), st.integers(1, 4), st.integers(0, 9))
def test_every_test_gets_its_share_of_each_condition(tests, each, seed):
    kinds = [(True, "lift"), (False, "pushed"), (False, "dropped")]
    episodes = [kind for kind in kinds for _ in range(tests * each)]
    held = hold_out(range(len(episodes)), [s for s, _ in episodes], [c for _, c in episodes], tests, seed)
    for test in held:
        assert Counter(episodes[i] for i in test) == dict.fromkeys(kinds, each)


@given(
    st.lists(st.tuples(st.sampled_from([None, 1, 2, 3]), st.sets(st.integers(0, 9), min_size=1)), max_size=7)
)
def test_the_same_episodes_are_those_that_a_chain_of_likeness_joins(told):
    scenes = [scene for scene, _ in told]
    frames = [frozenset(bytes([one]) for one in digests) for _, digests in told]

    def alike(i, j):
        shared = len(frames[i] & frames[j]) >= 0.5 * min(len(frames[i]), len(frames[j]))
        return shared or (scenes[i] is not None and scenes[i] == scenes[j])

    reach = np.array([[alike(i, j) for j in range(len(told))] for i in range(len(told))]).reshape(
        len(told), len(told)
    )
    for _ in told:
        reach = reach | ((reach.astype(int) @ reach.astype(int)) > 0)
    groups = same_episodes(scenes, frames)
    assert all((groups[i] == groups[j]) == reach[i, j] for i in range(len(told)) for j in range(len(told)))


@pytest.mark.parametrize("copy", ["same pictures", "same scene"])
def test_an_episode_that_stands_in_two_sources_is_never_learned_by_heart(tmp_path, encoder, copy):
    """Pictures that say nothing: only who has seen an episode in training could tell its label."""
    config = classifier_config(tmp_path, max_epochs=25, patience=25)
    rng = np.random.default_rng(0)
    once = []
    for seed in range(8):
        one = played(seed, 10, 1, {"cam": noise})
        images = one.images["cam"] // 4 + rng.integers(0, 190, 3, dtype=np.uint8)  # its own colour
        once.append(replace(one, images={"cam": images}, ranges=((0, 9),) if seed % 2 else ()))
    if copy == "same pictures":
        again = [replace(one, seed=500 + one.seed) for one in once]
    else:  # as another video file of it would be: no picture is the same bit by bit
        again = [replace(one, images={"cam": one.images["cam"] ^ 1}) for one in once]
    roots = [write_archive(tmp_path / f"e{i}", config.task, kind) for i, kind in enumerate((once, again))]
    config = with_data(config, *roots)
    result = trained(config, encoder)
    right = [((one.probability >= 0.5) == one.success).mean() for one in result.scored]
    assert np.mean(right) < 0.75, "the answer leaked"


# what is trained


def test_held_out_frames_are_those_the_camera_gave_encoded_alone(encoder, tmp_path):
    config = classifier_config(tmp_path).classifier
    images = played(3, 7, 4).images
    found = encode_episode(images, encoder, replace(config, copies=3), np.random.default_rng(0))
    versions = found.versions["cam"]
    assert versions.shape == (3, 7, 32, 1, 1)
    for frame in range(7):
        assert np.array_equal(versions[0, frame], encoder.encode(images["cam"][frame][None])[0])
    assert not (versions[1] == versions[0]).all(axis=(1, 2, 3)).any()
    assert not np.array_equal(versions[1], versions[2])
    assert np.allclose(found.brightness["cam"], images["cam"].mean(axis=(1, 2, 3)))


@given(st.integers(0, 2**16), st.sampled_from([0.0, 0.3, 0.9]), st.sampled_from([0.0, 0.2]))
def test_another_light_is_one_factor_a_picture_and_one_a_colour(seed, brightness, colour):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    before = images.copy()
    lit = relit(images, brightness, colour, np.random.default_rng(seed))
    assert np.array_equal(images, before), "the frames as they are were changed"
    most = (1 + brightness) * (1 + colour)
    assert (lit <= np.minimum(np.rint(images * most), 255) + 1).all()
    assert (lit >= np.floor(images * (1 - brightness) * (1 - colour)) - 1).all()
    if brightness == colour == 0:
        assert np.array_equal(lit, images)
    for one in range(3):  # brighter stays brighter within a colour
        for channel in range(3):
            order = np.argsort(images[one, ..., channel], axis=None)
            assert (np.diff(lit[one, ..., channel].ravel()[order].astype(int)) >= 0).all()


@pytest.fixture(scope="module")
def fitting(tmp_path_factory, encoder):
    config = classifier_config(tmp_path_factory.mktemp("fit"), copies=3).classifier
    episodes = several(4, 4)
    features = [encode_episode(one.images, encoder, config, np.random.default_rng(i))
                for i, one in enumerate(episodes)]  # fmt: skip
    success = [
        np.isin(np.arange(len(one.images["cam"])), range(*one.ranges[0]) if one.ranges else ())
        for one in episodes
    ]
    return config, features, success


def fitted(config, features, success, seed=0, held=(0, 4)):
    frames = Frames.of(features, success)
    network = frames.network(Sizes(4, 16, 0.2), seed)
    rest = [i for i in range(len(features)) if i not in held]
    return fit(network, frames, frames.of_episodes(rest), frames.of_episodes(held), config, seed, 6)


def test_the_same_data_and_seed_give_the_same_weights(fitting):
    once, again, other = fitted(*fitting), fitted(*fitting), fitted(*fitting, seed=1)
    assert tensors_hash(once.network.state_dict()) == tensors_hash(again.network.state_dict())
    assert once.losses == again.losses
    assert tensors_hash(once.network.state_dict()) != tensors_hash(other.network.state_dict())


def test_a_model_learns_nothing_of_what_is_held_out_nor_judges_it_changed(fitting):
    config, features, success = fitting
    plain = fitted(config, features, success)
    blinded = list(features)
    for i in (0, 4):  # the varied versions of the held-out episodes are of no use to anybody
        versions = {camera: stack.copy() for camera, stack in features[i].versions.items()}
        for stack in versions.values():
            stack[1:] = np.nan
        blinded[i] = replace(features[i], versions=versions)
    flipped = [~told if i in (0, 4) else told for i, told in enumerate(success)]
    other = fitted(config, blinded, flipped)
    assert tensors_hash(plain.network.state_dict()) == tensors_hash(other.network.state_dict())
    assert all(np.array_equal(a, b) for a, b in zip(plain.said, other.said, strict=True))
    assert [row[1] for row in plain.losses] == [row[1] for row in other.losses]
    assert [row[2] for row in plain.losses] != [row[2] for row in other.losses]


def test_training_ends_when_the_held_out_loss_no_longer_falls(fitting):
    config, features, success = fitting
    lies = [~told if i in (0, 4) else told for i, told in enumerate(success)]
    result = fitted(replace(config, patience=2, lr=3e-2), features, lies)
    assert len(result.losses) == result.best_epoch + 2
    assert min(row[2] for row in result.losses) == result.losses[result.best_epoch - 1][2]


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_both_classes_weigh_the_same_however_rare(fitting, share):
    from hilserl.classifier.fitting import _loss

    success = (torch.arange(1000) < 1000 * share).float()
    unsure = _loss(torch.zeros(1000), success, share)
    halves = unsure[success > 0].sum(), unsure[success == 0].sum()
    assert halves[0] == pytest.approx(float(halves[1]), rel=1e-4)
    assert unsure.mean() == pytest.approx(np.log(2), rel=1e-4)


# the whole


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Trained on two cameras of which only one shows anything, from two sources."""
    folder = tmp_path_factory.mktemp("whole")
    config = classifier_config(folder, ("hand", "room"))
    shown = {"hand": noise, "room": square}
    episodes = several(7, 7, shown=shown)
    episodes[3] = replace(episodes[3], labelled=False)
    roots = [
        write_archive(folder / "first", config.task, episodes),
        write_archive(folder / "second", config.task, several(2, 2, first_seed=50, shown=shown)),
    ]
    labels = read_labels(roots[1])
    key = next(iter(labels))
    write_labels(roots[1], labels | {key: replace(labels[key], exclude=True)})
    config, lines = with_data(config, *roots), []
    return config, run_train(config, lines.append), lines, episodes


def test_what_is_trained_judges_new_episodes(whole):
    config, folder, *_ = whole
    model = RewardClassifier.load(str(folder), config.task)
    new = played(99, 16, 8, {"hand": noise, "room": square})
    said = model.probabilities(new.images)
    assert ((said >= 0.5) == (np.arange(16) >= 8)).mean() > 0.9
    assert not model.out_of_range({camera: images[0] for camera, images in new.images.items()})


def test_everything_is_told_of_episodes_held_out(whole):
    config, folder, lines, episodes = whole
    metrics = json.loads((folder.parent / "metrics.json").read_text())
    told = json.loads((folder / "config.json").read_text())
    assert metrics["episodes"] == len(metrics["success_times"]) == 13 + 3
    assert metrics["episode_split_accuracy"] > 0.9
    assert metrics["trusted"]
    assert told["metrics"] == metrics
    assert metrics["epochs"] == sorted(metrics["best_epochs"])[1]
    assert told["data"]["frames"] == metrics["frames"]
    assert told["data"]["episodes_with_success"] == metrics["episodes_with_success"] == 7
    fps = config.task.fps
    for time in metrics["success_times"]:
        if time["verdict"] == "called":
            assert time["delay_s"] == pytest.approx(time["called_s"] - time["success_s"])
            assert time["called_s"] * fps == pytest.approx(round(time["called_s"] * fps))
    page = (folder.parent / "report.html").read_text()
    assert "<html" in page
    assert any("best after" in line for line in lines)


def test_what_is_left_out_is_said(whole):
    _, folder, lines, _ = whole
    left = json.loads((folder / "config.json").read_text())["data"]["left_out"]
    assert sorted(left.values()) == ["excluded by their labels", "not labelled yet"]
    assert sum("LEFT OUT" in line for line in lines) == 2
    assert any("a_00000004_" in line for line in lines if "not labelled yet" in line)


def test_what_is_shown_around_does_not_tell_where_it_was_made(whole):
    config, folder, lines, _ = whole
    place = str(Path(config.classifier.datasets[0]).parent)
    assert any(place in line for line in lines)
    for name in ("report.html", "metrics.json", "best_model/config.json"):
        assert place not in (folder.parent / name).read_text()
    page = (folder.parent / "report.html").read_text()
    assert "first, second" in page and "second: episode" in page


def test_a_trained_classifier_is_never_overwritten(whole):
    config, folder, *_ = whole
    before = {path.name: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()}
    with pytest.raises(ClassifierError, match=r"best_model exists already.*--job_name"):
        run_train(config, lambda _: None)
    assert {path.name: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()} == before


def test_one_that_cannot_tell_is_kept_but_not_trusted(tmp_path):
    config = classifier_config(tmp_path, max_epochs=3)
    root = write_archive(tmp_path / "e", config.task, several(9, 9, shown={"cam": noise}))
    lines: list[str] = []
    folder = run_train(with_data(config, root), lines.append)
    assert any("NOT TRUSTED" in line for line in lines)
    with pytest.raises(ClassifierError, match=r"must not give rewards: success was called in \d of 9"):
        RewardClassifier.load(str(folder), config.task)
    assert RewardClassifier.load(str(folder), config.task, allow_untrusted=True)


def test_a_share_may_be_held_out_instead(tmp_path, encoder):
    config = classifier_config(tmp_path, max_epochs=2, holdout="split", holdout_share=0.25)
    root = write_archive(tmp_path / "e", config.task, several(8, 8))
    result = trained(with_data(config, root), encoder)
    assert len(result.fitted) == 1
    assert len(result.scored) == 4
    assert sum(one.success.any() for one in result.scored) == 2


# data that cannot tell


def unlabelled(root, config):
    labels_file(root).unlink()


def another_length(root, config):
    labels = read_labels(root)
    key = next(iter(labels))
    write_labels(root, labels | {key: Label(99, (), "operator")})


def unknown(root, config):
    write_labels(root, read_labels(root) | {"a_00000099_00011_failure": Label(12, (), "operator")})


def relabelled(change):
    def damage(root, config):
        write_labels(root, {key: change(label) for key, label in read_labels(root).items()})

    return damage


def never(label):
    return replace(label, ranges=())


def always(label):
    return replace(label, ranges=((0, label.frames),) if label.ranges else ())


@pytest.mark.parametrize(
    ("damage", "error", "named"),
    [
        (unlabelled, TrainingDataError, r"has no labels.*hilserl label"),
        (another_length, LabelError, "labelled when it had 99 frames, now it has 12"),
        (unknown, LabelError, "a_00000099_00011_failure does not exist"),
        (relabelled(never), TrainingDataError, "none of the 6 labelled episodes shows a success"),
        (relabelled(always), TrainingDataError, "in every frame"),
        (relabelled(lambda one: replace(one, ranges=((2, 4),))), TrainingDataError, "record failures"),
        (relabelled(lambda one: replace(one, exclude=True)), TrainingDataError, "none is left"),
    ],
)
def test_labels_that_teach_nothing_are_refused_before_a_picture_is_encoded(
    tmp_path, monkeypatch, damage, error, named
):
    def encoded(*_args, **_kwargs):
        pytest.fail("work was begun")

    monkeypatch.setattr("hilserl.classifier.training.encode_episodes", encoded)
    config = classifier_config(tmp_path)
    root = write_archive(tmp_path / "e", config.task, several(3, 3))
    damage(root, config)
    with pytest.raises(error, match=f"(?is){named}"):
        run_train(with_data(config, root), lambda _: None)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("episodes", "folds", "named"),
    [
        (several(3, 9), 5, r"3 of them with a success, are too few for 5 tests.*--classifier.folds=3"),
        (several(1, 5), 3, "1 different episode with a success"),
        (several(5, 1), 3, "1 different episode without a success"),
        ([*several(2, 3), *several(2, 3)], 3, r"2 of them with a success.*--classifier.folds=2"),
    ],
)
def test_too_few_episodes_are_refused_with_what_would_do(tmp_path, episodes: list[Played], folds, named):
    config = classifier_config(tmp_path, folds=folds)
    root = write_archive(tmp_path / "e", config.task, episodes)
    with pytest.raises(TrainingDataError, match=f"(?s){named}"):
        run_train(with_data(config, root), lambda _: None)


def test_frames_are_never_split_between_training_and_test(tmp_path):
    config = classifier_config(tmp_path)
    root = write_archive(tmp_path / "e", config.task, several(3, 3))
    with pytest.raises(TrainingDataError, match=r"(?s)neighbours.*leak.*folds"):
        run_train(with_data(config, root, holdout="frames"), lambda _: None)
    with pytest.raises(TrainingDataError, match="must be one of auto, folds, split"):
        run_train(with_data(config, root, holdout="half"), lambda _: None)


def test_sources_must_be_named_once(tmp_path):
    config = classifier_config(tmp_path)
    root = write_archive(tmp_path / "e", config.task, several(3, 3))
    with pytest.raises(TrainingDataError, match="classifier.datasets is empty"):
        run_train(config, lambda _: None)
    with pytest.raises(TrainingDataError, match="more than once"):
        run_train(with_data(config, root, tmp_path / "e" / ".." / "e"), lambda _: None)


def test_the_command_says_what_is_missing(capsys):
    assert main(["classifier", "train", "--config_path", str(CONFIG)]) == NAMED_ERRORS
    assert "classifier.datasets is empty" in capsys.readouterr().err
