"""A client for a partner's own applications.

`with ProfileClient.on_socket(path) as profiles: profiles.recommend("42")`
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from silhouette_client.serving import profile_pb2 as pb
from silhouette_client.serving import profile_pb2_grpc as pb_grpc
from silhouette_client.serving.service import NoProfileError
from silhouette_shared.errors import IntegrityError, RefusedError, SilhouetteError, UnavailableError, UsageError

_REFUSED = {
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}

_NOT_NOW = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,  # by a service at which more than a thousand new streams wait
}


class ProfileClient:
    """Asks one profile service; thread-safe. Every call has a deadline and raises this project's errors.

    Args:
        channel: Open.
        timeout_seconds: Of each call.
    """

    def __init__(self, channel: grpc.Channel, timeout_seconds: float = 5.0) -> None:
        self._channel, self._timeout = channel, timeout_seconds
        self._stub = pb_grpc.ProfileServiceStub(channel)

    @classmethod
    def on_socket(cls, path: Path, timeout_seconds: float = 5.0) -> Self:
        """Connect to a Unix socket of this very user; one that somebody else put there is refused.

        Raises:
            UnavailableError: If there is none.
            RefusedError: If it belongs to another user, or others may write it.
        """
        try:
            found = path.stat()
        except OSError:
            raise UnavailableError(f"{path}: expected a socket, found none; start `silhouette profile serve`") from None
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise RefusedError(
                f"{path}: expected a socket of this user alone (mode 600), got another; find out who put it there"
            )
        return cls(grpc.insecure_channel(f"unix:{path}"), timeout_seconds)

    @classmethod
    def over_tls(
        cls, address: str, *, authority: bytes, certificate: bytes, key: bytes, timeout_seconds: float = 5.0
    ) -> Self:
        """Connect to `host:port` with a client certificate; all three as PEM."""
        credentials = grpc.ssl_channel_credentials(authority, key, certificate)
        return cls(grpc.secure_channel(address, credentials), timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._channel.close()

    def profile(self, user: str) -> pb.Profile:
        """GetProfile; errors as `call`."""
        return self.call("GetProfile", pb.GetProfileRequest(user=user))  # type: ignore[return-value]

    def profiles(self, users: Sequence[str]) -> list[pb.Profile | None]:
        """BatchGetProfiles; errors as `call`."""
        answer: pb.BatchGetProfilesResponse = self.call(  # type: ignore[assignment]
            "BatchGetProfiles", pb.BatchGetProfilesRequest(users=users)
        )
        return [entry.profile if entry.HasField("profile") else None for entry in answer.entries]

    def recommend(self, user: str, count: int = 0, without: Sequence[str] = ()) -> pb.RecommendResponse:
        """Recommend; errors as `call`."""
        request = pb.RecommendRequest(user=user, count=count, without=without)
        return self.call("Recommend", request)  # type: ignore[return-value]

    def explain(self, user: str) -> pb.ExplainResponse:
        """Explain; errors as `call`."""
        return self.call("Explain", pb.ExplainRequest(user=user))  # type: ignore[return-value]

    def push(self, events: Sequence[pb.Event]) -> pb.PushEventsResponse:
        """PushEvents; errors as `call`. After `UnavailableError` send the same events again: none counts twice."""
        return self.call("PushEvents", pb.PushEventsRequest(events=events))  # type: ignore[return-value]

    def similar_segments(self, user: str, count: int = 0) -> pb.SimilarSegmentsResponse:
        """SimilarSegments; errors as `call`."""
        request = pb.SimilarSegmentsRequest(user=user, count=count)
        return self.call("SimilarSegments", request)  # type: ignore[return-value]

    def erase(self, user: str) -> pb.EraseResponse:
        """Erase; errors as `call`."""
        return self.call("Erase", pb.EraseRequest(user=user))  # type: ignore[return-value]

    def verify(self) -> pb.VerifyResponse:
        """Verify; errors as `call`."""
        return self.call("Verify", pb.VerifyRequest())  # type: ignore[return-value]

    def call(self, method: str, request: object) -> object:
        """Any method of the service by name.

        Raises:
            NoProfileError: If the person has no profile.
            UsageError: If an argument is wrong.
            RefusedError: If the caller may not, or asks too much.
            UnavailableError: If the service cannot be reached or is too slow.
            IntegrityError: If its store was changed.
        """
        try:
            return getattr(self._stub, method)(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise _explained(error) from None


def _explained(error: grpc.RpcError) -> SilhouetteError:
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.NOT_FOUND:
        return NoProfileError()
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return UsageError(details)
    if code in _REFUSED:
        return RefusedError(details)
    if code is grpc.StatusCode.DATA_LOSS:
        return IntegrityError(details)
    if code in _NOT_NOW:
        return UnavailableError(f"expected an answer of the profile service, got {code.name}: {details}; try again")
    return SilhouetteError(f"expected an answer of the profile service, got {code.name}: {details}")
