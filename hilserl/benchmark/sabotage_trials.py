"""What is run for real to see whether a planted mistake is caught: checks, loaders, commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pkgutil import resolve_name

import numpy as np

from hilserl.benchmark.sabotage import Trial
from hilserl.benchmark.sabotage_setup import Setup
from hilserl.body import build_body
from hilserl.config import Config
from hilserl.demo import no_help
from hilserl.doctor.checks import CHECKS
from hilserl.doctor.context import Context
from hilserl.doctor.findings import Finding
from hilserl.doctor.preflight import run_checks
from hilserl.types import Obs
from robot.types import U8


def _quiet(_: object) -> None:
    """Nothing is said."""


def checked(config: Config, setup: Setup, names: tuple[str, ...], *, agreed: bool = False) -> list[Finding]:
    """The findings of these checks of the pre-flight. agreed: what a person says when he is asked."""
    chosen = [check for check in CHECKS if check.name in names]
    unknown = set(names) - {check.name for check in chosen}
    if unknown:
        raise ValueError(f"the pre-flight has no check {', '.join(sorted(unknown))}")
    with Context(config, setup.folder, _quiet, lambda _: agreed) as context:
        return list(run_checks(context, chosen, _quiet).findings)


@cache
def doctor(*names: str) -> Trial:
    """These checks of the pre-flight on the lock-step twin, in the room as it is."""

    def run(setup: Setup) -> list[Finding]:
        with room_of(setup):
            return checked(setup.config(), setup, names)

    return Trial(f"doctor ({', '.join(names)})", run)


def room(name: str, part: object) -> Callable[[Setup], None]:
    """A plant: another part in the place called `name` (dotted)."""

    def plant(setup: Setup) -> None:
        setup.room = {name: part}

    return plant


@contextmanager
def room_of(setup: Setup) -> Iterator[None]:
    """Everything that `setup.room` names, with what it has in its place."""
    with ExitStack() as stack:
        for name, part in setup.room.items():
            owner, _, attribute = name.rpartition(".")
            stack.enter_context(replaced(resolve_name(owner), attribute, part))
        yield


@contextmanager
def replaced(owner: object, attribute: str, part: object) -> Iterator[None]:
    """Another part in one place, for a while."""
    before = getattr(owner, attribute)
    setattr(owner, attribute, part)
    try:
        yield
    finally:
        setattr(owner, attribute, before)


@cache
def judged_doctor(*names: str) -> Trial:
    """These checks where the classifier judges success."""
    from hilserl.benchmark.reward import with_judge

    def run(setup: Setup) -> list[Finding]:
        with room_of(setup):
            return checked(with_judge(setup.config(), "classifier", setup.model), setup, names)

    return Trial(f"doctor ({', '.join(names)}; a classifier judges)", run)


def _loaded(setup: Setup) -> list[Finding]:
    setup.config()
    return []


def _wire_loaded(setup: Setup) -> list[Finding]:
    setup.wire_config("/dev/null")
    return []


def _learner_starts(setup: Setup) -> list[Finding]:
    """What the learner does with its demonstrations before it serves anybody."""
    from hilserl.build import build_encoder, build_replay, load_demos, with_imported_demos
    from hilserl.env import task_spec

    config = with_imported_demos(setup.config(), _quiet)
    load_demos(config, build_replay(config, task_spec(config.task), build_encoder(config)), _quiet)
    return []


def _imported(setup: Setup) -> list[Finding]:
    """The recorded dataset as demonstrations, as the learner takes it in."""
    from hilserl.dataset_import import import_for

    import_for(setup.config(), setup.recording, _quiet)
    return []


def _dataset_checked(setup: Setup) -> list[Finding]:
    from hilserl.dataset_fit import fit_of_set

    config = setup.config()
    return fit_of_set(setup.recording, config.task, config.allow_task_difference)


def _classifier_data(setup: Setup) -> list[Finding]:
    """What classifier training does before it computes anything."""
    from hilserl.classifier.folds import check_holdout
    from hilserl.classifier.labelled import read_training_data

    config = setup.config()
    check_holdout(config.classifier.holdout)
    read_training_data(config.classifier.datasets, config.task, config.allow_task_difference)
    return []


def _classifier_used(setup: Setup) -> list[Finding]:
    """The actor takes the classifier for its reward."""
    from hilserl.benchmark.reward import with_judge
    from hilserl.body import build_reward

    build_reward(with_judge(setup.config(), "classifier", setup.model), None)
    return []


def _policy_loaded(setup: Setup) -> list[Finding]:
    """What inference does before the arm moves."""
    from hilserl.checkpoint import load_pretrained
    from hilserl.env import task_spec
    from hilserl.inference import load_player

    config = setup.config()
    player = load_player(load_pretrained(setup.checkpoints / "last"), config, task_spec(config.task))
    spec = task_spec(config.task)
    images: dict[str, U8] = {name: np.zeros(spec.image_shape, np.uint8) for name in spec.cameras}
    player.act(Obs(images, np.zeros(spec.state_size, np.float32)))
    return []


def _resumed(setup: Setup) -> list[Finding]:
    """What a learner that resumes reads first."""
    from hilserl.checkpoint import load_pretrained, load_training_state

    newest = setup.checkpoints / "last"
    load_pretrained(newest)
    load_training_state(newest)
    return []


def _commanded(setup: Setup) -> list[Finding]:
    """Somebody does something with the body of the lock-step twin."""
    with room_of(setup), build_body(no_help(setup.config()), _quiet) as body:
        body.env.reset(0)
        body.env.step(np.zeros(4, np.float32))
        setup.command(body)
    return []


def _training_starts(setup: Setup) -> list[Finding]:
    from hilserl.doctor.result import check_preflight

    check_preflight(setup.config())
    return []


CONFIG = Trial("loading the configuration", _loaded)
WIRE_CONFIG = Trial("loading the servo arm's configuration", _wire_loaded)
LEARNER = Trial("learner start", _learner_starts)
IMPORT = Trial("dataset import", _imported)
DATASET = Trial("dataset check", _dataset_checked)
CLASSIFIER_DATA = Trial("classifier train", _classifier_data)
CLASSIFIER = Trial("classifier as reward", _classifier_used)
POLICY = Trial("loading the policy", _policy_loaded)
RESUME = Trial("resuming", _resumed)
BODY = Trial("driving the twin", _commanded)
START = Trial("start of training", _training_starts)
