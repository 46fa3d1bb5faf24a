"""The command line: `hilserl COMMAND --config_path FILE --section.key=value`.

Nothing heavy is imported before a command is known. Exit codes: 0 done, 1 `config diff` found differences,
2 a named error (one message, no traceback), 130 interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hilserl.config import Config

TRAIN_CONFIG = "configs/twin_lift_train_config.json"
WIRE_CONFIG = "configs/twin_wire_config.json"
NAMED_ERRORS = 2
INTERRUPTED = 130

Command = Callable[[argparse.Namespace, list[str]], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is returned. argv: the words after the program's name."""
    parser = _parser()
    args, overrides = parser.parse_known_args(argv)
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")  # without a display the twin renders off screen
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hilserl",
        description="Human-in-the-loop reinforcement learning on an SO-101 arm, real or simulated.",
        epilog="Any configuration value can be given as --section.key=value, e.g. --policy.utd_ratio=4.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add(commands, "learner", _learner, "learn from what the actors send (the gRPC service)")
    _add(commands, "actor", _actor, "drive the arm, let a person take over, send the steps to the learner")
    _add_inference(commands)
    _add_demo(commands)
    _add_twin(commands)
    _add_pretrain(commands)
    _add_config(commands)
    return parser


if TYPE_CHECKING:
    type _Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def _add(
    commands: _Commands, name: str, run: Command, text: str, default_config: str | None = None
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog="Any configuration value can be given as --section.key=value.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run, options=parser)
    needed = "" if default_config is None else f" (default: {default_config})"
    parser.add_argument(
        "--config_path",
        metavar="FILE",
        required=default_config is None,
        default=default_config,
        help=f"JSON file, see configs/{needed}",
    )
    return parser


def _add_inference(commands: _Commands) -> None:
    parser = _add(commands, "inference", _inference, "play a trained policy without help and count successes")
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a pretrained_model folder")
    parser.add_argument("--num_episodes", type=_positive, default=10, metavar="N")
    parser.add_argument("--device", metavar="NAME", help="short for --policy.device")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the episodes")
    parser.add_argument("--record_video", action="store_true", help="one video per episode")
    parser.add_argument("--video_dir", default="", metavar="DIR", help="where videos go")
    parser.add_argument("--stochastic", action="store_true", help="sample actions instead of the likeliest")
    parser.add_argument(
        "--temperature", type=float, metavar="T", help="scale the sampling; implies --stochastic"
    )


def _add_demo(commands: _Commands) -> None:
    text = "a learner and an actor on the simulated arm: train, evaluate, show the result"
    parser = _add(commands, "demo", _demo, text, TRAIN_CONFIG)
    parser.add_argument("--minutes", type=float, default=9.0, metavar="M", help="longest training time")
    parser.add_argument("--eval_episodes", type=_positive, default=50, metavar="N")


def _add_twin(commands: _Commands) -> None:
    text = "the simulated arm behind a serial port and a camera stream, in real time"
    parser = _add(commands, "twin", _twin, text, WIRE_CONFIG)
    parser.add_argument("--hand", action="store_true", help="a simulated person moves the released arm")
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="stop after S seconds (default: on interrupt)"
    )


def _add_pretrain(commands: _Commands) -> None:
    text = "train an image encoder on pictures of the simulated arm"
    parser = _add(commands, "pretrain-encoder", _pretrain, text, TRAIN_CONFIG)
    parser.add_argument("--folder", default="outputs/encoder", metavar="DIR", help="where the encoder goes")
    parser.add_argument("--width", type=_positive, metavar="C", help="channels of the first stage")
    parser.add_argument("--minutes", type=float, metavar="M")


def _add_config(commands: _Commands) -> None:
    parser = commands.add_parser("config", help="show a configuration, or compare two", allow_abbrev=False)
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    show = _add(actions, "show", _show, "print the whole effective configuration as JSON")
    show.add_argument("--short", action="store_true", help="only what differs from the defaults")
    diff = actions.add_parser("diff", help="print where two files differ", allow_abbrev=False)
    diff.set_defaults(run=_diff, options=diff)
    diff.add_argument("ours", metavar="FILE")
    diff.add_argument("theirs", metavar="FILE")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


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


def _say(line: str) -> None:
    print(line, flush=True)


def _load(args: argparse.Namespace, overrides: list[str]) -> Config:
    """The effective configuration, printed in short."""
    from hilserl.config_loading import describe, load_config
    from hilserl.task_record import task_hash

    config = load_config(args.config_path, overrides)
    print(f"{args.config_path}, task {config.task.name} ({task_hash(config.task)}), not the default:")
    print(describe(config), flush=True)
    return config


def _learner(args: argparse.Namespace, overrides: list[str]) -> int:
    config = _load(args, overrides)
    from hilserl.learner_process import run_learner

    run_learner(config)
    return 0


def _actor(args: argparse.Namespace, overrides: list[str]) -> int:
    config = _load(args, overrides)
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
    config = _load(
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
    config = _load(args, ["--job_name=demo", *overrides])
    from hilserl.demo import run_demo

    run_demo(config, minutes=args.minutes, eval_episodes=args.eval_episodes)
    return 0


def _twin(args: argparse.Namespace, overrides: list[str]) -> int:
    config = _load(args, overrides)
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
        report=_say,
        seconds=args.seconds,
        calibration_dir=config.robot.calibration_dir,
        robot_id=config.robot.id,
        hand=args.hand,
    )


def _pretrain(args: argparse.Namespace, overrides: list[str]) -> int:
    config = _load(args, overrides)
    from hilserl.pretrain import PretrainConfig
    from hilserl.pretrain import main as pretrain

    given = {key: value for key in ("width", "minutes") if (value := getattr(args, key)) is not None}
    pretrain(config, Path(args.folder), PretrainConfig(seed=config.seed, **given), _say)
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
