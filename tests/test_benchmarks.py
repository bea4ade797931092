"""The benchmark kit: baselines are right, bytes are counted right, results are compared and reported right."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from marks import needs_cuda, needs_extension

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import bytes_model  # noqa: E402
import cases  # noqa: E402
import checking  # noqa: E402
import documents  # noqa: E402
import gpu_common  # noqa: E402
import latency  # noqa: E402
import occupancy  # noqa: E402
import profile_case  # noqa: E402
import regression  # noqa: E402
import report  # noqa: E402
import roofline  # noqa: E402
from baselines import BASELINES, attention_fusion  # noqa: E402
from cases import Case  # noqa: E402

DENSE = {"batch": 3, "samples": 90, "targets": 40, "dim": 7, "mode": "linear", "seed": 1}
JAGGED = {"samples_per_target": 2, "dim": 5, "mode": "linear", "seed": 2}
SPECS = {
    "dense": ("resample", DENSE),
    "wide": ("resample", {**DENSE, "dim": 130}),
    "jagged": ("resample", {**JAGGED, "jagged": {"episodes": 9, "shortest": 2, "longest": 200}}),
    "one long": ("resample", {**JAGGED, "jagged": {"lengths": [[1, 900], [5, 9]]}}),
    "fused": (
        "fuse",
        {
            "batch": 2,
            "seconds": 2,
            "target_hz": 30,
            "streams": [{"hz": 40, "dim": 16}, {"hz": 100, "dim": 5}, {"hz": 20, "dim": 8}],
            "seed": 4,
        },
    ),
}


def case_of(name: str, dtype: str = "f32", **changes: object) -> Case:
    phase, spec = SPECS[name]
    return Case(phase, "test", dtype, {**spec, **changes})


def check(who: str, case: Case, device: str = "cpu") -> None:
    """Inside the recording, and with targets before and after it."""
    batch = case.build(device)
    call = BASELINES[who].build(batch)
    for shift in (0, -30_000_000, 30_000_000):
        moved = dataclasses.replace(batch, targets=batch.targets + shift)
        assert not checking.wrong(moved, *call(moved)), f"{who}, {case.name}, targets moved by {shift} ns"


# ---- baselines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("name", SPECS)
def test_eager_is_right(name, dtype):
    check("pytorch eager", case_of(name, dtype))


@pytest.mark.parametrize(
    "mode, dim", [("previous", 3), ("next", 3), ("nearest", 3), ("angle", 3), ("slerp", 4), ("pose", 7)]
)
def test_eager_modes_are_right(mode, dim):
    check("pytorch eager", case_of("dense", mode=mode, dim=dim))


@pytest.mark.slow
def test_compiled_is_right():
    check("torch.compile", case_of("jagged"))


@pytest.mark.slow
def test_triton_is_right():
    """In Triton's interpreter, which must be switched on before the import."""
    pytest.importorskip("triton")
    program = (
        "import test_benchmarks as t; [t.check('triton', t.case_of(n, d)) for n in t.SPECS for d in ('f32', 'bf16')]"
    )
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("who", ["pytorch eager", "triton", "cupy"])
def test_right_on_a_gpu(who, name, dtype):
    case = case_of(name, dtype)
    if why := BASELINES[who].unsupported(case, "cuda"):
        pytest.skip(why)
    check(who, case, "cuda")


def test_what_a_baseline_cannot_do_is_said():
    assert "cubic" in BASELINES["pytorch eager"].unsupported(case_of("jagged", mode="cubic"), "cpu")
    assert BASELINES["cupy"].unsupported(case_of("dense"), "cpu")


def test_a_wrong_answer_is_noticed():
    batch = case_of("jagged").build("cpu")
    out, valid = batch.aligned()
    assert not checking.wrong(batch, out, valid)
    last = len(out) - 1
    assert "off by" in checking.wrong(batch, out.index_add(0, torch.tensor([last]), torch.full((1, 5), 1e-3)), valid)
    assert "validity" in checking.wrong(batch, out, valid ^ (torch.arange(len(out)) == last)[:, None])
    assert "off by nan" in checking.wrong(batch, out * math.nan, valid)
    assert "dtype" in checking.wrong(batch, out.double(), valid)


