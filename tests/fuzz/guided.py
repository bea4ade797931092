"""Inputs that reach code which none has reached: ``python -m tests.fuzz.guided --seconds 600 --format mcap``.

libFuzzer, through atheris (``pip install 'robocache[fuzz]'``), changes the sound files of :mod:`corpus`, and keeps what
leads further into the readers. What ends otherwise than with an answer or a refusal is kept below ``--keep``.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS.parent), *(str(TESTS / name) for name in ("fuzz", "formats", "engine", "clouds", "config"))]
sys.path.insert(0, str(TESTS))


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["robocache.formats", "robocache.clouds", "robocache.config"]):
        import corpus
        import fuzz_kit

        import robocache.formats  # noqa: F401

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.guided", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, default=-1)
    parser.add_argument("--format", choices=list(corpus.WRITERS), default="mcap")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"))
    args = parser.parse_args()
    logging.getLogger("robocache").setLevel(logging.ERROR)

    work = Path(tempfile.mkdtemp(prefix="robocache-fuzz-"))
    made = [seed for seed in corpus.seeds(work / "seeds", args.format, real=True) if seed.root.is_file()]
    if not made:
        sys.exit(f"{args.format} is a folder of several files; python -m tests.fuzz makes mutants of these")
    (work / "corpus").mkdir()
    for k, seed in enumerate(made):
        (work / "corpus" / f"{k}{seed.root.suffix}").write_bytes(seed.root.read_bytes())
    target = work / f"input{made[0].root.suffix}"
    call = fuzz_kit.call_of(made[0], target)

    def one(data: bytes) -> None:
        target.write_bytes(data)
        with contextlib.suppress(OSError, MemoryError):  # these a run tries again
            call()

    args.keep.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={args.seconds}", f"-runs={args.runs}", f"-seed={args.seed}", "-timeout=30",
               "-rss_limit_mb=2048", "-max_len=65536", f"-artifact_prefix={args.keep}/"]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(work / "corpus")], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
