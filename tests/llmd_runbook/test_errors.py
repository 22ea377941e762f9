from __future__ import annotations

import inspect
import pickle
from pathlib import Path

import pytest

from llmd_runbook import errors
from llmd_runbook.errors import (
    REDACTED,
    ApprovalNeeded,
    ClusterError,
    NotFound,
    ProfileError,
    RunbookError,
    UsageError,
    redact,
)

KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----"


def test_a_message_says_what_where_why_and_what_to_do() -> None:
    error = NotFound("not found", where="GET /x", reason='pods "a" not found', remedy="look")
    assert str(error) == 'not found\n  where:  GET /x\n  reason: pods "a" not found\n  to do:  look'
    assert error._render_traceback_() == [f"NotFound: {error}"]


def test_what_is_not_known_is_left_out() -> None:
    assert str(RunbookError("it broke")) == "it broke"


def test_in_short_it_is_what_failed_and_why() -> None:
    assert RunbookError("it failed", reason="no room", remedy="make room").in_short == "it failed: no room"
    assert RunbookError("it failed", where="here").in_short == "it failed"


def test_errors_survive_pickling() -> None:
    error = NotFound("not found", where="GET /x", reason="r", remedy="look")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (NotFound, str(error))


def test_exit_codes_tell_the_kinds_apart() -> None:
    assert (RunbookError.exit_code, ClusterError.exit_code) == (1, 1)
    assert (UsageError.exit_code, ProfileError.exit_code, ApprovalNeeded.exit_code) == (2, 2, 4)


def test_the_drawn_tree_names_every_error() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, RunbookError)]
    assert len(kinds) > 10
    for kind in kinds:
        assert f" {kind.__name__} " in (errors.__doc__ or ""), kind


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("token hf_abcdefghijklmnop was refused", "hf_abcdefghijklmnop"),
        ("got ya29.a0AfB_byC-x12345", "a0AfB_byC"),
        ("got eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl here", "c2lnbmF0dXJl"),
        ("Authorization: Bearer abc.def-ghi~jkl", "abc.def-ghi~jkl"),
        ("authorization: bearer   abcdefghij", "abcdefghij"),
        ("Authorization: Basic YW5uOnBhc3N3b3Jk", "YW5uOnBhc3N3b3Jk"),
        (f"key: {KEY}, and more", "MIIabc"),
        (f"key: {KEY[:38]}", "MIIabc"),
        ("key: -----BEGIN PRIVATE KEY-----\\nMIIabc\\n-----END PRIVATE KEY-----\\n", "MIIabc"),
        ("client-key-data: LS0tLS1CRUdJTiBSU0EgUFJJVkFURSBLRVktLS0tLQo=", "BSU0EgUFJJVkFURSBLRVkt"),
        ("GET http://ann:pass-word@proxy.example:8080/x", "pass-word"),
        ("GET http://ann:p@ss-word@proxy.example/x", "ss-word"),
        ("redis://:pass-word@cache.example/0", "pass-word"),
    ],
)
def test_credentials_are_known_by_their_form(text: str, secret: str) -> None:
    clean = redact(text)
    assert secret not in clean
    assert REDACTED in clean


@pytest.mark.parametrize(
    "text",
    [
        "GET http://127.0.0.1:8080/v1/models",
        "mail ann@example.com about http://proxy.example/a:b@c",
        "the hf_token is missing",
        "bearer of bad news",
        "12 prompt_tokens, 98 output_tokens",
        "",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert redact(text) == text


def test_words_around_a_credential_stay() -> None:
    clean = redact(f"before {KEY} after http://ann:pass-word@host/x")
    assert clean == f"before {REDACTED} after http://{REDACTED}@host/x"


@pytest.mark.parametrize("name", ["HF_TOKEN", "MY_SECRET", "DB_PASSWORD", "GOOGLE_API_KEY", "registryToken"])
def test_values_of_secret_variables_go(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "opaque-value-9\n")
    assert redact("refused opaque-value-9 at the door") == f"refused {REDACTED} at the door"


def test_values_of_other_variables_and_short_or_file_values_stay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "token-file"
    file.touch()
    monkeypatch.setenv("HARMLESS", "opaque-value-9")
    monkeypatch.setenv("SHORT_TOKEN", "true")
    monkeypatch.setenv("TOKEN_FILE", str(file))
    text = f"opaque-value-9 is true, see {file}"
    assert redact(text) == text


def test_given_secrets_go_the_longest_first() -> None:
    assert redact("abcdefgh-ijklmnop abcdefgh", ["abcdefgh", "abcdefgh-ijklmnop"]) == f"{REDACTED} {REDACTED}"


def test_no_part_of_an_error_holds_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "opaque-value-9")
    error = RunbookError(*["a opaque-value-9"], where="b opaque-value-9", reason="opaque-value-9", remedy=KEY)
    for text in (str(error), repr(error), *error._render_traceback_(), *map(str, error.args)):
        assert "opaque" not in text
        assert "MIIabc" not in text
