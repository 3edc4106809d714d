"""Refusals in the form of OpenAI's interface."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class ApiError(Exception):
    """A request that is refused.

    Attributes:
        status: HTTP status.
        message: what is wrong, with the value and what to do.
        param: the parameter that it is about.
        code: a short name of the reason.
        headers: of the answer.
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    @property
    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        param = None if self.param is None else utf8(self.param)
        return {"error": {"message": utf8(self.message), "type": kind, "param": param, "code": self.code}}


FAILED = ApiError(500, "the server has failed; its log says why", None, "server_error")


def utf8(text: str) -> str:
    """The text with halves of surrogate pairs, which JSON may bring and UTF-8 cannot hold, written as escapes."""
    return text.encode(errors="backslashreplace").decode()


def wrong(param: str, message: str, code: str = "invalid_value") -> ApiError:
    """A parameter's value is refused."""
    return ApiError(400, message, param, code)


def busy(message: str, retry_after_s: float) -> ApiError:
    """The request may come again after some seconds."""
    seconds = max(1, round(retry_after_s + 0.5))
    return ApiError(
        429, f"{message}; try again in {seconds} s", None, "rate_limit_exceeded", {"Retry-After": str(seconds)}
    )
