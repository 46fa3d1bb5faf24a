"""The command line: `hilserl COMMAND --config_path FILE --section.key=value`.

Nothing heavy is imported before a command is known. Exit codes: 0 done, 1 `config diff` found differences,
2 a named error (one message, no traceback), 130 interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from hilserl.cli_arm import add_calibrate, add_release
from hilserl.cli_classifier import add_classifier
from hilserl.cli_dataset import add_dataset
from hilserl.cli_doctor import add_doctor
from hilserl.cli_label import add_label
from hilserl.cli_loading import load, refuse_loose_words, say
from hilserl.cli_parsers import Command, parser_of
from hilserl.headless import render_off_screen

NAMED_ERRORS = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is returned. argv: the words after the program's name."""
    parser = parser_of(_COMMANDS, _MORE)
    args, overrides = parser.parse_known_args(argv)
    render_off_screen()
    try:
        with _interrupts():
            _refuse_mistyped_options(args, overrides)
            command: Command = args.run
            return command(args, overrides)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        # an error this project defines is a message for the user; any other is a bug and keeps its traceback
        if type(error).__module__.partition(".")[0] not in ("hilserl", "robot"):
            raise
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return NAMED_ERRORS


@contextmanager
def _interrupts() -> Iterator[None]:
    """The first interrupt, or SIGTERM, raises KeyboardInterrupt, so that arms park; a second one forces."""
    stopping = False

    def on_signal(number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        if stopping and number == signal.SIGINT:
            os.write(2, b"\nforced: stopped without parking\n")
            os._exit(INTERRUPTED)
        if not stopping:
            stopping = True
            raise KeyboardInterrupt

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _refuse_mistyped_options(args: argparse.Namespace, overrides: list[str]) -> None:
    """An option's near miss would otherwise be taken for an override of the configuration."""
    from hilserl.config import Config, ConfigError
    from hilserl.config_tree import field_hints

    known = [option for option in args.options._option_string_actions if option.startswith("--")]
    for word in overrides:
        option = word.partition("=")[0]
        if not option.startswith("--") or "." in option or option[2:] in field_hints(Config):
            continue
        near = difflib.get_close_matches(option, known, n=1, cutoff=0.8)
        if near:
            raise ConfigError(f"unknown option {option}; did you mean {near[0]}?")


def _learner(args: argparse.Namespace, overrides: list[str]) -> int:
    config = load(args, overrides)
    from hilserl.learner_process import run_learner

    run_learner(config)
    return 0


def _actor(args: argparse.Namespace, overrides: list[str]) -> int:
    config = load(args, overrides)
    from hilserl.actor_process import run_actor

    run_actor(config)
    return 0


def _inference(args: argparse.Namespace, overrides: list[str]) -> int:
    from hilserl.config import ConfigError, InferenceArgs

    if args.temperature is not None and args.temperature <= 0:
        raise ConfigError(f"--temperature is {args.temperature}, it must be positive")
    if not (Path(args.checkpoint) / "config.json").is_file():
        raise ConfigError(
            f"--checkpoint {args.checkpoint} is no pretrained_model folder: it has no config.json"
        )
    short = {"--policy.device": args.device, "--seed": args.seed}
    config = load(
        args, [*overrides, *(f"{key}={value}" for key, value in short.items() if value is not None)]
    )
    from hilserl.inference import run_inference

    run_inference(
        config,
        InferenceArgs(
            checkpoint=args.checkpoint,
            num_episodes=args.num_episodes,
            record_video=args.record_video or bool(args.video_dir),
            video_dir=args.video_dir,
            stochastic=args.stochastic or args.temperature is not None,
            temperature=1.0 if args.temperature is None else args.temperature,
        ),
    )
    return 0


def _demo(args: argparse.Namespace, overrides: list[str]) -> int:
    config = load(args, ["--job_name=demo", *overrides])
    from hilserl.demo import run_demo

    run_demo(config, minutes=args.minutes, eval_episodes=args.eval_episodes)
    return 0


def _twin(args: argparse.Namespace, overrides: list[str]) -> int:
    config = load(args, overrides)
    from hilserl.config import ConfigError
    from robot.twin.wire import serve

    if len(config.cameras) != 1:
        raise ConfigError(f"the twin has one camera, but cameras names {', '.join(config.cameras)}")
    ((name, camera),) = config.cameras.items()
    return serve(
        config.task.scene,
        link=config.robot.port,
        camera_name=name,
        camera_port=camera.port,
        seed=config.seed,
        report=say,
        seconds=args.seconds,
        calibration_dir=config.robot.calibration_dir,
        robot_id=config.robot.id,
        hand=args.hand,
    )


def _pretrain(args: argparse.Namespace, overrides: list[str]) -> int:
    config = load(args, overrides)
    from hilserl.pretrain import PretrainConfig
    from hilserl.pretrain import main as pretrain

    given = {key: value for key in ("width", "minutes") if (value := getattr(args, key)) is not None}
    pretrain(config, Path(args.folder), PretrainConfig(seed=config.seed, **given), say)
    return 0


def _import_dataset(args: argparse.Namespace, overrides: list[str]) -> int:
    config = load(args, overrides)
    from hilserl.dataset_import import import_for

    say(f"use it with --demos={import_for(config, Path(args.root), say).folder}")
    return 0


def _record(args: argparse.Namespace, overrides: list[str]) -> int:
    config = load(args, overrides)
    from hilserl.recording import run_record

    root = run_record(config, args.num_episodes, args.role, Path(args.root) if args.root else None)
    if root.exists():
        say(f"recorded in {root}")
    return 0


def _show(args: argparse.Namespace, overrides: list[str]) -> int:
    from hilserl.config_loading import describe, load_config, to_json

    config = load_config(args.config_path, overrides)
    print(describe(config) if args.short else to_json(config).rstrip())
    return 0


def _diff(args: argparse.Namespace, overrides: list[str]) -> int:
    from hilserl.config import ConfigError
    from hilserl.config_loading import config_differences, load_config
    from hilserl.task_record import task_hash

    if overrides:
        raise ConfigError(f"config diff compares two files as they are; it takes no {overrides[0]}")
    ours, theirs = load_config(args.ours), load_config(args.theirs)
    differences = config_differences(ours, theirs)
    print(f"task {task_hash(ours.task)} {args.ours}\ntask {task_hash(theirs.task)} {args.theirs}")
    for name, here, there in differences:
        print(f"  {name}: {here} | {there}")
    return 1 if differences else 0


def _status(args: argparse.Namespace, overrides: list[str]) -> int:
    from hilserl.config_loading import load_config
    from hilserl.run_status import status_json, status_lines

    config = load_config(args.config_path, overrides)
    if args.json:
        say(json.dumps(status_json(config, args.config_path, overrides)))
        return 0
    for line in status_lines(config, args.config_path, overrides):
        say(line)
    return 0


def _control(args: argparse.Namespace, overrides: list[str]) -> int:
    from hilserl.config_loading import load_config
    from hilserl.wire import Command, send_command

    refuse_loose_words(overrides)
    service = load_config(args.config_path, overrides).service
    send_command(service, Command(args.command))
    print(f"asked the learner at {service.learner_host}:{service.learner_port} to {args.command}")
    return 0


def _rollback(args: argparse.Namespace, overrides: list[str]) -> int:
    from hilserl.config_loading import load_config
    from hilserl.rollback import describe, roll_back
    from hilserl.rundir import RunDir

    refuse_loose_words(overrides)
    config = load_config(args.config_path, overrides)
    with RunDir.hold(config.output_dir, config.job_name) as run:
        done = roll_back(run, args.step)
        if done is None:
            print(f"{run.root} is at checkpoint {args.step} already; nothing was changed")
            return 0
        for line in describe(done):
            print(line)
    print(
        "episodes an actor has not sent yet were played by policies taken back; they are kept as old data\n"
        f"go on: hilserl learner --config_path {args.config_path} {' '.join(overrides)} --resume=true"
    )
    return 0


_COMMANDS: dict[str, Command] = {
    "learner": _learner,
    "actor": _actor,
    "inference": _inference,
    "demo": _demo,
    "twin": _twin,
    "pretrain-encoder": _pretrain,
    "import-dataset": _import_dataset,
    "record": _record,
    "status": _status,
    "control": _control,
    "rollback": _rollback,
    "config show": _show,
    "config diff": _diff,
}
"""What each command of `hilserl.cli_parsers` does."""
_MORE = (add_label, add_dataset, add_classifier, add_doctor, add_release, add_calibrate)
"""Commands that stand in files of their own."""
