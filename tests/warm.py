"""What the fork server of process_kit imports before it forks: what a command would, and like it without pandas."""

import robocache.cli.__main__
import robocache.threads

robocache.threads.without_pandas()
for name in ("cli.inspect", "cli.plan", "cli.progress", "cli.run", "cli.verify", "engine.local"):
    __import__(f"robocache.{name}")
