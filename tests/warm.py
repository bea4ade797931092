"""What the fork server of process_kit imports before it forks: what a command would, and like it without pandas."""

import sys

import robocache.cli.__main__

sys.meta_path.insert(0, robocache.cli.__main__._NoPandas())
for name in ("cli.inspect", "cli.plan", "cli.progress", "cli.run", "cli.verify", "engine.local"):
    __import__(f"robocache.{name}")
