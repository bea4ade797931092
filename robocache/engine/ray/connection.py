"""The driver's connection to a Ray cluster: to one that runs, with its token, or to one just for this run."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import threading
from collections.abc import Iterator

from robocache.config.job import ClusterSpec
from robocache.errors import ConfigError

_TOKEN = (
    "set RAY_AUTH_MODE=token and put the cluster's token (`ray get-auth-token` on its head says it) in RAY_AUTH_TOKEN, "
    "in a file that RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token"
)


@contextlib.contextmanager
def connected(cluster: ClusterSpec) -> Iterator[None]:
    """Ray, initialised; left as it was where the caller (a test, a notebook) had done so.

    ``ConfigError`` where there is no Ray, no cluster, or no token for it.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError(["cluster.mode: ray, but Ray is not installed; pip install robocache[ray]"]) from None
    if ray.is_initialized():
        yield
        return
    address = cluster.to_join()
    sends_token = os.environ.get("RAY_AUTH_MODE") == "token"
    if address and not sends_token and _wants_token(address):  # Ray itself would try for 20 s, then not say why
        raise ConfigError([f"cluster.address: the Ray cluster at {address} takes a token and was sent none; {_TOKEN}"])
    # Ray takes SIGTERM for itself, but how the program ends is the program's to say.
    in_main = threading.current_thread() is threading.main_thread()
    on_term = signal.getsignal(signal.SIGTERM) if in_main else None
    try:
        ray.init(address=address or "local", logging_level=logging.WARNING)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ConfigError([_why(address, sends_token, error)]) from error
    if on_term is not None:
        signal.signal(signal.SIGTERM, on_term)
    try:
        yield
    finally:
        ray.shutdown()


def _wants_token(address: str) -> bool:
    """True where the cluster at ``host:port`` refuses a call without a token; False where it cannot be asked."""
    import grpc

    if not re.fullmatch(r"[^/]+:\d+", address):  # auto, ray://...
        return False
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")(b"", timeout=5)
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.UNAUTHENTICATED
    return False


def _why(address: str | None, sends_token: bool, error: Exception) -> str:
    if address is None:
        return f"cluster.mode: ray, but no cluster could be started on this machine: {error}"
    if _wants_token(address):
        return f"cluster.address: the Ray cluster at {address} takes another token than this process has; {_TOKEN}"
    hint = "" if sends_token else f", and if it takes a token, {_TOKEN}"
    return f"cluster.address: no Ray cluster at {address} ({error}); start one, or give the address of one{hint}"
