"""What the operators take: arrays of both kinds, numbers that mean the same in any type, and what they refuse."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from marks import needs_extension
from ops_oracles import IMPLEMENTATIONS, PUBLIC, assert_same_bits, dense, ragged

from robocache.ops import StreamSpec, fuse_multimodal, resample_trajectories

each_implementation = pytest.mark.parametrize("impl", IMPLEMENTATIONS)
MS = 1_000_000


# ---- numbers --------------------------------------------------------------------------------------------------------


@each_implementation
@pytest.mark.parametrize("number", [1.5, np.float32(1.5), np.float64(1.5), np.array(1.5), torch.tensor(1.5)], ids=repr)
def test_any_kind_of_number_is_that_number(impl, number):
    times, targets = (
        torch.tensor([[0.0, 1.5, 10.0]], dtype=torch.float64),
        torch.tensor([[1.0, 5.0]], dtype=torch.float64),
    )
    values = torch.tensor([[[0.0], [3.0], [20.0]]])
    spec = StreamSpec(values, times, max_gap=number)
    assert impl.fuse([spec], targets)[1].flatten().tolist() == [True, False]
    moved = impl.fuse([StreamSpec(values, times, offset=number)], targets + 1.5)[0]
    assert_same_bits([moved], [impl.fuse([StreamSpec(values, times)], targets)[0]])


@each_implementation
@pytest.mark.parametrize("kind", [int, float, np.int32, np.uint64, np.float32, np.float64, np.array, torch.tensor])
def test_whole_numbers_of_any_kind_are_nanoseconds(impl, kind):
    times, targets = torch.arange(5)[None] * 10, torch.tensor([[5, 15, 60]])
    values = torch.arange(5.0)[None, :, None]
    fused, valid = impl.fuse([StreamSpec(values, times, max_gap=kind(10), offset=kind(5))], targets)
    assert fused.flatten().tolist() == [0.0, 1.0, 4.0]
    assert valid.flatten().tolist() == [True, True, False]


@pytest.mark.parametrize("number", [0.05, np.float32(0.5), np.array(0.25), 1e-9])
@pytest.mark.parametrize("what", ["max_gap", "offset"])
def test_a_fraction_of_a_nanosecond_is_seconds_by_mistake(what, number):
    times = torch.arange(5)[None] * 10 * MS
    stream = StreamSpec(torch.ones(1, 5, 1), times)._replace(**{what: number})
    nanoseconds = round(float(number) * 1e9)
    with pytest.raises(ValueError, match=rf"streams\[0\]\.{what} is .*int64.*{nanoseconds} nanoseconds"):
        fuse_multimodal([stream], times)


@pytest.mark.parametrize("time_dtype", [torch.int64, torch.float64])
@pytest.mark.parametrize("number", [float("inf"), float("nan"), -float("inf")])
@pytest.mark.parametrize("what", ["max_gap", "offset"])
def test_numbers_that_are_not_finite_are_refused(what, number, time_dtype):
    times = torch.arange(5, dtype=time_dtype)[None]
    stream = StreamSpec(torch.ones(1, 5, 1), times)._replace(**{what: number})
    with pytest.raises(ValueError, match=rf"streams\[0\]\.{what} is .*finite"):
        fuse_multimodal([stream], times)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 1e30])
def test_numbers_beyond_int64_are_refused(number):
    times = torch.arange(5)[None]
    with pytest.raises(ValueError, match=r"offset is .* than int64"):
        fuse_multimodal([StreamSpec(torch.ones(1, 5, 1), times, offset=number)], times)


@pytest.mark.parametrize("what", ["max_gap", "offset"])
def test_text_is_no_number(what):
    times = torch.arange(5)[None]
    with pytest.raises(TypeError, match=f"{what} is '5 ms'; use a number"):
        fuse_multimodal([StreamSpec(torch.ones(1, 5, 1), times)._replace(**{what: "5 ms"})], times)


@needs_extension
@pytest.mark.parametrize(("max_gap", "shift"), [(0.05, 0), (-1, 0.5)])
def test_the_operator_itself_refuses_fractions(max_gap, shift):
    times = torch.arange(5)[None]
    with pytest.raises((ValueError, RuntimeError), match="whole number"):
        torch.ops.robocache.fuse(
            [torch.ones(1, 5, 1)], [times], [None], [0], [max_gap], [shift], [0], times, None, torch.float32, None
        )


# ---- arrays ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_numpy_arrays_are_taken_as_they_are(dtype):
    r = ragged(3, dtype=torch.from_numpy(np.zeros(1, dtype)).dtype)
    arguments = {name: x.numpy() for name, x in r.arguments().items()}
    for x in arguments.values():
        x.flags.writeable = False  # an Arrow buffer, a memory map
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = resample_trajectories(**arguments, return_valid=True)
    assert_same_bits(found, resample_trajectories(**r.arguments(), return_valid=True))


def test_numpy_memory_is_not_copied():
    from robocache.ops.align import to_arguments

    values, times = np.ones((1, 50, 3), np.float32), np.arange(50)[None]
    arguments = to_arguments([StreamSpec(values, times)], times, None, None, None)
    assert arguments.values[0].data_ptr() == values.ctypes.data
    assert arguments.times[0].data_ptr() == arguments.targets.data_ptr() == times.ctypes.data


def test_numpy_stamps_backwards_and_swapped():
    values, times, targets = (x.numpy() for x in dense(2, 2, 40, 30))
    expected = resample_trajectories(values, times, targets)
    assert_same_bits([resample_trajectories(values[:, ::-1].copy()[:, ::-1], times, targets)], [expected])
    assert_same_bits([resample_trajectories(values.astype(">f4"), times, targets)], [expected])
    assert_same_bits(
        [resample_trajectories(values, times.view("datetime64[ns]"), targets.view("datetime64[ns]"))], [expected]
    )
    with pytest.raises(TypeError, match=r"datetime64\[us\].*datetime64\[ns\]"):
        resample_trajectories(values, times.view("datetime64[us]"), targets)


@pytest.mark.parametrize("place", ["values", "times", "offsets", "target_times", "target_offsets"])
@pytest.mark.parametrize("thing", [[1, 2], (3.0,), "text", 5])
def test_what_is_no_array_is_a_type_error(place, thing):
    r = ragged(1)
    stream = StreamSpec(r.values, r.times, offsets=r.offsets)
    options = {"target_times": r.targets, "target_offsets": r.target_offsets}
    if place in options:
        options[place] = thing
    else:
        stream = stream._replace(**{place: thing})
    with pytest.raises(TypeError, match=rf"{place} is .*{type(thing).__name__}; use a torch tensor or a NumPy array"):
        fuse_multimodal([stream], **options)


@pytest.mark.parametrize("values", [torch.tensor(1.0), torch.ones(5)], ids=["0-d", "1-d"])
def test_values_without_columns_are_refused(values):
    with pytest.raises(ValueError, match="values"):
        resample_trajectories(values, torch.arange(5)[None], torch.arange(5)[None])


def test_meta_tensors_have_shapes(caplog):
    values, times, targets = (x.to("meta") for x in dense(1, 4, 30, 20))
    out, valid = resample_trajectories(values, times, targets, return_valid=True)
    assert (out.shape, out.dtype, valid.shape) == ((4, 20, 3), torch.float32, (4, 20))
    assert not caplog.records


# ---- strided offsets ------------------------------------------------------------------------------------------------


@each_implementation
def test_offsets_of_any_stride(impl):
    r = ragged(4, lengths=(5, 0, 7), targets=(3, 2, 4))
    table = torch.stack([r.offsets, torch.tensor([9, 9, 9, 9])], dim=1)
    wanted = torch.stack([torch.tensor([7, 7, 7, 7]), r.target_offsets], dim=1)
    arguments = {**r.arguments(), "source_offsets": table[:, 0], "target_offsets": wanted[:, 1]}
    assert_same_bits(impl.resample(**arguments, return_valid=True), impl.resample(**r.arguments(), return_valid=True))


@pytest.mark.parametrize("size", [1, 3])
def test_expanded_offsets_are_no_offsets_but_of_nothing(size):
    offsets = torch.zeros(1, dtype=torch.int64).expand(size)
    empty = torch.empty(0, dtype=torch.int64)
    out = resample_trajectories(torch.empty(0, 2), empty, empty, source_offsets=offsets, target_offsets=offsets)
    assert out.shape == (0, 2)


def test_a_strided_split_does_not_hide_unsorted_stamps():
    offsets = torch.tensor([[0, 0], [2, 3], [5, 5]])[:, 1]  # read as contiguous: 0, 0, 2
    times = torch.tensor([0, 10, 5, 0, 10])
    with pytest.raises(ValueError, match="row 0 is not sorted"):
        resample_trajectories(torch.ones(5, 1), times, torch.tensor([[1], [1]]), source_offsets=offsets)


# ---- float32 times --------------------------------------------------------------------------------------------------

UNIX = 1_790_000_000.0


@pytest.mark.parametrize("place", ["times", "target_times"])
def test_float32_times_that_collapse_are_refused(place):
    good, today = torch.arange(60.0)[None] / 30, (UNIX + torch.arange(60, dtype=torch.float64)[None] / 30).float()
    arrays = {"times": good, "target_times": good, place: today}
    with pytest.raises(ValueError, match=rf"{place}: row 0 has 59 times equal.*steps of 128 .*int64 nanoseconds"):
        fuse_multimodal([StreamSpec(torch.ones(1, 60, 1), arrays["times"])], arrays["target_times"])


def test_float32_times_that_half_collapse_name_their_row():
    fine = torch.arange(2000.0) / 1000
    coarse = (20_000 + torch.arange(2000, dtype=torch.float64) / 1000).float()  # 2^-9 s apart: two stamps in one
    times = torch.cat([fine, coarse])
    offsets = torch.tensor([0, 2000, 4000])
    with pytest.raises(ValueError, match=r"row 1 has \d+ times equal"):
        fuse_multimodal([StreamSpec(torch.ones(4000, 1), times, offsets=offsets)], torch.zeros(2, 1))


@pytest.mark.parametrize(
    "row",
    [[0.0] * 5, [5.0, 5.0], [5.0] * 6, [0.0, 0.5, 0.5, 1.0], [1e6, 1e6, 1e6 + 1], [-3.0, -3.0, 0.0]],
    ids=str,
)
def test_float32_times_that_merely_repeat_are_times(row):
    times = torch.tensor([row])
    assert resample_trajectories(torch.ones(1, len(row), 1), times, times).eq(1).all()


def test_float64_and_unchecked_times_are_not_asked():
    today = UNIX + torch.arange(60, dtype=torch.float64)[None] / 30
    assert resample_trajectories(torch.ones(1, 60, 1), today, today).eq(1).all()
    resample_trajectories(torch.ones(1, 60, 1), today.float(), today.float(), validate=False)


# ---- shapes before data ---------------------------------------------------------------------------------------------


@needs_extension
@pytest.mark.parametrize(
    "change",
    [
        {"values": torch.ones(2, 49, 3)},
        {"times": torch.zeros(2, 50, 1, dtype=torch.int64)},
        {"times": torch.zeros(2, 50)},
        {"modes": 6},
        {"out_dtype": torch.int32},
        {"targets": torch.zeros(3, 5, dtype=torch.int64)},
        {"scale": torch.ones(3)},
        {"periods": 360.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_fakes_check_what_the_kernels_check(change):
    good = {
        "values": torch.ones(2, 50, 3),
        "times": torch.arange(50).expand(2, -1),
        "modes": 0,
        "periods": 0.0,
        "targets": torch.zeros(2, 5, dtype=torch.int64),
        "out_dtype": torch.float32,
        "scale": None,
    }

    def call(values, times, modes, periods, targets, out_dtype, scale):
        return torch.ops.robocache.fuse(
            [values], [times], [None], [modes], [-1], [0], [periods], targets, None, out_dtype, scale
        )

    def faked(**arguments):
        with torch._subclasses.FakeTensorMode() as mode:
            return call(**{k: mode.from_tensor(x) if isinstance(x, torch.Tensor) else x for k, x in arguments.items()})

    assert [x.shape for x in faked(**good)] == [x.shape for x in call(**good)]
    for ask in (call, faked):
        with pytest.raises((ValueError, RuntimeError)):
            ask(**(good | change))


@needs_extension
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_into_one_graph_with_the_defaults(backend):
    values, times, targets = dense(5, 4, 30, 20)

    def model(values, times, targets):
        fused, valid = fuse_multimodal(
            [StreamSpec(values, times, max_gap=10**7, offset=3), StreamSpec(values, times, "angle")], targets
        )
        narrow = resample_trajectories(values, times, targets, mode="mean", out_dtype=torch.int8, out_scale=0.5)
        return fused * valid.all(dim=-1, keepdim=True), narrow

    compiled = torch.compile(model, fullgraph=True, backend=backend)
    assert_same_bits(compiled(values, times, targets), model(values, times, targets))


def test_public_and_reference_are_asked_alike():
    values, times, targets = dense(7, 2, 30, 20)
    with pytest.raises(ValueError, match="no streams"):
        PUBLIC.fuse([], targets)
    with pytest.raises(ValueError, match="goes round nothing"):
        PUBLIC.resample(values, times, targets, mode="linear", period=360)


# ---- 8-bit values ---------------------------------------------------------------------------------------------------


@each_implementation
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_every_8_bit_number_is_read_as_it_is(impl, dtype):
    codes = torch.arange(256, dtype=torch.uint8).view(dtype)[None, :, None]
    times = torch.arange(256)[None] * MS
    plain = codes.float()
    found = impl.resample(codes, times, times)
    assert found.dtype == torch.float16
    assert torch.equal(found.float().nan_to_num(7.0), impl.resample(plain, times, times).nan_to_num(7.0))
    finite = codes[:, plain[0, :, 0].isfinite()]
    some, between = times[:, : finite.shape[1]], times[:, : finite.shape[1]] + MS // 4
    mean = [impl.resample(v, some, between, out_dtype=torch.float32) for v in (finite, finite.float())]
    assert_same_bits([mean[0]], [mean[1]])


@each_implementation
def test_8_bit_values_come_back_with_the_scale_they_were_stored_with(impl):
    values, times, targets = dense(11, 3, 40, 25, width=6)
    scale = torch.tensor([0.01, 0.02, 0.5, 1.0, 0.03, 0.1])
    targets = torch.arange(25)[None] * MS + times.min()
    codes, _ = impl.fuse([StreamSpec(values, times)], targets.expand(3, -1), out_dtype=torch.int8, out_scale=scale)
    other = StreamSpec(values[..., :2], times)
    fused, valid = impl.fuse([StreamSpec(codes, targets[0], scale=scale), other], targets[0])
    assert fused.dtype == torch.float32 and valid[..., 0].all()
    assert_same_bits([fused[..., :6]], [codes.float() * scale])
    assert_same_bits([impl.resample(codes, targets[0], targets[0], source_scale=0.5)], [codes.float() * 0.5])


@each_implementation
def test_a_scale_that_does_not_fit_is_refused(impl):
    values, times, targets = dense(12, 2, 10, 5, width=4)
    codes = values.to(torch.int8)
    with pytest.raises(ValueError, match=r"streams\[0\].scale is for 8-bit values, not for torch.float32"):
        impl.fuse([StreamSpec(values, times, scale=2.0)], targets)
    with pytest.raises(ValueError, match=r"streams\[0\].scale is \[3\]; use a number, or \[4\]"):
        impl.fuse([StreamSpec(codes, times, scale=torch.ones(3))], targets)
    with pytest.raises(ValueError, match=r"streams\[0\].scale must be above 0 and finite"):
        impl.fuse([StreamSpec(codes, times, scale=-1.0)], targets)
