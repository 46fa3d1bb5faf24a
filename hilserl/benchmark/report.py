"""The measurements as markdown tables, and one picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def markdown(result: dict[str, Any]) -> str:
    """Every table that `result` has the numbers for, with a line of text before each."""
    sections = [_machine(result), _headline(result), _updates(result), _memory(result), _wire(result)]
    if "encode_ms" in result:
        sections += [
            _encoding(result),
            _persistence(result),
            _roofline(result),
            _growth(result),
            _actors(result),
        ]
    return "\n\n".join(sections) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _machine(result: dict[str, Any]) -> str:
    m = result["machine"]
    return (
        f"Measured on {m['device']} ({m['cpu']}, {m['cores']} cores, {m['torch_threads']} torch threads, "
        f"torch {m['torch']}; load {m['load_at_start']:.1f} at the start)."
    )


def _headline(result: dict[str, Any]) -> str:
    memory, wire = result["memory_per_transition_bytes"], result["wire_per_transition_bytes"]
    speed = result["critic_updates_per_s"]
    low, high = result["critic_updates_per_s_ratio_range"]
    rows = [
        (
            "critic updates/s, 512 channels", f"{speed['lerobot']:.3g}", f"{speed['ours_512_channels']:.3g}",
            f"{result['critic_updates_per_s_ratio']:.0f}x ({low:.0f} to {high:.0f})",
        ),
        (
            "critic updates/s, 64 channels", f"{speed['lerobot']:.3g}", f"{speed['ours_64_channels']:.3g}",
            f"{result['critic_updates_per_s_ratio_64_channels']:.0f}x",
        ),
        ("memory per transition [kB]", _kb(memory["lerobot"]), _kb(memory["ours"]),
         f"{result['memory_per_transition_ratio']:.1f}x"),
        ("the same, lerobot's `optimize_memory`", _kb(memory["lerobot_optimised"]), _kb(memory["ours"]),
         f"{result['memory_per_transition_ratio_lerobot_optimised']:.1f}x"),
        ("wire per transition [kB], lerobot's policy on a GPU", _kb(wire["lerobot"]), _kb(wire["ours"]),
         f"{result['wire_per_transition_ratio']:.1f}x"),
        ("the same, lerobot's policy on the CPU", _kb(wire["lerobot_cpu_policy"]), _kb(wire["ours"]),
         f"{result['wire_per_transition_ratio_lerobot_cpu_policy']:.1f}x"),
    ]  # fmt: skip
    return "Batch 256, one camera:\n\n" + _table(("", "lerobot 0.6.1", "ours", "ratio"), rows)


def _updates(result: dict[str, Any]) -> str:
    rows = []
    for row in result["updates"]:
        what = f"steps, UTD {row['utd']}" if row["utd"] else "critic updates"
        theirs = row["lerobot_s"]
        for o in row["ours"]:
            rows.append(
                (
                    what, str(row["batch"]), str(row["cameras"]), str(o["channels"]), str(o["copies"]),
                    _rate(theirs), _rate(o["s"]),
                    f"{o['ratio']['median']:.0f}x ({o['ratio']['low']:.0f} to {o['ratio']['high']:.0f})",
                )
            )  # fmt: skip
    head = ("per second", "batch", "cameras", "channels", "M", "lerobot", "ours", "ratio")
    return "Medians (least to greatest; n of lerobot's measurements), in turns:\n\n" + _table(head, rows)


def _memory(result: dict[str, Any]) -> str:
    rows = []
    for one in result["sizes"]:
        cameras, memory = one["cameras"], one["memory"]
        whole, half = memory["lerobot"], memory["lerobot_optimised"]

        def add(
            what: str, size: float, cameras: int = cameras, whole: float = whole, half: float = half
        ) -> None:
            rows.append((str(cameras), what, _kb(size), f"{whole / size:.1f}x", f"{half / size:.1f}x"))

        add("lerobot, both observations of a transition", whole)
        add("lerobot, `optimize_memory`", half)
        add("ours: raw pictures (`cache_features` false)", memory["ours_raw"])
        for sigma, size in memory["ours_archive_by_noise"].items():
            add(f"ours: row and lossless pictures, sensor noise {sigma}", memory["ours_row"] + size)
        for name, size in memory["features"].items():
            add(f"ours: the same (noise 3) and features, {name}", memory["ours"] + size)
    head = ("cameras", "per transition", "kB", "lerobot over it", "its `optimize_memory` over it")
    return "Memory and disk together:\n\n" + _table(head, rows)


def _wire(result: dict[str, Any]) -> str:
    rows = [
        (str(one["cameras"]), _kb(w["lerobot"]), _kb(w["lerobot_cpu_policy"]), _kb(w["ours"]),
         f"{w['lerobot'] / w['ours']:.1f}x", f"{w['lerobot_cpu_policy'] / w['ours']:.1f}x")
        for one in result["sizes"] for w in [one["wire"]]
    ]  # fmt: skip
    head = ("cameras", "lerobot, GPU [kB]", "lerobot, CPU [kB]", "ours [kB]", "ratio", "ratio")
    return "On the wire per transition, by where lerobot's policy runs:\n\n" + _table(head, rows)


def _encoding(result: dict[str, Any]) -> str:
    rows = [
        (name, f"{s['median']:.2f} ({s['low']:.2f} to {s['high']:.2f})")
        for name, s in result["encode_ms"].items()
    ]
    counts = [
        (name, f"{c['trunk'] / 1e6:.3f} M", f"{c['critic'] / 1e6:.3f} M")
        for name, c in result["parameters"].items()
    ]
    return (
        "Encoding:\n\n" + _table(("", "ms per picture"), rows)
        + "\n\nParameters:\n\n" + _table(("", "frozen trunk", "moved by a critic update"), counts)
    )  # fmt: skip


def _persistence(result: dict[str, Any]) -> str:
    theirs, growth, weights = result["lerobot_persistence"], result["growth"], result["weight_bytes"]
    stall_ms = max(row["checkpoint_stall_ms"] for row in growth["rows"])
    last, few = growth["transitions"], int(theirs["transitions"])
    rows = [
        (f"checkpoint, training stands still ({few} and {last} transitions)",
         f"{theirs['networks_s'] + theirs['buffer_s']:.1f} s "
         f"({theirs['save_ms_per_transition']:.1f} ms per transition)",
         f"{stall_ms:.0f} ms"),
        (f"resume ({few} and {last} transitions)",
         f"{theirs['resume_s']:.1f} s ({theirs['resume_ms_per_transition']:.1f} ms per transition)",
         f"{growth['reopen_s'] + growth['restore_s']:.2f} s"),
        ("weights to the actors", _kb(weights["lerobot"]) + " kB",
         f"{_kb(weights['ours'])} kB (64 channels: {_kb(weights['ours_64'])} kB)"),
        ("from an update's end to an actor that has them", "-",
         f"{result['weights_out_ms']['median']:.0f} ms (at most {result['weights_out_ms']['high']:.0f} ms)"),
    ]  # fmt: skip
    return "Saving, starting again, publishing:\n\n" + _table(("", "lerobot", "ours"), rows)


def _roofline(result: dict[str, Any]) -> str:
    peak = result["peak"]
    parts = [
        f"The machine: {peak['gflops']:.0f} GFLOP/s in a large float32 product, "
        f"{peak['gbytes_per_s']:.1f} GB/s in a large copy. Least time: the greater of "
        "arithmetic and traffic, part by part; what beats it found its data in the cache."
    ]
    for one in result["roofline"]:
        rows = [
            (name, f"{p['mflop']:.0f}", f"{p['mbyte']:.1f}", f"{p['least_ms']:.2f}", f"{p['ms']:.2f}",
             f"{100 * p['least_ms'] / p['ms']:.0f} %" if p["ms"] > 0 else "-")
            for name, p in one["parts"].items()
        ]  # fmt: skip
        rows.append(
            ("whole update", f"{one['mflop']:.0f} (torch counts {one['mflop_counted']:.0f})",
             f"{one['mbyte']:.1f}",
             f"{one['least_ms']:.2f}", f"{one['ms']:.2f}", f"{100 * one['least_ms'] / one['ms']:.0f} %")
        )  # fmt: skip
        head = (f"{one['channels']} channels", "MFLOP", "MB", "least [ms]", "takes [ms]", "of the least")
        parts.append(_table(head, rows))
    return "\n\n".join(parts)


def _growth(result: dict[str, Any]) -> str:
    growth = result["growth"]
    rows = [
        (f"{row['transitions']}", f"{u['median']:.2f} ({u['low']:.2f} to {u['high']:.2f})",
         f"{row['checkpoint_stall_ms']:.1f}")
        for row in growth["rows"] for u in [row["update_ms"]]
    ]  # fmt: skip
    head = ("transitions", "ms per critic update", "checkpoint stall [ms]")
    return f"As the replay grows ({growth['channels']} channels, M={growth['copies']}, files):\n\n" + _table(
        head, rows
    )


def _actors(result: dict[str, Any]) -> str:
    rows = [
        (f"{row['actors']}", f"{row['learner_cpu_ms']:.2f}", f"{row['wall_ms']:.2f}")
        for row in result["actors"]
    ]
    head = ("actors", "learner's CPU [ms per transition]", "wall [ms per transition]")
    return "As actors are added (gRPC on loopback, archived durably, not encoded):\n\n" + _table(head, rows)


def _rate(spread: dict[str, float]) -> str:
    low, high = 1 / spread["high"], 1 / spread["low"]
    return f"{1 / spread['median']:.3g} ({low:.3g} to {high:.3g}; {spread['count']:.0f})"


def _kb(size: float) -> str:
    return f"{size / 1e3:.1f}"


def draw(result: dict[str, Any], path: Path) -> None:
    """Critic updates per second against the batch, both sides, one camera, logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = sorted(
        (r for r in result["updates"] if r["cameras"] == 1 and not r["utd"]), key=lambda r: int(r["batch"])
    )
    batches = [row["batch"] for row in rows]
    figure, axes = plt.subplots(figsize=(6, 4))
    axes.plot(batches, [1 / row["lerobot_s"]["median"] for row in rows], "o-", label="lerobot 0.6.1")
    copies = rows[0]["ours"][0]["copies"]
    for channels in sorted({o["channels"] for o in rows[0]["ours"]}, reverse=True):
        speeds = [
            1 / o["s"]["median"]
            for row in rows for o in row["ours"] if (o["channels"], o["copies"]) == (channels, copies)
        ]  # fmt: skip
        axes.plot(batches, speeds, "o-", label=f"ours, {channels} channels")
    axes.set(xlabel="batch", ylabel="critic updates per second", yscale="log", xticks=batches)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
