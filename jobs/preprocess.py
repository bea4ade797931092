"""Run a config on the Ray cluster that this is submitted to; the exit code is that of `robocache run`.

    ray job submit --working-dir . -- python jobs/preprocess.py --config configs/cluster.yaml output.uri=/mnt/out

Input and output are where the nodes see them: URIs such as s3://bucket/run-1, or absolute paths of a shared file
system. Relative paths are refused: the working directory is Ray's copy, which goes with the job.
"""

from __future__ import annotations

import argparse
import sys

from robocache import cli


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", required=True, help="YAML file")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in output.uri")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="e.g. timeline.rate_hz=100")
    args = parser.parse_args()
    options = ["--overwrite"] if args.overwrite else []
    return cli.main(["run", *options, args.config, "cluster.mode=ray", *args.overrides])


if __name__ == "__main__":
    sys.exit(main())