def test_attention_approximates_the_signal():
    """Sharper attention comes nearer to linear alignment of a slow signal."""
    from attention import make

    from robocache.ops import StreamSpec, fuse_multimodal

    samples, targets, truth = make(1, 2.0, "cpu")
    specs = [StreamSpec(x.half(), t) for t, x in samples]
    linear = fuse_multimodal(specs, targets)[0].double()
    sharp, blunt = (
        attention_fusion.AttentionFusion(specs, targets, sharpness, torch.float16)().double() for sharpness in (64, 1)
    )
    inside = slice(5, -5)  # at the ends the bump has one side only
    error = [float((x - truth)[:, inside].square().mean().sqrt()) for x in (linear, sharp, blunt)]
    assert error[0] < error[1] < 0.01 < error[2]


# ---- bytes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["linear", "cubic", "nearest", "previous", "next", "slerp", "pose", "angle"])
@pytest.mark.parametrize("jagged", [False, True])
def test_used_rows_are_those_that_the_output_depends_on(mode, jagged):
    """A NaN in a used row reaches the output, one in another row does not."""
    dim = {"slerp": 4, "pose": 7}.get(mode, 2)
    if jagged:
        case = case_of("one long", jagged={"lengths": [[1, 40], [2, 9]]}, samples_per_target=4, mode=mode, dim=dim)
    else:
        case = case_of("dense", batch=2, samples=40, targets=7, mode=mode, dim=dim)
    batch = case.build("cpu")
    stream = batch.streams[0]
    expected = []
    for row in range(stream.times.numel()):
        values = stream.values.clone()
        values.view(-1, dim)[row] = math.nan
        poisoned = dataclasses.replace(batch, streams=(stream._replace(values=values),))
        out, valid = poisoned.aligned()
        if bool(out.isnan().any()) or not bool(valid.all()):  # a quaternion without direction is marked invalid
            expected.append(row)
    assert bytes_model.used_rows(batch, stream).tolist() == expected


