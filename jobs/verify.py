"""Prove on a node of the cluster that a config's output is whole; the exit code is that of `robocache verify`.

    ray job submit --working-dir . -- python jobs/verify.py --config configs/cluster.yaml output.uri=/mnt/out

It takes the arguments of jobs/preprocess.py, so that the same line verifies what the other has made.
"""

from __future__ import annotations

import argparse
import sys

from robocache import cli
from robocache.config.load import load_job
from robocache.errors import ConfigError


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", required=True, help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="e.g. output.uri=/mnt/out")
    args = parser.parse_args()
    try:
        output = load_job(args.config, [*args.overrides, "cluster.mode=local"]).output.uri  # needs no workers
    except ConfigError as error:
        print("\n".join(error.problems), file=sys.stderr)
        return cli.USAGE
    return cli.main(["verify", output])


if __name__ == "__main__":
    sys.exit(main())
