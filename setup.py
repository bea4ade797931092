"""Builds robocache/_C: the CPU kernels always, the CUDA kernels where nvcc and a CUDA torch are there.

Build against the installed torch: ``pip install --no-build-isolation .``
"""

import os
from pathlib import Path

import torch
from setuptools import setup
from torch.utils import cpp_extension

# The kernels' promise of equal bits on host and device rests on these: no contraction, no relaxed math.
HOST_FLAGS = ["-std=c++20", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fvisibility=hidden"]
# ROBOCACHE_NVCC_FLAGS adds to them: benchmarks/ablations.py builds its variants so.
DEVICE_FLAGS = ["-std=c++20", "-O3", "-fmad=false", "--threads=2", *os.environ.get("ROBOCACHE_NVCC_FLAGS", "").split()]
ARCHITECTURES = ("80", "86", "89", "90", "100", "120")


def architectures() -> list[str]:
    """Machine code for each card from one intermediate code, that of the oldest: the kernels use nothing newer, and it
    halves the build. That code itself is kept for cards to come. ROBOCACHE_CUDA_ARCH=90 builds for one card.
    """
    wanted = os.environ.get("ROBOCACHE_CUDA_ARCH", ",".join(ARCHITECTURES)).split(",")
    codes = [*(f"sm_{a}" for a in wanted), "compute_80"]
    return [f"-gencode=arch=compute_80,code={code}" for code in codes]


def extension():
    sources = ["kernels/bindings.cpp", "kernels/python.cpp", *sorted(str(p) for p in Path("kernels/cpu").glob("*.cpp"))]
    # setuptools looks at these to see what to rebuild; the compiler is given the folders.
    headers = sorted(str(p) for p in Path("kernels").rglob("*") if p.suffix in (".h", ".cuh"))
    common = {"include_dirs": [str(Path("kernels").resolve()), str(Path("kernels/include").resolve())]}
    if torch.version.cuda is not None and cpp_extension.CUDA_HOME is not None:
        return cpp_extension.CUDAExtension(
            "robocache._C",
            [*sources, *sorted(str(p) for p in Path("kernels/cuda").glob("*.cu"))],
            depends=headers,
            define_macros=[("ROBOCACHE_CUDA", "1")],
            extra_compile_args={"cxx": HOST_FLAGS, "nvcc": [*DEVICE_FLAGS, *architectures()]},
            **common,
        )
    return cpp_extension.CppExtension("robocache._C", sources, depends=headers, extra_compile_args=HOST_FLAGS, **common)


setup(ext_modules=[extension()], cmdclass={"build_ext": cpp_extension.BuildExtension})
