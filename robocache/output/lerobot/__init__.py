"""A version of an output as a LeRobot dataset: the tree in ``data/``, ``meta/`` and ``videos/`` of the output's folder.

The parts of the version are the truth and stay where they are; the tree is made of them as a run ends
(``docs/lerobot.md``). Layout and field names: github.com/huggingface/lerobot, ``src/lerobot/datasets``.
"""
