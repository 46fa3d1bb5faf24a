"""Generate hilserl/_proto from proto/hilserl/v1/learner.proto.

    python scripts/generate_proto.py [OUTPUT_ROOT]

OUTPUT_ROOT is the folder that holds the `hilserl` package; the repository's own by default. The result is
checked in, so that running needs no compiler; a test regenerates it and compares.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "hilserl/_proto"


def generate(output_root: Path) -> list[Path]:
    """Write learner_pb2.py and learner_pb2_grpc.py under output_root/hilserl/_proto; return their paths."""
    from grpc_tools import protoc  # type: ignore[import-untyped]  # a development tool

    folder = output_root / PACKAGE
    folder.mkdir(parents=True, exist_ok=True)
    # The virtual path makes the generated module import `hilserl._proto`, not a top-level `hilserl.v1`.
    arguments = [
        "protoc",
        f"-I{PACKAGE}={ROOT / 'proto/hilserl/v1'}",
        f"--python_out={output_root}",
        f"--grpc_python_out={output_root}",
        f"{PACKAGE}/learner.proto",
    ]
    code = protoc.main(arguments)
    if code != 0:
        raise SystemExit(f"protoc failed with exit code {code}: {' '.join(arguments)}")
    return [folder / "learner_pb2.py", folder / "learner_pb2_grpc.py"]


if __name__ == "__main__":
    for path in generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT):
        print(path)
