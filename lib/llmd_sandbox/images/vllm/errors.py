"""What the simulator refuses: a configuration at start, or one HTTP request."""

from __future__ import annotations

from http import HTTPStatus


class ConfigError(Exception):
    """The server cannot start with these arguments; the message is vLLM's."""


class ApiError(Exception):
    """One request is refused; rendered as vLLM's `{"error": {...}}`.

    `kind` is the error's `type`, `param` the request field at fault.
    """

    def __init__(self, message: str, kind: str, code: HTTPStatus, param: str | None = None) -> None:
        self.message, self.kind, self.code, self.param = message, kind, code, param
        super().__init__(message)

    @property
    def body(self) -> dict[str, object]:
        """The JSON body."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": int(self.code)}
        return {"error": error}


def bad_request(message: str, param: str | None = None) -> ApiError:
    """A request that is well-formed and yet cannot be served."""
    return ApiError(message, "BadRequestError", HTTPStatus.BAD_REQUEST, param)


def malformed(kind: str, loc: tuple[str | int, ...], msg: str, given: object) -> ApiError:
    """A request body that does not have the schema's shape; `kind` is the validator's name for the fault."""
    detail = {"type": kind, "loc": ("body", *loc), "msg": msg, "input": given}
    return ApiError(f"1 validation error:\n  {detail}", "Bad Request", HTTPStatus.BAD_REQUEST)
