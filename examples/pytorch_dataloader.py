"""Train a small behaviour-cloning policy on a dataset that `robocache run` made; stop half way, and go on.

    python examples/pytorch_dataloader.py [out/demo] [--steps 300] [--batch-size 256] [--checkpoint policy.pt]
                                          [--state observation.state] [--action action]

After `make demo` it takes the demo's output: 16 rows of joint states to the next 50 commands. The last episode is kept
for validation. A dataset of yours has its features where you say.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from robocache import Dataset, Output
from robocache.errors import OutputError

HISTORY, CHUNK = 16, 50
STATE, ACTION = "observation.state", "action"


def windows(uri: str, *, validation: bool) -> Dataset:
    """The windows of the last episode, or of all others."""
    last = Output.open(uri).episodes["episode_index"][-1].as_py()
    return Dataset(
        uri,
        columns=[STATE, ACTION],
        delta_steps={STATE: range(1 - HISTORY, 1), ACTION: range(CHUNK)},
        normalize={STATE: "mean_std", ACTION: "mean_std"},
        fill=0.0,
        episodes=lambda episode: (episode["episode_index"] == last) == validation,
    )


class Policy(nn.Module):
    """``[B, HISTORY, state]`` to ``[B, CHUNK, action]``, linearly: seven episodes are few, and a larger one would learn
    them by heart.
    """

    def __init__(self, state: int, action: int):
        super().__init__()
        self.action = action
        self.layer = nn.Linear(HISTORY * state, CHUNK * action)

    def forward(self, state: Tensor) -> Tensor:
        return self.layer(state.flatten(1)).view(-1, CHUNK, self.action)


def loss_of(policy: Policy, batch: dict[str, Tensor]) -> Tensor:
    """Mean squared error where there is a command: not behind the episode's end, not in a gap."""
    found = policy(batch[STATE])  # a feature of one number has no axis for it: [B, CHUNK]
    error = (found - batch[ACTION].view_as(found)).square().mean(dim=2)
    there = batch[f"{ACTION}.valid"]
    return (error * there).sum() / there.sum().clamp(min=1)


class Training:
    """All that a run is made of, and what it goes on from."""

    def __init__(self, data: Dataset, batch_size: int):
        item = data[0]
        torch.manual_seed(0)
        self.policy = Policy(item[STATE].numel() // HISTORY, item[ACTION].numel() // CHUNK)
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=3e-3)
        self.batches = data.batches(batch_size, seed=0)
        self.step = 0

    def run(self, steps: int) -> None:
        """To that step, over as many epochs as it takes."""
        began, first, rows, losses = time.perf_counter(), self.step, 0, []
        while self.step < steps:
            for batch in self.batches:
                loss = loss_of(self.policy, batch)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.step += 1
                rows += len(batch[STATE])
                losses.append(loss.item())
                if self.step % 50 == 0 or self.step == steps:
                    mean = sum(losses) / len(losses)
                    rate = rows / (time.perf_counter() - began)
                    print(f"step {self.step:4d}  epoch {self.batches.epoch}  loss {mean:.4f}  {rate:,.0f} windows/s")
                    losses = []
                if self.step == steps:
                    break
        if self.step == first:
            print(f"step {self.step} is done")

    def save(self, path: Path) -> None:
        states = {"policy": self.policy, "optimizer": self.optimizer, "batches": self.batches}
        torch.save({name: of.state_dict() for name, of in states.items()} | {"step": self.step}, path)

    def load(self, path: Path) -> None:
        found = torch.load(path, weights_only=True)
        self.policy.load_state_dict(found["policy"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.batches.load_state_dict(found["batches"])
        self.step = found["step"]


def main(argv: list[str] | None = None) -> int:
    global STATE, ACTION
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("uri", nargs="?", default="out/demo", help="an output of robocache run")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--checkpoint", type=Path, default=Path("policy.pt"))
    parser.add_argument("--state", default=STATE, help="the feature that the policy sees")
    parser.add_argument("--action", default=ACTION, help="the feature that it shall give")
    args = parser.parse_args(argv)
    STATE, ACTION = args.state, args.action
    try:
        data, held_out = windows(args.uri, validation=False), windows(args.uri, validation=True)
    except OutputError as error:
        print(f"{error}; `make demo` makes out/demo", file=sys.stderr)
        return 1
    except ValueError as error:  # no such feature, or a single episode
        print(f"{error}; --state and --action name others", file=sys.stderr)
        return 1
    began, count = time.perf_counter(), 0
    for batch in data.batches(args.batch_size):
        count += len(batch[STATE])
    print(f"{len(data):,} windows; the loader alone: {count / (time.perf_counter() - began):,.0f} windows/s")

    training = Training(data, args.batch_size)
    training.run(args.steps // 2)
    training.save(args.checkpoint)
    print(f"stopped; {args.checkpoint} has the policy and the place in the epoch")
    del training

    training = Training(data, args.batch_size)
    training.load(args.checkpoint)
    print(f"goes on at step {training.step}, with the windows that would have come next")
    training.run(args.steps)

    batch = held_out.__getitems__(range(len(held_out))).tensors
    with torch.no_grad():
        found = float(loss_of(training.policy, batch))
        nothing = float(loss_of(training.policy, batch | {STATE: torch.zeros_like(batch[STATE])}))
    print(f"validation, an episode that it has not seen: {found:.4f} (without looking at the state: {nothing:.4f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
