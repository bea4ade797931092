"""Gradients by the values: those of an independent formula, or an error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from marks import needs_cuda, needs_extension
from ops_oracles import align_row, assert_same_bits, dense, ragged

from robocache.ops import StreamSpec, fuse_multimodal, resample_trajectories

DIFFERENTIABLE = ("linear", "nearest", "previous", "next", "mean")
REFUSED = ("cubic", "slerp", "pose", "angle")

pytestmark = needs_extension


def jacobian(mode, times, targets):
    """How each target depends on each sample ``[T, n]``: what NumPy's alignment makes of unit vectors."""
    columns = np.eye(len(times))
    return align_row(mode, times, columns, targets)[0]


@pytest.mark.parametrize("mode", DIFFERENTIABLE)
@pytest.mark.parametrize("time_dtype", ["int64", "float64", "float32"])
def test_the_gradient_is_the_transposed_alignment(mode, time_dtype):
    lengths, targets = (60, 1, 0, 2, 33), (50, 4, 3, 0, 40)
    r = ragged(8, mode, lengths=lengths, targets=targets, time_dtype=time_dtype, dtype=torch.float64)
    values = r.values.clone().requires_grad_()
    out = resample_trajectories(values, **{k: v for k, v in r.arguments().items() if k != "source_data"}, mode=mode)
    upstream = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    upstream[out.isnan()] = 0
    (found,) = torch.autograd.grad(out, values, upstream)
    expected = torch.zeros_like(values)
    for b in range(len(lengths)):
        s, t = slice(*r.offsets[b : b + 2].tolist()), slice(*r.target_offsets[b : b + 2].tolist())
        if lengths[b] and targets[b]:
            # the last of equal stamps counts: align_row() leaves out the others' columns, which are 0
            weights = torch.from_numpy(jacobian(mode, r.times[s].numpy(), r.targets[t].numpy()))
            expected[s] = weights.T @ upstream[t]
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", DIFFERENTIABLE)
def test_gradcheck(mode):
    values, times, targets = dense(3, 2, 12, 9, mode)
    values = values.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: resample_trajectories(x, times, targets, mode=mode), values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_narrow_values_get_gradients_of_their_dtype(dtype):
    values, times, targets = dense(4, 3, 40, 50)
    wide = values.to(dtype).double().requires_grad_()
    narrow = values.to(dtype).requires_grad_()
    resample_trajectories(wide, times, targets).sum().backward()
    resample_trajectories(narrow, times, targets, out_dtype=torch.float32).sum().backward()
    assert narrow.grad.dtype == dtype
    assert torch.allclose(narrow.grad.double(), wide.grad, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_each_stream_gets_its_own_and_the_others_none():
    values, times, targets = dense(5, 2, 30, 20)
    first, second = values.clone().requires_grad_(), values.clone()
    last = values.clone().requires_grad_()
    fused, valid = fuse_multimodal(
        [StreamSpec(first, times), StreamSpec(second, times, "cubic"), StreamSpec(last, times, "previous", offset=5)],
        targets,
    )
    assert not valid.requires_grad
    fused[..., 6:].sum().backward()
    assert first.grad.eq(0).all()
    assert second.grad is None
    assert float(last.grad.sum()) == targets.numel() * 3


def test_only_what_is_asked_for_is_computed():
    values, times, targets = dense(6, 2, 30, 20)
    a, b = values.clone().requires_grad_(), values.clone().requires_grad_()
    fused, _ = fuse_multimodal([StreamSpec(a, times), StreamSpec(b, times, "nearest")], targets)
    (found,) = torch.autograd.grad(fused.sum(), b)
    assert float(found.sum()) == targets.numel() * 3


def test_the_same_bits_every_time():
    generator = torch.Generator().manual_seed(0)
    times, targets = torch.arange(1000)[None] * 10, torch.arange(30_000)[None] // 3
    upstream = torch.randn(1, 30_000, 2, generator=generator)
    grads = []
    for _ in range(3):
        values = torch.ones(1, 1000, 2).requires_grad_()
        resample_trajectories(values, times, targets).backward(upstream)
        grads.append(values.grad)
    assert_same_bits(grads[1:], grads[:1] * 2)


@pytest.mark.parametrize("mode", REFUSED)
def test_the_other_modes_say_that_they_have_none(mode):
    values, times, targets = dense(1, 2, 20, 10, mode)
    with pytest.raises(RuntimeError, match=r"values\[0\] require a gradient"):
        resample_trajectories(values.requires_grad_(), times, targets, mode=mode)
    assert resample_trajectories(values.detach(), times, targets, mode=mode).grad_fn is None
    with torch.no_grad():
        assert not resample_trajectories(values, times, targets, mode=mode).requires_grad


def test_a_circular_mean_8_bits_and_times_have_none():
    values, times, targets = dense(1, 2, 20, 10)
    values = values.requires_grad_()
    with pytest.raises(RuntimeError, match="require a gradient"):
        resample_trajectories(values, times, targets, mode="mean", period=360)
    with pytest.raises(RuntimeError, match="has no gradient"):
        resample_trajectories(values, times, targets, out_dtype=torch.float8_e4m3fn)
    with pytest.raises(RuntimeError, match="times require a gradient"):
        resample_trajectories(values.detach(), times.double().requires_grad_(), targets.double())


def test_no_transform_gets_a_silent_zero():
    values, times, targets = dense(2, 2, 20, 10)

    def total(x):
        return resample_trajectories(x, times, targets, validate=False).sum()

    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.grad(total)(values)
    with pytest.raises(RuntimeError, match="forward gradient"):
        torch.func.jvp(total, (values,), (torch.ones_like(values),))
    leaf = values.clone().requires_grad_()
    (first,) = torch.autograd.grad(resample_trajectories(leaf, times, targets).pow(2).sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="fuse_backward"):
        first.sum().backward()


def test_a_value_changed_in_place_is_noticed():
    values, times, targets = dense(2, 1, 20, 10)
    times = times.double()
    leaf = values.clone().requires_grad_()
    out = resample_trajectories(leaf, times, targets.double())
    times += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda])])
def test_compiled_gradients_are_the_eager_ones(device):
    values, times, targets = (x.to(device) for x in dense(5, 4, 30, 20))

    def loss(x):
        return fuse_multimodal([StreamSpec(x, times), StreamSpec(x * 2, times, "mean")], targets)[0].pow(2).sum()

    eager, compiled = values.clone().requires_grad_(), values.clone().requires_grad_()
    loss(eager).backward()
    torch.compile(loss, fullgraph=True, backend="aot_eager")(compiled).backward()
    assert torch.allclose(eager.grad, compiled.grad, rtol=1e-6)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("mode", DIFFERENTIABLE)
def test_cuda_has_the_gradient_of_the_cpu(mode):
    r = ragged(8, mode, lengths=(600, 1, 0, 2, 333), targets=(500, 4, 3, 0, 400))
    grads = []
    for device in ("cpu", "cuda", "cuda"):
        arguments = {name: x.detach().to(device, copy=True) for name, x in r.arguments().items()}
        leaf = arguments.pop("source_data").requires_grad_()
        out = resample_trajectories(leaf, **arguments, mode=mode)
        out.nan_to_num().mul(torch.linspace(-1, 1, out.numel(), device=device).view(out.shape)).sum().backward()
        grads.append(leaf.grad.cpu())
    assert torch.allclose(grads[0], grads[1], rtol=1e-5, atol=1e-6)
    assert_same_bits([grads[1]], [grads[2]])
