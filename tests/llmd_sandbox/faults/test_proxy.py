"""The proxies before servers that say what they were asked, all with a sandbox's own certificates."""

import asyncio
import contextlib
import http.client
import json
import os
import secrets
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from aiohttp import web

from llmd_sandbox.control_plane import pki
from llmd_sandbox.faults.declared import Fault, Kind
from llmd_sandbox.faults.proxy import ApiProxy, before_api_server
from llmd_sandbox.site import Site
from llmd_sandbox.supervisor.guard import claim

GKE_POOL = "/v1/projects/p/locations/l/clusters/c/nodePools/n"


async def _says(request: web.Request) -> web.Response:
    request.app[REACHED].append((request.method, request.path))
    asked = {"method": request.method, "path": request.raw_path, "body": await request.text()}
    about = {"token": request.headers.get("Authorization"), "type": request.headers.get("Content-Type")}
    return web.json_response(asked | about, status=201, headers={"Audit-Id": "7"})


REACHED = web.AppKey("reached", list[tuple[str, str]])


@pytest.fixture
def reached() -> list[tuple[str, str]]:
    """What came as far as the servers."""
    return []


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reached: list[tuple[str, str]]) -> Iterator[Site]:
    """A sandbox of which nothing runs but servers in the place of the API server and of GKE's."""
    monkeypatch.setenv("LLMD_SANDBOX_STATE", str(tmp_path))
    site, guard = claim(Site(f"faults-{secrets.token_hex(3)}", 0))
    with guard:
        pki.write(site)
        yield from _serving(site, reached)


