"""Builds robocache/_C, the CPU kernels always, the CUDA kernels where nvcc and a CUDA torch are there, and
robocache/_decode, which is plain C++.

Build against the installed torch: ``pip install --no-build-isolation .``
"""

import os
import re
from collections import defaultdict
from pathlib import Path

import torch
from setuptools import Extension, setup
from torch.utils import cpp_extension

# The kernels' promise of equal bits on host and device rests on these: no contraction, no relaxed math.
# No debug information, which Python's own flags ask for: it is most of the file and a third of the time.
HOST_FLAGS = ["-std=c++20", "-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
HOST_FLAGS += ["-fvisibility=hidden"]
# ROBOCACHE_NVCC_FLAGS adds to them: benchmarks/ablations.py builds its variants so.
DEVICE_FLAGS = ["-std=c++20", "-O3", "-fmad=false", "--threads=2", *os.environ.get("ROBOCACHE_NVCC_FLAGS", "").split()]
ARCHITECTURES = ("80", "86", "89", "90", "100", "120")
KERNELS = Path("kernels")
DECODE = KERNELS / "decode"


def architectures(source: str) -> tuple[str, ...]:
    """nvcc's flags for the cards that a CUDA source is compiled for.

    ``NAME_smXY.cu`` holds instructions of that one generation and is compiled for it alone. The others use nothing
    newer than the oldest card has: machine code for each card from one intermediate code, which halves the build, and
    that code itself for cards to come. Those of ``align`` have a second one from Hopper on, where a kernel may overlap
    with the one before it. ROBOCACHE_CUDA_ARCH=90 builds them for one card.
    """
    if special := re.search(r"_sm(\d+)\.cu$", source):
        return (f"-gencode=arch=compute_{special[1]}a,code=sm_{special[1]}a",)
    wanted = [int(a) for a in os.environ.get("ROBOCACHE_CUDA_ARCH", ",".join(ARCHITECTURES)).split(",")]
    virtual = {a: 90 if a >= 90 and "align" in Path(source).parts else 80 for a in wanted}
    latest = max(virtual.values())
    codes = [*((virtual[a], f"sm_{a}") for a in wanted), (latest, f"compute_{latest}")]
    return tuple(f"-gencode=arch=compute_{v},code={code}" for v, code in codes)


def files(*suffixes: str) -> list[str]:
    return sorted(str(p) for p in KERNELS.rglob("*") if p.suffix in suffixes and DECODE not in p.parents)


def decoder() -> Extension:
    return Extension(
        "robocache._decode",
        sorted(map(str, DECODE.glob("*.cpp"))),
        include_dirs=[str(KERNELS.resolve())],
        depends=sorted(map(str, DECODE.glob("*.h"))),
        extra_compile_args=["-std=c++20", "-O3", "-Wall", "-Wextra", "-fvisibility=hidden"],
        language="c++",
    )


def kernels():
    options = {
        "include_dirs": [str(KERNELS.resolve()), str((KERNELS / "include").resolve())],
        "depends": files(".h", ".cuh", ".cu"),  # setuptools looks at these to see what to rebuild
    }
    if torch.version.cuda is not None and cpp_extension.CUDA_HOME is not None:
        return cpp_extension.CUDAExtension(
            "robocache._C",
            files(".cpp", ".cu"),
            define_macros=[("ROBOCACHE_CUDA", "1")],
            extra_compile_args={"cxx": HOST_FLAGS, "nvcc": DEVICE_FLAGS},
            **options,
        )
    return cpp_extension.CppExtension("robocache._C", files(".cpp"), extra_compile_args=HOST_FLAGS, **options)


class Build(cpp_extension.BuildExtension):
    """Compiles the CUDA sources first, those with the same cards together, and links them in as objects."""

    def build_extension(self, ext):
        groups = defaultdict(list)
        for source in [s for s in ext.sources if s.endswith(".cu")]:
            groups[architectures(source)].append(source)
            ext.sources.remove(source)
        for number, (flags, sources) in enumerate(groups.items()):
            ext.extra_objects += self.compiler.compile(
                sources,
                output_dir=str(Path(self.build_temp, f"cuda{number}")),
                macros=ext.define_macros,
                include_dirs=ext.include_dirs,
                depends=ext.depends,
                extra_postargs={**ext.extra_compile_args, "nvcc": [*ext.extra_compile_args["nvcc"], *flags]},
            )
        super().build_extension(ext)


setup(ext_modules=[decoder(), kernels()], cmdclass={"build_ext": Build})
