"""What lies between the load process and a gateway: its certificate, a proxy, a token; all from another process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmd_runbook.load.measure import measure
from llmd_runbook.load.plan import Closed, Plan
from llmd_runbook.load.prompts import unique
from llmd_runbook.load.samples import LoadResult
from tests.llmd_runbook.clients.network import ConnectProxy, proxying, serving_tls
from tests.llmd_runbook.clients.server import Reply, Server, serving

PATH = "/v1/completions"
ANSWER = Reply(
    body='data: {"choices":[{"text":" a"}]}\n\ndata: {"choices":[],"usage":{"completion_tokens":1}}\n\ndata: [DONE]\n\n'
)
NAME = "models.example.com"


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def proxy() -> Iterator[ConnectProxy]:
    with proxying() as found:
        yield found


def sent(server: Server, **fields: Any) -> LoadResult:
    """Two requests to a server, one after the other."""
    server.on(PATH, ANSWER)
    return measure(
        Plan(
            url=server.url,
            model="m",
            prompts=unique(2, 5, seed=1),
            output_tokens=1,
            arrival=Closed(concurrency=1),
            connect_timeout_s=10,
            **fields,
        )
    )


def good(result: LoadResult) -> bool:
    """Whether both were answered, with times of their events and the server's count of tokens."""
    return [(sample.error, sample.output_tokens, sample.first_token_s is not None) for sample in result.samples] == [
        (None, 1, True)
    ] * 2


def test_https_with_an_authority_of_ones_own_a_name_and_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address is an IP; certificate and SNI have the name of the route."""
    monkeypatch.setenv("GATEWAY_TOKEN", "one-two-three")
    names: list[str | None] = []
    with serving_tls(tmp_path, NAME, names) as (server, authority):
        found = sent(
            server,
            ca_file=str(authority),
            server_name=NAME,
            headers={"Host": NAME},
            bearer_variable="GATEWAY_TOKEN",
        )
        first, _ = server.asked(PATH)
    assert good(found)
    assert set(names) == {NAME}
    assert (first.headers["host"], first.headers["authorization"]) == (NAME, "Bearer one-two-three")


def test_a_token_from_a_file_is_sent(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("of-a-file\n")
    with serving() as server:
        assert good(sent(server, bearer_file=str(tmp_path / "token")))
        assert server.asked(PATH)[0].headers["authorization"] == "Bearer of-a-file"


@pytest.mark.parametrize("trusted", [False, True], ids=["unknown authority", "another name"])
def test_a_certificate_that_is_not_to_be_trusted_gets_no_request(tmp_path: Path, trusted: bool) -> None:
    """Each attempt is counted as a failure to connect, with the reason."""
    with serving_tls(tmp_path, NAME) as (server, authority):
        found = sent(server, ca_file=str(authority) if trusted else None)
        assert server.requests == []
    assert found.failures() == {"connect": 2}
    assert "certificate" in found.samples[0].detail.lower()


def test_https_through_a_proxy_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: ConnectProxy
) -> None:
    monkeypatch.setenv("https_proxy", proxy.url)
    with serving_tls(tmp_path) as (server, authority):
        assert good(sent(server, ca_file=str(authority)))
        assert set(proxy.asked) == {server.url.removeprefix("https://")}


def test_no_proxy_is_obeyed_and_a_dead_proxy_is_said(monkeypatch: pytest.MonkeyPatch, proxy: ConnectProxy) -> None:
    proxy.close()
    monkeypatch.setenv("http_proxy", proxy.url)
    with serving() as server:
        assert sent(server).failures() == {"connect": 2}
        assert server.requests == []
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert good(sent(server))