@pytest.mark.parametrize("row_bytes", [1, 8, 12, 28, 32, 52, 100])
@pytest.mark.parametrize("address", [0, 4, 64, 80])
@pytest.mark.parametrize("size", [bytes_model.SECTOR, bytes_model.PIECE])
def test_sectors_and_pieces_are_counted_exactly(row_bytes, address, size):
    rows = torch.unique(torch.randint(0, 300, (60,), generator=torch.Generator().manual_seed(row_bytes)))
    touched = {(address % size + int(r) * row_bytes + k) // size for r in rows for k in range(row_bytes)}
    assert bytes_model.blocks_of(rows, row_bytes, address, size) == len(touched)
    assert bytes_model.blocks_of(rows[:0], row_bytes, address, size) == 0


def test_ideal_bytes_of_a_case_by_hand():
    """Every second sample pair is used: all rows. D = 7 float32."""
    batch = case_of("dense", samples=80, targets=40).build("cpu")
    counted = bytes_model.bytes_of(batch, *batch.aligned())
    assert counted.ideal == 3 * (80 * (28 + 8) + 40 * (8 + 28 + 1))
    assert counted.pieces >= counted.sectors >= counted.ideal


# ---- measuring ------------------------------------------------------------------------------------------------------


def test_everyone_has_their_turns():
    bench = gpu_common.Bench("cpu")
    seen: list[tuple[str, int]] = []

    def broken(_: int) -> None:
        raise RuntimeError("no such kernel")

    calls = {name: lambda k, name=name: seen.append((name, k)) for name in "ab"}
    times, failed = bench.measure({**calls, "c": broken}, [0, 1, 2], 12)
    assert failed == {"c": "RuntimeError: no such kernel"}
    assert {name: len(t.ms) for name, t in times.items()} == {"a": 12, "b": 12}
    assert {k for _, k in seen[6:]} == {0, 1, 2}
    assert [n for n, _ in seen[6:]] != sorted(n for n, _ in seen[6:])  # taken in turns


def test_long_calls_have_fewer_turns():
    schedule = gpu_common._schedule({"short": 0.1, "long": 15.0, "very long": 500.0}, 30)
    assert [schedule.count(name) for name in ("short", "long", "very long")] == [30, 10, 8]
    assert "long" in schedule[-8:]  # to the end


def test_sets_exceed_the_cache():
    cache = gpu_common.cache_bytes("cpu")
    assert gpu_common.sets_needed(10 * cache, "cpu") == 2
    assert gpu_common.sets_needed(cache // 2, "cpu") * (cache // 2) >= 4 * cache
    assert gpu_common.sets_needed(100, "cpu") == gpu_common.SET_LIMIT


@needs_extension
@pytest.mark.parametrize("name", ["dense", "fused"])
def test_the_operator_alone_gives_what_the_call_gives(name):
    case = case_of(name)
    batch = case.build("cpu")
    calls = latency.eager_calls(case, batch)
    out, valid = calls.get("robocache with valid", calls["robocache"])()
    for alone in latency.operator_calls(calls["robocache"]).values():
        assert torch.equal(alone()[0], out)
        assert torch.equal(alone()[1].reshape(valid.shape), valid)


def test_configs_hold_the_shapes_that_must_be_shown():
    names = {(c.phase, c.name, c.dtype) for c in cases.load() if c.spec.get("must_show")}
    for dtype in ("bf16", "f32"):
        for shape in (
            "B1024 S4096 T2048 D128",
            "B4096 S1000 T500 D32",
            "B4096 S4096 T2048 D7",
            "B2048 S4096 T2048 D26",
            "jagged 10000 of 50..20000 D32",
            "jagged 1 of 1000000 + 10000 of 100 D32",
            "B32 S500 T250 D256",
            "B1 S200 T50 D7",
        ):
            assert ("resample", f"{shape} linear", dtype) in names
        assert ("fuse", "B512 30s 400Hz D16 + 1000Hz D8 + 200Hz D8 to 100Hz", dtype) in names
    modes = {mode for c in cases.load(["large"]) for mode in c.modes}
    assert modes == {"linear", "cubic", "nearest", "previous", "next", "mean", "slerp", "pose", "angle"}


def test_profiles_name_one_case_each():
    for name, (size, wanted) in profile_case.PROFILES.items():
        assert len(cases.load([size], wanted)) == 1, name


# ---- results --------------------------------------------------------------------------------------------------------


def result(case: str, median: float, stddev: float = 0.001, **more: str) -> dict[str, str]:
    numbers = {"median_ms": median, "mean_ms": median, "stddev_ms": stddev, "n": 30}
    return {
        "case": case,
        "who": "robocache",
        "status": "ok",
        "device": "X",
        **{k: str(v) for k, v in numbers.items()},
        **more,
    }


def test_regressions_are_found():
    old = [result(name, 1.0) for name in ("same", "slower", "faster", "gone", "noisy")]
    new = [result("same", 1.04), result("slower", 1.06), result("faster", 0.9), result("noisy", 1.2, stddev=1.0)]
    verdicts = {change.key[0]: change.verdict for change in regression.compare(old, new, 0.05)}
    assert verdicts == {"same": "same", "slower": "slower", "faster": "faster", "gone": "missing", "noisy": "same"}
    with pytest.raises(ValueError, match="not comparable"):
        regression.compare(old, [{**new[0], "device": "Y"}], 0.05)


def test_regression_ends_with_a_status(tmp_path, capsys, monkeypatch):
    def run(*rows: dict[str, str]) -> int:
        for name, row in zip(("old", "new"), rows, strict=True):
            with (tmp_path / name).open("w", newline="") as file:
                writer = csv.DictWriter(file, list(row))
                writer.writeheader()
                writer.writerow(row)
        monkeypatch.setattr(sys, "argv", ["regression.py", str(tmp_path / "old"), str(tmp_path / "new")])
        return regression.main()

    assert run(result("a", 1.0), result("a", 1.01)) == 0
    assert run(result("a", 1.0), result("a", 2.0)) == 1
    assert "2.00x" in capsys.readouterr().out
    assert run(result("a", 1.0), result("a", 1.0, device="Y")) == 2


def test_documents_are_what_the_results_say():
    """Whoever changes a result file runs report.py."""
    for path in report.DOCUMENTS:
        text = path.read_text()
        assert documents.filled(text, report.BLOCKS) == text, f"{path}: run `python benchmarks/report.py`"
        marked = documents._BLOCK.findall(text)
        assert marked
        assert {name for _, name, _ in marked} <= set(report.BLOCKS)


def test_only_marked_blocks_are_written(tmp_path):
    path = tmp_path / "doc.md"
    path.write_text("a\n<!-- generated: x -->\nold\n<!-- end -->\nb\n<!-- generated: y -->\nkept\n<!-- end -->\n")
    assert documents.fill(path, {"x": lambda: documents.table(["h", "n"], [["c|d", "1"]])})
    assert "| c/d | 1 |" in path.read_text()
    assert "old" not in path.read_text()
    assert "kept" in path.read_text()
    assert not documents.fill(path, {"x": lambda: documents.table(["h", "n"], [["c|d", "1"]])})


def test_counters_are_read_from_a_raw_page(tmp_path):
    """Units as in Nsight Compute's raw page; read + write over time is the bandwidth."""
    columns = {
        "Kernel Name": ("", "light_kernel<long, float>(Streams)"),
        "gpu__time_duration.sum": ("us", "1,000.5"),
        "dram__bytes_read.sum": ("Gbyte", "2.001"),
        "dram__bytes_write.sum": ("Mbyte", "1000.5"),
        "launch__registers_per_thread": ("register/thread", "64"),
        "lts__t_sector_hit_rate.pct": ("%", "33.3"),
        "smsp__cycles_elapsed.avg.per_second": ("Ghz", "1.5"),
        "smsp__sass_thread_inst_executed_op_fadd_pred_on.sum.per_cycle_elapsed": ("inst/cycle", "100"),
        "smsp__sass_thread_inst_executed_op_fmul_pred_on.sum.per_cycle_elapsed": ("inst/cycle", "0"),
        "smsp__sass_thread_inst_executed_op_ffma_pred_on.sum.per_cycle_elapsed": ("inst/cycle", "50"),
        "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio": ("inst", "9.5"),
        "smsp__average_warps_issue_stalled_selected_per_issue_active.ratio": ("inst", "99"),
        "smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio": ("inst", "0.5"),
    }
    path = tmp_path / "phase1_large.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerows([list(columns), [u for u, _ in columns.values()], [v for _, v in columns.values()]])
    (raw,) = roofline.read_raw(path)
    found = roofline.counters("phase1_large", raw, copy_gb_s=3000.0)
    assert found.time_us == pytest.approx(1000.5)
    assert found.dram_gb_s == pytest.approx(3000.0)
    assert found.share_of_copy == pytest.approx(1.0)
    assert found.gflop_s == pytest.approx(200 * 1.5)
    assert (found.kernel, found.registers, found.l2_hit_percent) == ("light_kernel<long, float>", 64, 33.3)
    assert (found.top_stall, found.top_stall_cycles) == ("long_scoreboard", 9.5)
    assert math.isnan(found.l1_hit_percent)  # not in this file


PTX = """
.visible .entry _ZN9robocache11fuse_kernelIlNS_11device_code8BFloat16ELi0ELi8ELi0EEEvNS0_7StreamsIXT2_EEE(
\t.param .align 8 .b8 _ZN9robocache11fuse_kernelIlE_param_0[1088],
\t.param .align 8 .b8 _ZN9robocache11fuse_kernelIlE_param_1[48]
)
.maxntid 128, 1, 1
.minnctapersm 12
{
}
.visible .entry _ZN9robocache11fuse_kernelIdNS0_3AnyELi1ELi240ELin1EEEvNS0_7StreamsIXT2_EEE(
\t.param .align 8 .b8 _ZN9robocache11fuse_kernelIdE_param_0[30784]
)
.maxntid 128, 1, 1
.minnctapersm 5
{
}
"""
PTXAS = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN9robocache11fuse_kernelIlNS_11device_code8BFloat16ELi0ELi8ELi0EEEvNS0_7StreamsIXT2_EEE' for 'sm_90'
ptxas info    : Function properties for _ZN9robocache11fuse_kernelIlNS_11device_code8BFloat16ELi0ELi8ELi0EEEvNS0_7StreamsIXT2_EEE
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers
ptxas info    : Compile time = 893.568 ms
ptxas info    : Compiling entry function '_ZN9robocache11fuse_kernelIdNS0_3AnyELi1ELi240ELin1EEEvNS0_7StreamsIXT2_EEE' for 'sm_90'
ptxas info    : Function properties for _ZN9robocache11fuse_kernelIdNS0_3AnyELi1ELi240ELin1EEEvNS0_7StreamsIXT2_EEE
    24 bytes stack frame, 16 bytes spill stores, 20 bytes spill loads
ptxas info    : Used 84 registers, used 1 barriers, 512 bytes smem
"""  # noqa: E501


def test_registers_are_read_from_the_compilers_words():
    lean, mixture = occupancy.parse(PTX, PTXAS, "90", "abc")
    assert (lean.time, lean.values, lean.vec, lean.streams, lean.mode) == ("int64", "bf16", 0, 8, "linear")
    assert (lean.registers, lean.launch_bound_blocks, lean.blocks, lean.warps, lean.occupancy) == (40, 12, 12, 48, 0.75)
    assert (lean.static_shared_bytes, lean.stack_bytes, lean.spill_bytes, lean.parameter_bytes) == (0, 0, 0, 1136)
    assert (mixture.time, mixture.values, mixture.vec, mixture.streams) == ("float64", "Any", 1, 240)
    assert mixture.mode == "any"
    assert (mixture.registers, mixture.blocks, mixture.warps) == (84, 5, 20)  # 84 are 88: units of 8 a thread
    assert (mixture.static_shared_bytes, mixture.stack_bytes, mixture.spill_bytes) == (512, 24, 36)
    with pytest.raises(ValueError, match="no fuse_kernel"):
        occupancy.template_arguments("_ZN9robocache11other_kernelEv")


@pytest.mark.parametrize(
    ("values", "name"), [("f", "f32"), ("d", "f64"), ("NS_11device_code4HalfE", "f16"), ("NS0_8AnyFloatE", "AnyFloat")]
)
def test_template_arguments_have_names(values, name):
    mangled = f"_ZN9robocache50_GLOBAL__N__3ee86ba7_11_fuse_i64_cu_bb45c755_3075911fuse_kernelIf{values}Li4ELi8ELi6EEEv"
    assert occupancy.template_arguments(mangled) == ("float32", name, 4, 8, "slerp")


@pytest.mark.parametrize(
    ("registers", "warps", "blocks"),
    [(32, 64, 16), (40, 64, 12), (40, 48, 12), (41, 64, 10), (65, 64, 7), (255, 64, 2)],
)
def test_registers_decide_how_many_blocks_fit(registers, warps, blocks):
    assert occupancy.blocks_by_registers(registers, warps) == blocks


def test_the_occupancy_page_is_what_the_results_say():
    text = occupancy.PAGE.read_text()
    assert {name for _, name, _ in documents._BLOCK.findall(text)} == set(occupancy.BLOCKS)
    assert documents.filled(text, occupancy.BLOCKS) == text, "run `python benchmarks/occupancy.py --tables`"


@pytest.mark.slow
def test_run_all_without_a_gpu(tmp_path, monkeypatch):
    """The CPU half runs, says that it is half, and its results can be reported and compared with themselves."""
    environment = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    command = [str(BENCHMARKS / "run_all.sh"), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no CUDA device: only the CPU half runs" in done.stdout
    for name in ("phase1_trajectory", "phase2_multimodal"):
        (tmp_path / f"cpu_{name}.csv").rename(tmp_path / f"{name}.csv")
    assert not list(tmp_path.glob("latency*"))
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    assert "B1 S200 T50 D7 linear f32" in report.throughput("phase1_trajectory")
    assert "CuPy needs a GPU" not in report.throughput("phase1_trajectory")
    rows = report.results("phase1_trajectory")
    assert {row["who"] for row in rows} == {"robocache", "pytorch eager"}
    assert all(row["status"] == "ok" and float(row["median_ms"]) > 0 and row["commit"] for row in rows)
    assert all(change.verdict == "same" for change in regression.compare(rows, rows, 0.05))
    only_gpu = subprocess.run([*command, "--gpu"], env=environment, capture_output=True, text=True)
    assert only_gpu.returncode == 1


@pytest.mark.parametrize("script", ["benchmarks/run_all.sh", "scripts/profile_ncu.sh"])
def test_scripts_parse_and_can_be_run(script):
    assert subprocess.run(["bash", "-n", ROOT / script]).returncode == 0
    assert os.access(ROOT / script, os.X_OK)
