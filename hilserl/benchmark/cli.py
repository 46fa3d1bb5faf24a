"""The command line of scripts/benchmark.py. Heavy imports wait until a benchmark runs."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path


def main(argv: Sequence[str], report: Callable[[str], None], started_s: float) -> int:
    """Run the benchmark `argv` asks for. report prints a line; started_s: monotonic time of the start."""
    parser = argparse.ArgumentParser(prog="benchmark.py", description="Measure this project.")
    commands = parser.add_subparsers(dest="command", required=True)
    learner = commands.add_parser("learner", help="updates, bytes, checkpoints and resume beside lerobot's")
    learner.add_argument("--against", choices=["lerobot"], required=True)
    learner.add_argument("--quick", action="store_true", help="the headline only, within 50 s on two cores")
    learner.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    learner.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    learner.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables here")
    learner.add_argument("--plot", type=Path, metavar="FILE", help="draw critic updates per second (png)")
    learning = commands.add_parser("learning", help="success against transitions, features kept or not")
    learning.add_argument("--config_path", default="configs/twin_lift_train_config.json", metavar="FILE")
    learning.add_argument(
        "--folder", type=Path, required=True, metavar="DIR", help="results; runs in it stay"
    )
    learning.add_argument("--arms", nargs="+", metavar="NAME", help="default: all of them")
    learning.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    learning.add_argument("--transitions", type=int, default=1000, metavar="N")
    reward = commands.add_parser("reward", help="a reward classifier against the twin's ground truth")
    reward.add_argument("--config_path", default="configs/twin_lift_train_config.json", metavar="FILE")
    reward.add_argument("--quick", action="store_true", help="fewer episodes, no drift and no learning")
    reward.add_argument("--folder", type=Path, metavar="DIR", help="results; runs in it stay (default: new)")
    reward.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2], metavar="N", help="of learning")
    reward.add_argument("--episodes", type=int, default=80, metavar="N", help="of learning, each")
    reward.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args(argv)
    if arguments.command == "learning":
        return _learning(arguments, report)
    if arguments.command == "reward":
        return _reward(arguments, report)

    from hilserl.benchmark.learner import measure, quick
    from hilserl.benchmark.report import draw, markdown

    result = quick(report, started_s) if arguments.quick else measure(arguments.device, report)
    if arguments.markdown:
        arguments.markdown.write_text(markdown(result), encoding="utf-8")
    if arguments.plot:
        draw(result, arguments.plot)
    report(json.dumps(result) if arguments.json else markdown(result))
    return 0


def _learning(arguments: argparse.Namespace, report: Callable[[str], None]) -> int:
    """Train and evaluate what is not in the folder yet, then draw and print all of it."""
    import torch

    from hilserl.benchmark.learning import ARMS, learning_benchmark
    from hilserl.config_loading import load_config

    torch.set_num_threads(1)  # runs side by side then do not disturb each other
    unknown = [arm for arm in arguments.arms or () if arm not in ARMS]
    if unknown:
        report(f"no such arm: {', '.join(unknown)}; there are {', '.join(ARMS)}")
        return 2
    config = load_config(arguments.config_path, [])
    arms = arguments.arms or list(ARMS)
    learning_benchmark(config, arguments.folder, arms, arguments.seeds, arguments.transitions, report)
    return 0


def _reward(arguments: argparse.Namespace, report: Callable[[str], None]) -> int:
    """Measure the classifier; unless quick, let policies learn from it and from the oracle."""
    from hilserl.benchmark.reward import measure_reward
    from hilserl.benchmark.reward_learning import learn_both, learning_table
    from hilserl.config_loading import load_config

    config = load_config(arguments.config_path, [])
    with ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reward_")))
        result = measure_reward(config, folder, arguments.quick, report)
        if not arguments.quick and arguments.seeds:
            model = Path(result["model"])
            runs = learn_both(config, model, folder, arguments.seeds, arguments.episodes, report)
            result["learning"] = runs
            report(learning_table(runs))
    report(json.dumps(result) if arguments.json else json.dumps(result, indent=1))
    return 0
