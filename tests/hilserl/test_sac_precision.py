"""Number formats: the loss and every gradient of each, against float64 on the same batch and noise."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from hilserl.networks import product_format, set_precision
from hilserl.sac import SAC
from hilserl.sac_losses import SacNets, actor_loss, critic_loss
from hilserl.sampling import Batch
from tests.fakes.learning import agent, batch

WIDE = {"latent_dim": 64, "hidden_dims": (64, 64), "num_critics": 3}


def double(value: object) -> object:
    match value:
        case Tensor() if value.is_floating_point():
            return value.double()
        case list():
            return [double(item) for item in value]
    return value


def gradients(sac: SAC, kind: str, nets: SacNets, exact: bool) -> dict[str, Tensor]:
    """The loss and its gradients by name, for the same batch and noise each time."""
    data = batch(64)
    sac.noise.restore(*copy.deepcopy(START))
    convert: Callable[[object], object] = double if exact else (lambda value: value)
    noise = sac._critic_noise(data)
    noise = replace(noise, **{f.name: convert(getattr(noise, f.name)) for f in fields(noise)})
    data = Batch(**{f.name: convert(getattr(data, f.name)) for f in fields(Batch)})  # type: ignore[arg-type]
    names = {id(p): name for name, p in nets.named_parameters()}
    if kind == "critic":
        loss, parameters = critic_loss(nets, data, noise, sac.rules).loss, nets.critic_parameters()
    else:
        demos = data.is_demo.to(nets.log_alpha.dtype).sum()
        loss = actor_loss(nets, data, noise.normal, noise.keep, sac.rules, demos).loss
        parameters = nets.actor_parameters()
    found = torch.autograd.grad(loss, parameters)
    return {"loss": loss.detach()} | {names[id(p)]: g for p, g in zip(parameters, found, strict=True)}


START = agent(seed=9).noise.state()


@pytest.mark.parametrize(("precision", "limit"), [("float32", 1e-4), ("bfloat16", 0.05)])
@pytest.mark.parametrize("kind", ["critic", "actor"])
def test_each_format_agrees_with_float64(kind: str, precision: str, limit: float) -> None:
    sac = agent(precision=precision, bc_weight=1.0, **WIDE)
    sac.update(lambda: batch(64), 20)  # not at the special values of the start
    exact = copy.deepcopy(sac.nets).double()
    set_precision(exact, None)
    expected = gradients(sac, kind, exact, exact=True)
    errors = {}
    for name, found in gradients(sac, kind, sac.nets, exact=False).items():
        assert found.dtype == torch.float32, "parameters, moments and gradients stay float32"
        errors[name] = float((found.double() - expected[name]).norm() / expected[name].norm())
    assert max(errors.values()) < limit, errors
    if precision == "bfloat16":
        assert max(errors.values()) > 1e-4, "the products were not taken in bfloat16"


def test_auto_is_a_format_this_machine_multiplies_natively() -> None:
    chosen = product_format("auto", torch.device("cpu"))
    native = torch.cpu.get_capabilities().get("avx512_bf16") or torch.cpu.get_capabilities().get("amx_bf16")
    assert chosen is (torch.bfloat16 if native else None)
    assert product_format("bfloat16", torch.device("cpu")) is torch.bfloat16
    assert product_format("float32", torch.device("cpu")) is None


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
def test_a_compiled_update_gives_the_same_numbers() -> None:
    """On a GPU the same flag adds CUDA graphs."""
    plain, compiled = agent(bc_weight=1.0), agent(bc_weight=1.0, compile=True)
    for sac in (plain, compiled):
        for seed in range(3):
            data = batch(seed=seed)
            sac.update(lambda data=data: data, 2)  # type: ignore[misc]
    mine, theirs = plain.state_dict()[0], compiled.state_dict()[0]
    for name, tensor in mine.items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-3, atol=1e-5)
