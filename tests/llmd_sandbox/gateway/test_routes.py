from typing import Any

import pytest

from llmd_sandbox.gateway.backends import Backend
from llmd_sandbox.gateway.routes import duration_s, matches, unsupported

SERVICE, POOL = Backend("service/a"), Backend("pool/a", pool={"kind": "InferencePool"})


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({}, {"prefix": "/"}),
        ({"path": {"type": "PathPrefix", "value": "/v1/"}}, {"path_separated_prefix": "/v1"}),
        ({"path": {"value": "/v1"}}, {"path_separated_prefix": "/v1"}),
        ({"path": {"type": "Exact", "value": "/v1/"}}, {"path": "/v1/"}),
        ({"path": {"type": "RegularExpression", "value": "/v[12]"}}, {"safe_regex": {"regex": "/v[12]"}}),
        (
            {"headers": [{"name": "x-a", "value": "1"}], "method": "GET"},
            {
                "prefix": "/",
                "headers": [
                    {"name": "x-a", "string_match": {"exact": "1"}},
                    {"name": ":method", "string_match": {"exact": "GET"}},
                ],
            },
        ),
        (
            {"queryParams": [{"name": "q", "type": "RegularExpression", "value": "a+"}]},
            {
                "prefix": "/",
                "query_parameters": [{"name": "q", "string_match": {"safe_regex": {"regex": "a+"}}}],
            },
        ),
    ],
)
def test_matches(match: dict[str, Any], expected: dict[str, Any]) -> None:
    [found] = matches({"matches": [match]}, [SERVICE])
    assert found.route["match"] == expected


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"path": {"type": "Exact", "value": "/a"}}, {"path": {"value": "/a/longer"}}),
        ({"path": {"value": "/a/b"}}, {"path": {"value": "/a"}, "method": "GET"}),
        ({"method": "GET"}, {"headers": [{"name": "a", "value": "1"}, {"name": "b", "value": "1"}]}),
        ({"headers": [{"name": "a", "value": "1"}]}, {"queryParams": [{"name": "a", "value": "1"}]}),
    ],
)
def test_precedence(first: dict[str, Any], second: dict[str, Any]) -> None:
    [one], [two] = matches({"matches": [first]}, [SERVICE]), matches({"matches": [second]}, [SERVICE])
    assert one.precedence > two.precedence


@pytest.mark.parametrize(
    ("rule", "backend", "expected"),
    [
        ({}, SERVICE, "30s"),
        ({}, POOL, "0s"),
        ({"timeouts": {"request": "1m30s"}}, POOL, "90s"),
        ({"timeouts": {"request": "250ms"}}, SERVICE, "0.25s"),
        ({"timeouts": {"request": "0s"}}, SERVICE, "0s"),
    ],
)
def test_timeouts(rule: dict[str, Any], backend: Backend, expected: str) -> None:
    [found] = matches(rule, [backend])
    assert found.route["route"]["timeout"] == expected


def test_backends_of_weight_zero_get_nothing() -> None:
    [found] = matches({}, [SERVICE, Backend("service/b", weight=0)])
    assert found.route["route"]["cluster"] == "service/a"
    [found] = matches({}, [Backend("service/b", weight=0)])
    [fault] = found.route["typed_per_filter_config"].values()
    assert fault["abort"]["http_status"] == 500


@pytest.mark.parametrize(
    ("rule", "word"),
    [
        ({"filters": [{"type": "URLRewrite"}]}, "URLRewrite"),
        ({"backendRefs": [{"name": "a", "filters": [{"type": "RequestHeaderModifier"}]}]}, "backendRef"),
        ({"retry": {"attempts": 2}}, "retry"),
        ({"matches": [{"path": {"type": "RegularExpression", "value": "("}}]}, "'('"),
        ({"filters": [{"type": "RequestHeaderModifier"}]}, None),
    ],
)
def test_what_is_not_supported_is_named(rule: dict[str, Any], word: str | None) -> None:
    reason = unsupported({"spec": {"rules": [rule]}})
    assert (reason is None) if word is None else (reason is not None and word in reason)


def test_durations() -> None:
    assert [duration_s(text) for text in ("1h", "1h2m3s", "500ms")] == [3600, 3723, 0.5]
