"""The words of the command line: each command's arguments and help. What they do is in `hilserl.cli`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

TRAIN_CONFIG = "configs/twin_lift_train_config.json"
WIRE_CONFIG = "configs/twin_wire_config.json"

Command = Callable[[argparse.Namespace, list[str]], int]


def parser_of(
    run: Mapping[str, Command], more: Sequence[Callable[[Commands], None]]
) -> argparse.ArgumentParser:
    """The whole parser; parsed arguments hold what their command does as `run`.

    run: what each command does. more: what adds further commands.
    """
    parser = argparse.ArgumentParser(
        prog="hilserl",
        description="Human-in-the-loop reinforcement learning on an SO-101 arm, real or simulated.",
        epilog="Any configuration value can be given as --section.key=value, e.g. --policy.utd_ratio=4.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    add_command(commands, "learner", run["learner"], "learn from what the actors send (the gRPC service)")
    add_command(
        commands,
        "actor",
        run["actor"],
        "drive the arm, let a person take over, send the steps to the learner",
    )
    _add_inference(commands, run["inference"])
    _add_demo(commands, run["demo"])
    _add_twin(commands, run["twin"])
    _add_pretrain(commands, run["pretrain-encoder"])
    _add_import(commands, run["import-dataset"])
    _add_record(commands, run["record"])
    _add_status(commands, run["status"])
    _add_control(commands, run["control"])
    _add_rollback(commands, run["rollback"])
    for add in more:
        add(commands)
    _add_config(commands, run["config show"], run["config diff"])
    return parser


if TYPE_CHECKING:
    type Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_command(
    commands: Commands, name: str, run: Command, text: str, default_config: str | None = None
) -> argparse.ArgumentParser:
    """A command that loads a configuration. default_config: None where it must be given."""
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


def _add_inference(commands: Commands, run: Command) -> None:
    parser = add_command(commands, "inference", run, "play a trained policy without help and count successes")
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a pretrained_model folder")
    parser.add_argument("--num_episodes", type=positive, default=10, metavar="N")
    parser.add_argument("--device", metavar="NAME", help="short for --policy.device")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the episodes")
    parser.add_argument("--record_video", action="store_true", help="one video per episode")
    parser.add_argument("--video_dir", default="", metavar="DIR", help="where videos go")
    parser.add_argument("--stochastic", action="store_true", help="sample actions instead of the likeliest")
    parser.add_argument(
        "--temperature", type=float, metavar="T", help="scale the sampling; implies --stochastic"
    )


def _add_demo(commands: Commands, run: Command) -> None:
    text = "a learner and an actor on the simulated arm: train, evaluate, show the result"
    parser = add_command(commands, "demo", run, text, TRAIN_CONFIG)
    parser.add_argument("--minutes", type=float, default=9.0, metavar="M", help="longest training time")
    parser.add_argument("--eval_episodes", type=positive, default=50, metavar="N")


def _add_twin(commands: Commands, run: Command) -> None:
    text = "the simulated arm behind a serial port and a camera stream, in real time"
    parser = add_command(commands, "twin", run, text, WIRE_CONFIG)
    parser.add_argument("--hand", action="store_true", help="a simulated person moves the released arm")
    parser.add_argument(
        "--seconds", type=float, metavar="S", help="stop after S seconds (default: on interrupt)"
    )


def _add_pretrain(commands: Commands, run: Command) -> None:
    text = "train an image encoder on pictures of the simulated arm"
    parser = add_command(commands, "pretrain-encoder", run, text, TRAIN_CONFIG)
    parser.add_argument("--folder", default="outputs/encoder", metavar="DIR", help="where the encoder goes")
    parser.add_argument("--width", type=positive, metavar="C", help="channels of the first stage")
    parser.add_argument("--minutes", type=float, metavar="M")


def _add_import(commands: Commands, run: Command) -> None:
    text = "turn a recorded LeRobotDataset into demonstrations, or say why it cannot be used"
    parser = add_command(commands, "import-dataset", run, text)
    parser.add_argument("--root", required=True, metavar="DIR", help="the dataset: it holds meta/info.json")


def _add_record(commands: Commands, run: Command) -> None:
    text = (
        "play episodes by hand and keep them as a LeRobotDataset: demonstrations, or a classifier's pictures"
    )
    parser = add_command(commands, "record", run, text)
    parser.add_argument(
        "--num_episodes", type=positive, required=True, metavar="N", help="how many it shall hold at the end"
    )
    parser.add_argument(
        "--role",
        required=True,
        choices=["demo", "reward"],
        help="demo keeps successes only; reward keeps failures too, and only the buttons judge",
    )
    parser.add_argument(
        "--root",
        metavar="DIR",
        help="the dataset: a new folder, or with --resume=true one to go on with (default: a new name)",
    )


def _add_status(commands: Commands, run: Command) -> None:
    text = "what exists for a configuration, what of it is valid, how the learner is, and what to do next"
    parser = add_command(commands, "status", run, text)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def _add_control(commands: Commands, run: Command) -> None:
    parser = add_command(
        commands, "control", run, "ask the running learner to save, stop, pause updates or resume them"
    )
    parser.add_argument("command", choices=["save", "stop", "pause", "resume"])


def _add_rollback(commands: Commands, run: Command) -> None:
    text = "take a run back to an earlier checkpoint; data that came later are kept but not learned from"
    parser = add_command(commands, "rollback", run, text)
    parser.add_argument("step", metavar="STEP", help='the checkpoint\'s number, or "best"')


def _add_config(commands: Commands, run_show: Command, run_diff: Command) -> None:
    parser = commands.add_parser("config", help="show a configuration, or compare two", allow_abbrev=False)
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    show = add_command(actions, "show", run_show, "print the whole effective configuration as JSON")
    show.add_argument("--short", action="store_true", help="only what differs from the defaults")
    diff = actions.add_parser("diff", help="print where two files differ", allow_abbrev=False)
    diff.set_defaults(run=run_diff, options=diff)
    diff.add_argument("ours", metavar="FILE")
    diff.add_argument("theirs", metavar="FILE")


def positive(text: str) -> int:
    """An argument that counts something."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value
