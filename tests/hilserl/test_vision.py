"""The trunk is HIL-SERL's ResNet10, its files are read strictly, and shifts are exact crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.nn import functional as F  # noqa: N812

from hilserl.encoder import FeatureEncoder, principal_projection
from hilserl.vision import Trunk, VisionError, load_trunk, random_shift, random_trunk, save_trunk, trunk_hash

torch.set_num_threads(1)


def pictures(count: int, size: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def published_names() -> set[str]:
    names = {"embedder.0.weight", "embedder.1.weight", "embedder.1.bias"}
    for stage in range(4):
        at = f"encoder.stages.{stage}."
        names |= {at + "conv1.weight", at + "conv2.weight"}
        names |= {f"{at}{norm}.{part}" for norm in ("norm1", "norm2") for part in ("weight", "bias")}
        if stage:
            names |= {at + "shortcut.0.weight", at + "shortcut.1.weight", at + "shortcut.1.bias"}
    return names


def test_the_published_size_has_the_published_parameters_and_names() -> None:
    trunk = Trunk(64)
    assert sum(p.numel() for p in trunk.parameters()) == 4_905_792
    assert set(trunk.state_dict()) == published_names()


@pytest.mark.parametrize(("width", "size", "side"), [(64, 128, 4), (16, 128, 4), (4, 64, 2), (4, 96, 3)])
def test_feature_shapes(width: int, size: int, side: int) -> None:
    encoder = FeatureEncoder(random_trunk(width, 0), 8 * width)
    features = encoder.encode(pictures(1, size))
    assert features.shape == (1, 8 * width, side, side)
    assert features.shape[1:] == encoder.feature_shape((size, size, 3))
    assert features.dtype == np.float16


def reference_forward(trunk: Trunk, images: np.ndarray) -> torch.Tensor:
    """The architecture written out from its description, without the modules under test."""
    w = trunk.state_dict()

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        groups = x.double().reshape(len(x), 4, -1)
        mean, var = groups.mean(2, keepdim=True), groups.var(2, unbiased=False, keepdim=True)
        y = ((groups - mean) / (var + 1e-5).sqrt()).view(x.shape)
        return y * w[name + ".weight"].double()[:, None, None] + w[name + ".bias"].double()[:, None, None]

    def conv(x: torch.Tensor, name: str, stride: int, pad: int) -> torch.Tensor:
        return F.conv2d(x, w[name + ".weight"].double(), stride=stride, padding=pad)

    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = torch.from_numpy((images / 255.0 - mean) / std).permute(0, 3, 1, 2)
    x = norm(conv(x, "embedder.0", 2, 3), "embedder.1").relu()
    rows = [x[:, :, i : i + 3, :].amax(2) for i in range(0, x.shape[2], 2)]  # the last window is cut short
    x = torch.stack(rows, 2)
    x = torch.stack([x[:, :, :, i : i + 3].amax(3) for i in range(0, x.shape[3], 2)], 3)
    for stage in range(4):
        at, stride = f"encoder.stages.{stage}", 1 if stage == 0 else 2
        y = norm(conv(x, at + ".conv1", stride, 1), at + ".norm1").relu()
        y = norm(conv(y, at + ".conv2", 1, 1), at + ".norm2")
        if stage:
            x = norm(conv(x, at + ".shortcut.0", stride, 0), at + ".shortcut.1")
        x = (x + y).relu()
    return x


def test_forward_is_the_described_architecture() -> None:
    trunk = random_trunk(8, 3)
    for name, tensor in trunk.state_dict().items():  # gains and offsets that matter
        if tensor.ndim == 1:
            tensor.copy_(torch.randn(tensor.shape) + (1.0 if name.endswith("weight") else 0.0))
    images = pictures(2)
    found = trunk(torch.from_numpy(images)).double()
    torch.testing.assert_close(found, reference_forward(trunk, images), rtol=1e-4, atol=1e-4)


def test_both_layouts_are_the_same_picture() -> None:
    trunk = random_trunk(4, 0)
    images = torch.from_numpy(pictures(2))
    torch.testing.assert_close(trunk(images), trunk(images.permute(0, 3, 1, 2)))


@pytest.mark.parametrize("bad", [torch.zeros(1, 64, 64, 3), torch.zeros(64, 64, 3, dtype=torch.uint8)])
def test_anything_but_uint8_pictures_is_refused(bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="uint8 RGB"):
        random_trunk(4, 0)(bad)


def test_save_and_load_give_the_same_trunk(tmp_path: Path) -> None:
    trunk = random_trunk(8, 1)
    save_trunk(trunk, tmp_path / "made here")
    for name in (tmp_path / "made here", tmp_path / "made here" / "model.safetensors"):
        loaded = load_trunk(str(name))
        assert loaded.width == 8
        assert trunk_hash(loaded) == trunk_hash(trunk)
    assert not any(p.requires_grad for p in loaded.parameters())


def test_one_changed_weight_changes_the_hash() -> None:
    trunk = random_trunk(4, 0)
    before = trunk_hash(trunk)
    trunk.embedder[0].weight[0, 1, 2, 3] += 1e-6
    assert trunk_hash(trunk) != before


def test_random_weights_follow_the_name_alone() -> None:
    assert trunk_hash(load_trunk("random:4:7")) == trunk_hash(random_trunk(4, 7))
    assert trunk_hash(load_trunk("random:4:8")) != trunk_hash(random_trunk(4, 7))


def broken(tmp_path: Path, **changes: torch.Tensor | None) -> str:
    """A trunk's file with tensors replaced, added, or (None) taken away."""
    save_trunk(random_trunk(4, 0), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for name, tensor in changes.items():
        key = name.replace("__", ".")
        if tensor is None:
            del tensors[key]
        else:
            tensors[key] = tensor
    save_file(tensors, tmp_path / "model.safetensors")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"encoder__stages__2__norm1__bias": None}, "missing encoder.stages.2.norm1.bias"),
        ({"head__weight": torch.zeros(2)}, "unknown head.weight"),
        (
            {"encoder__stages__1__shortcut__0__weight": torch.zeros(8, 4, 3, 3)},
            r"\(8, 4, 3, 3\), not \(8, 4, 1, 1\)",
        ),
        ({"embedder__1__bias": torch.full((4,), torch.nan)}, "embedder.1.bias .* not finite"),
        ({"embedder__0__weight": None}, "no tensor embedder.0.weight"),
    ],
)
def test_a_file_that_is_not_exactly_a_trunk_is_refused(tmp_path: Path, changes: dict, named: str) -> None:
    with pytest.raises(VisionError, match=named):
        load_trunk(broken(tmp_path, **changes))


