"""What both ends of the wire share: errors, limits, keep-alive, and who may talk without encryption."""

from __future__ import annotations

import errno
import hmac
import ipaddress
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc

from hilserl.config import ServiceConfig
from hilserl.spool import MAX_FRAME_BYTES
from hilserl.wire_codec import Difference

DEADLINE_S = 5.0
"""Of every unary call."""
MAX_WEIGHTS_BYTES = 64 * 2**20
SESSION_KEY = "hilserl-session"
TOKEN_KEY = "authorization"

_KEEP_ALIVE = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
SERVER_OPTIONS = [
    *_KEEP_ALIVE,
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.max_receive_message_length", MAX_FRAME_BYTES + 1024),
    ("grpc.max_send_message_length", MAX_WEIGHTS_BYTES),
    # Without this a second learner would share the port and take half of the calls.
    ("grpc.so_reuseport", 0),
]
CLIENT_OPTIONS = [
    *_KEEP_ALIVE,
    ("grpc.max_receive_message_length", MAX_WEIGHTS_BYTES),
    ("grpc.max_send_message_length", MAX_FRAME_BYTES + 1024),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]


class WireError(Exception):
    """Base of every error of the wire."""


class PortBusy(WireError):
    """The learner's port is taken by another program."""


class LearnerUnreachable(WireError):
    """No learner answered in the time given."""


class EpisodeRefused(WireError):
    """The learner refused an episode as malformed: a fault in a program, not in the connection."""


class JoinRefused(WireError):
    """The learner does not take this actor. `differences` lists every field in which they disagree."""

    def __init__(self, differences: Sequence[Difference]) -> None:
        super().__init__("the learner refused this actor:\n" + "\n".join(f"  {d}" for d in differences))
        self.differences = tuple(differences)


def address(config: ServiceConfig) -> str:
    """Return "host:port", with an IPv6 host in brackets."""
    host = config.learner_host
    return f"[{host}]:{config.learner_port}" if ":" in host else f"{host}:{config.learner_port}"


def is_loopback(host: str) -> bool:
    """True when `host` cannot be reached from another machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def server_credentials(config: ServiceConfig) -> Any | None:  # noqa: ANN401 (grpc has no types)
    """Return what the server listens with; None: unencrypted, loopback only."""
    if not _secure(config, {"tls_cert": config.tls_cert, "tls_key": config.tls_key}):
        return None
    return grpc.ssl_server_credentials(
        [(_read("tls_key", config.tls_key), _read("tls_cert", config.tls_cert))]
    )


def open_channel(config: ServiceConfig) -> Any:  # noqa: ANN401
    """Return a channel to the learner; it connects when first used."""
    if not _secure(config, {"tls_cert": config.tls_cert}):
        return grpc.insecure_channel(address(config), CLIENT_OPTIONS)
    credentials = grpc.ssl_channel_credentials(_read("tls_cert", config.tls_cert))
    return grpc.secure_channel(address(config), credentials, CLIENT_OPTIONS)


def token_metadata(config: ServiceConfig) -> tuple[tuple[str, str], ...]:
    """Return the metadata that carries the token; nothing without a token."""
    if not config.token_file:
        return ()
    token = _read("token_file", config.token_file).decode().strip()
    if not token:
        raise WireError(f"service.token_file: {config.token_file} is empty")
    return ((TOKEN_KEY, f"Bearer {token}"),)


def _secure(config: ServiceConfig, files: dict[str, str]) -> bool:
    """Whether to use TLS. Raises WireError where it is needed and something for it is missing."""
    required = files | {"token_file": config.token_file}
    if is_loopback(config.learner_host) and not any(files.values()):
        return False
    missing = [f"service.{key}" for key, path in required.items() if not path]
    if missing:
        raise WireError(
            f"service.learner_host {config.learner_host!r} needs TLS and a token (only loopback does not);"
            f" not set: {', '.join(missing)}"
        )
    return True


def _read(key: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise WireError(f"service.{key}: cannot read {path}: {error.strerror}") from error


class TokenCheck(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Refuses every call that does not carry the token."""

    def __init__(self, expected: str) -> None:
        self._expected = expected.encode()

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:  # noqa: ANN401
        given = str(dict(details.invocation_metadata).get(TOKEN_KEY, "")).encode()
        handler = continuation(details)
        if handler is None or hmac.compare_digest(given, self._expected):
            return handler
        return _refusal(handler)


def _refusal(handler: Any) -> Any:  # noqa: ANN401
    """Return a handler of the same kind that refuses the call."""

    def refuse(request: Any, context: Any) -> Any:  # noqa: ANN401
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong or missing token (service.token_file)")

    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return make(refuse, handler.request_deserializer, handler.response_serializer)


def check_bindable(config: ServiceConfig) -> None:
    """Say why the learner's port cannot be had (grpc does not). Raises PortBusy or WireError."""
    where = f"port {config.learner_port} on {config.learner_host}"
    family = socket.AF_INET6 if ":" in config.learner_host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((config.learner_host, config.learner_port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortBusy(
                f"{where} is in use by another program (another learner?); "
                "stop it, or set service.learner_port to another port for learner and actor"
            ) from error
        reason = f"cannot listen on {where} (service.learner_host, service.learner_port): {error.strerror}"
        raise WireError(reason) from error
