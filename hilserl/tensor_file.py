"""Writes safetensors files array by array.

The library's own `save` builds the whole file in memory and holds the interpreter meanwhile: every other
thread, the learner's loop among them, stands still for as long.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FORMATS = {
    np.dtype(kind): name
    for name, kind in {
        "F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32,
        "I16": np.int16, "I8": np.int8, "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8,
        "BOOL": np.bool_,
    }.items()
}  # fmt: skip
"""Number formats as safetensors calls them."""


def write_tensors(path: Path, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Write {name: array} to `path`, not durably; the sha256 (hex) of the file.

    Raises ValueError naming an array whose number format the file cannot hold.
    """
    ordered = sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize)  # so that each is aligned
    header: dict[str, Any] = {}
    at = 0
    for name, array in ordered:
        if array.dtype not in _FORMATS:
            raise ValueError(f"{path.name}: {name} is {array.dtype}; a tensor file holds {list(_FORMATS)}")
        header[name] = {
            "dtype": _FORMATS[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in (len(text).to_bytes(8, "little"), text):
            digest.update(part)
            file.write(part)
        for _, array in ordered:
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            digest.update(data)
            file.write(data)
    return digest.hexdigest()
