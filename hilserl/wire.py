"""The wire between actors and learner: what the rest of the program needs of it.

Only the modules called hilserl/wire*.py import grpc.
"""

from hilserl.wire_channel import EpisodeRefused, JoinRefused, LearnerUnreachable, PortBusy, WireError
from hilserl.wire_client import ActorLink, LearnerStatus, learner_status, send_command
from hilserl.wire_codec import PROTOCOL_VERSION, Command, Difference
from hilserl.wire_server import LearnerService

__all__ = [
    "PROTOCOL_VERSION",
    "ActorLink",
    "Command",
    "Difference",
    "EpisodeRefused",
    "JoinRefused",
    "LearnerService",
    "LearnerStatus",
    "LearnerUnreachable",
    "PortBusy",
    "WireError",
    "learner_status",
    "send_command",
]