@pytest.mark.parametrize(
    "name", ["random", "random:4", "random:6:0", "random:x:0", "nothing-here", "a/b/c", ""]
)
def test_names_that_mean_nothing_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VisionError):
        load_trunk(name)


def test_an_unreachable_hub_is_an_error_and_never_random_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(VisionError, match="no-such-owner/no-such-trunk.*hub did not give it.*random:16:0"):
        load_trunk("no-such-owner/no-such-trunk")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x08\x00\x00\x00garbage!")
    with pytest.raises(VisionError, match=r"model\.safetensors is not a readable"):
        load_trunk(str(tmp_path))


def test_the_projection_is_fixed_and_orthonormal() -> None:
    encoder = FeatureEncoder(random_trunk(4, 0), 8, seed=5)
    rows = encoder.projection
    assert rows is not None
    torch.testing.assert_close(rows @ rows.T, torch.eye(8))
    full = FeatureEncoder(random_trunk(4, 0), 32)
    images = pictures(2)
    expected = np.einsum("ck,bkhw->bchw", rows.numpy(), full.encode(images).astype(np.float32))
    np.testing.assert_allclose(encoder.encode(images), expected, atol=5e-3)
    again = FeatureEncoder(random_trunk(4, 0), 8, projection=rows)
    assert again.hash() == encoder.hash() != full.hash()
    for channels in (0, 33):
        with pytest.raises(VisionError, match="feature_channels must be 1 to 32"):
            FeatureEncoder(random_trunk(4, 0), channels)


@settings(max_examples=30, deadline=None)
@given(pad=st.integers(1, 5), height=st.integers(3, 9), width=st.integers(3, 9), seed=st.integers(0, 99))
def test_a_shift_is_a_crop_of_the_replicate_padded_picture(
    pad: int, height: int, width: int, seed: int
) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (4, height, width, 3), dtype=np.uint8)
    moved = random_shift(images, pad, np.random.default_rng(seed))
    shifts = np.random.default_rng(seed).integers(-pad, pad + 1, (4, 2))
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="edge")
    for picture, found, (down, right) in zip(padded, moved, shifts, strict=True):
        top, left = pad + down, pad + right
        np.testing.assert_array_equal(found, picture[top : top + height, left : left + width])


def test_every_shift_is_drawn_and_equally_often() -> None:
    pad, count = 2, 5000
    row, column = np.mgrid[0:9, 0:9].astype(np.uint8)
    image = np.stack([row, column, row], 2)
    moved = random_shift(np.repeat(image[None], count, 0), pad, np.random.default_rng(0))
    centres = moved[:, 4, 4, :2].astype(int) - 4
    _, counts = np.unique(centres, axis=0, return_counts=True)
    assert len(counts) == (2 * pad + 1) ** 2
    assert counts.min() > 0.7 * count / 25
    assert counts.max() < 1.3 * count / 25


def test_no_pad_leaves_pictures_alone() -> None:
    images = pictures(3)
    assert random_shift(images, 0, np.random.default_rng(0)) is images


def test_principal_channels_hold_the_most_energy_and_repeat() -> None:
    trunk, images = random_trunk(4, 0), pictures(20)
    found = principal_projection(trunk, images, 6)
    torch.testing.assert_close(found @ found.T, torch.eye(6), rtol=0, atol=1e-5)
    rows = FeatureEncoder(trunk, 32).encode(images).astype(np.float64).transpose(0, 2, 3, 1).reshape(-1, 32)
    best = (np.linalg.svd(rows, compute_uv=False)[:6] ** 2).sum()
    assert float(np.square(rows @ found.double().numpy().T).sum()) == pytest.approx(best, rel=1e-3)
    drawn = FeatureEncoder(trunk, 6).projection
    assert drawn is not None
    assert float(np.square(rows @ drawn.double().numpy().T).sum()) < 0.9 * best
    assert torch.equal(found, principal_projection(trunk, images, 6))
    with pytest.raises(VisionError, match="none were given"):
        principal_projection(trunk, images[:0], 6)


def test_nothing_is_encoded_before_the_projection_is_known() -> None:
    encoder = FeatureEncoder(random_trunk(4, 0), 8, seed=None)
    assert not encoder.complete
    with pytest.raises(VisionError, match="is not known yet"):
        encoder.encode(pictures(1))
    before = encoder.hash()
    encoder.project(principal_projection(encoder.trunk, pictures(4), 8))
    assert encoder.hash() != before
    assert encoder.encode(pictures(1)).shape[1] == 8
    with pytest.raises(VisionError, match=r"must be \(8, 32\)"):
        encoder.project(torch.zeros(7, 32))