def _serving(site: Site, reached: list[tuple[str, str]]) -> Iterator[Site]:
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    listening = threading.Event()

    async def serve() -> None:
        application = web.Application()
        application[REACHED] = reached
        application.router.add_route("*", "/{path:.*}", _says)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        await runner.setup()
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(site.pki / "server.crt", site.pki / "server.key")
        await web.TCPSite(runner, *site.api_server, ssl_context=tls).start()
        await web.TCPSite(runner, *site.gke).start()
        listening.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert listening.wait(10)
    try:
        yield site
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def ask(door: ApiProxy, method: str, path: str, body: str = "", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body that a client gets with the door's kubeconfig."""
    cluster = yaml.safe_load(door.kubeconfig.read_text())["clusters"][0]["cluster"]
    trusted = ssl.create_default_context(cafile=str(door.kubeconfig.parent / "ca.crt"))
    return _ask(
        http.client.HTTPSConnection(_netloc(cluster["server"]), context=trusted, timeout=10),
        method,
        path,
        body,
        headers,
    )


def ask_gke(door: ApiProxy, method: str, path: str, timeout_s: float = 10) -> tuple[int, dict[str, str], bytes]:
    """The same from a client of GKE."""
    return _ask(http.client.HTTPConnection(_netloc(door.gke), timeout=timeout_s), method, path, "", {})


def _netloc(url: str) -> str:
    return urlsplit(url).netloc


def _ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: str, headers: dict[str, str]
) -> tuple[int, dict[str, str], bytes]:
    try:
        connection.request(method, path, body or None, headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def said(answer: tuple[int, dict[str, str], bytes]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer[2])
    return found


def test_what_no_fault_hits_passes_as_it_is(site: Site) -> None:
    with before_api_server(site, [Fault(Kind.CUT, path="/elsewhere")]) as door:
        path = "/api/v1/pods/a%2Fb?labelSelector=x%3Dy%2Cz"
        answer = ask(door, "PATCH", path, '{"a": 1}', Authorization="Bearer t", **{"Content-Type": "text/odd"})
        assert (answer[0], answer[1]["Audit-Id"]) == (201, "7")
        assert said(answer) == {
            "method": "PATCH",
            "path": path,
            "body": '{"a": 1}',
            "token": "Bearer t",
            "type": "text/odd",
        }
        assert [(seen.method, seen.path, seen.status, seen.fault) for seen in door.seen] == [("PATCH", path, 201, None)]
        assert door.kubeconfig.stat().st_mode & 0o777 == 0o600
    assert not door.kubeconfig.exists()


def test_throttled_as_often_as_declared_and_nothing_is_done(site: Site) -> None:
    with before_api_server(site, [Fault(Kind.THROTTLE, times=2, retry_after_s=9)]) as door:
        answers = [ask(door, "GET", "/api") for _ in range(3)]
    assert [status for status, *_ in answers] == [429, 429, 201]
    assert answers[0][1]["Retry-After"] == "9"
    assert answers[0][2] == b"Too many requests, please try again later.\n"
    assert [seen.fault for seen in door.seen] == [Kind.THROTTLE, Kind.THROTTLE, None]


def test_throttled_for_ever(site: Site) -> None:
    with before_api_server(site, [Fault(Kind.THROTTLE, times=0)]) as door:
        assert {ask(door, "GET", "/api")[0] for _ in range(5)} == {429}


def test_cut_after_it_was_done(site: Site) -> None:
    with before_api_server(site, [Fault(Kind.CUT, "PATCH")]) as door:
        with pytest.raises((http.client.HTTPException, OSError)):
            ask(door, "PATCH", "/api")
        assert ask(door, "PATCH", "/api")[0] == 201
    assert [(seen.status, seen.fault) for seen in door.seen] == [(0, Kind.CUT), (201, None)]


def test_a_watch_of_the_first_state(site: Site) -> None:
    with before_api_server(site, [Fault(Kind.EXPIRE)]) as door:
        assert said(ask(door, "GET", "/api"))["path"] == "/api"
        watch = said(ask(door, "GET", "/api?watch=true&resourceVersion=99"))
    assert "resourceVersion=1" in watch["path"].split("?")[1].split("&")


def test_conflict_and_break_are_refusals_in_the_api_servers_words(site: Site, reached: list[tuple[str, str]]) -> None:
    with before_api_server(site, [Fault(Kind.CONFLICT, "PATCH"), Fault(Kind.BREAK, "PATCH")]) as door:
        answers = [ask(door, "PATCH", "/api") for _ in range(3)]
    assert [(answer[0], said(answer).get("reason")) for answer in answers] == [
        (409, "Conflict"),
        (500, "InternalError"),
        (201, None),
    ]
    assert {said(answer)["kind"] for answer in answers[:2]} == {"Status"}
    assert reached == [("PATCH", "/api")]


def test_gke_refuses_in_googles_words(site: Site, reached: list[tuple[str, str]]) -> None:
    faults = [Fault(kind, "POST", ":setSize") for kind in _REFUSALS]
    with before_api_server(site, faults) as door:
        answers = [ask_gke(door, "POST", f"{GKE_POOL}:setSize") for _ in range(4)]
    assert [answer[0] for answer in answers] == [400, 429, 500, 201]
    assert [said(answer)["error"]["status"] for answer in answers[:3]] == list(_REFUSALS.values())
    assert "incompatible operation" in said(answers[0])["error"]["message"]
    assert reached == [("POST", f"{GKE_POOL}:setSize")]


_REFUSALS = {Kind.CONFLICT: "FAILED_PRECONDITION", Kind.THROTTLE: "RESOURCE_EXHAUSTED", Kind.BREAK: "INTERNAL"}


def test_stalled_after_it_was_done(site: Site, reached: list[tuple[str, str]]) -> None:
    with before_api_server(site, [Fault(Kind.STALL)]) as door:
        with pytest.raises(TimeoutError):
            ask_gke(door, "POST", GKE_POOL, timeout_s=0.5)
        assert [(seen.status, seen.fault) for seen in door.seen] == [(0, Kind.STALL)]
        assert ask_gke(door, "POST", GKE_POOL)[0] == 201
    assert reached == [("POST", GKE_POOL)] * 2


@pytest.mark.parametrize(("kind", "done"), [(Kind.KILL_BEFORE, 0), (Kind.KILL_AFTER, 1)])
def test_killed_before_or_after_it_was_done(site: Site, reached: list[tuple[str, str]], kind: Kind, done: int) -> None:
    """Who is to be killed is known by its connection: here it is this process, which is spared."""
    killed: list[int] = []
    with before_api_server(site, [Fault(kind, "PATCH")], killed.append) as door:
        with contextlib.suppress(http.client.HTTPException, OSError):  # a killed client hears nothing
            ask(door, "PATCH", "/api")
        assert killed == [os.getpid()]
        assert len(reached) == done
        assert ask(door, "PATCH", "/api")[0] == 201
    assert [(seen.status, seen.fault) for seen in door.seen] == [(0, kind), (201, None)]
    assert killed == [os.getpid()]
