"""The checked-in protocol code is what the compiler makes of the .proto file."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_checked_in_code_is_up_to_date(tmp_path: Path):
    spec = importlib.util.spec_from_file_location("generate_proto", ROOT / "scripts/generate_proto.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for fresh in script.generate(tmp_path):
        checked_in = ROOT / fresh.relative_to(tmp_path)
        assert checked_in.read_text() == fresh.read_text(), f"{checked_in}: run scripts/generate_proto.py"
