"""A processor's instruction set changes nothing of a result: a dataset has the same bytes whoever makes it."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from marks import needs_extension
from ops_oracles import MODES, bits, ragged

from robocache.ops import resample_trajectories

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
OUT = (*DTYPES, torch.float8_e4m3fn, torch.float8_e5m2, torch.int8)


def digest() -> str:
    """Of results of every mode, dtype and kind of width, from samples that also hold infinities and both NaN."""
    total = hashlib.sha256()
    for seed, (mode, dtype) in enumerate(itertools.product(MODES, DTYPES)):
        for width, hurt in ((7, True), (33, False)):
            r = ragged(seed, mode, lengths=(90, 1, 0, 2, 33), targets=(60, 4, 3, 0, 70), dtype=dtype, width=width)
            if hurt:
                holes = torch.rand(r.values.shape, generator=torch.Generator().manual_seed(seed))
                odd = torch.tensor([float("inf"), -float("inf"), float("nan"), -float("nan")]).to(dtype)
                for k, value in enumerate(odd):
                    r.values[(holes > k * 0.01) & (holes < k * 0.01 + 0.005)] = value
            for out_dtype in OUT if width == 7 else (dtype,):
                for period in (None, 360.0) if mode in ("angle", "mean") else (None,):
                    for x in resample_trajectories(
                        **r.arguments(), mode=mode, out_dtype=out_dtype, period=period, return_valid=True
                    ):
                        total.update(bits(x).numpy().tobytes())
    return total.hexdigest()


SCRIPT = """
import sys, torch
sys.path[:0] = {folders!r}
from test_instruction_sets import digest
print(torch.ops.robocache.instruction_set(), digest())
"""


@needs_extension
def test_every_instruction_set_gives_the_same_bytes():
    names = ("baseline", "avx2", "avx512")
    best = names.index(torch.ops.robocache.instruction_set())
    if best == 0:
        pytest.skip("this processor has the baseline alone")
    folders = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    answers = {names[best]: digest()}
    for name in names[:best]:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(folders=folders)],
            env={**os.environ, "ROBOCACHE_ISA": name},
            capture_output=True,
            text=True,
            check=True,
        )
        used, answers[name] = done.stdout.split()
        assert used == name
    assert len(set(answers.values())) == 1, answers
