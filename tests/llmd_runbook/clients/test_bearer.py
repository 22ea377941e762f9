"""A bearer token comes from where the profile says, on every request, and from nowhere else."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import pytest

from llmd_runbook.clients.bearer import authorization
from llmd_runbook.clients.inference import Endpoint, Inference
from llmd_runbook.errors import Unreachable, UsageError
from llmd_runbook.load.engine import run
from llmd_runbook.load.plan import Closed, Plan, Prompt
from tests.llmd_runbook.clients.network import serving_tls
from tests.llmd_runbook.clients.server import Reply

MODELS = {"data": [{"id": "m"}]}
ANSWER = {"choices": [{"text": "hello"}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}


def test_a_token_in_a_variable_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_TOKEN", " one ")
    (tmp_path / "token").write_text("two\n")
    assert authorization("", "") == {}
    assert authorization("GATEWAY_TOKEN", "") == {"Authorization": "Bearer one"}
    assert authorization("", str(tmp_path / "token")) == {"Authorization": "Bearer two"}


@pytest.mark.parametrize(
    ("variable", "file", "said"),
    [("NOT_SET_ANYWHERE", "", "not set"), ("", "missing", "No such file"), ("", "empty", "empty")],
)
def test_a_token_that_is_not_there(tmp_path: Path, variable: str, file: str, said: str) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(UsageError, match="no token") as caught:
        authorization(variable, str(tmp_path / file) if file else "")
    assert said in str(caught.value.reason)
    assert "route.bearer_variable" in str(caught.value.remedy)


async def test_single_calls_and_load_reach_a_gateway_by_name_authority_and_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As through a port-forward to an internal gateway: the address is not the name in the certificate."""
    monkeypatch.setenv("GATEWAY_TOKEN", "the-token-of-this-test")
    asked_for: list[str | None] = []
    with serving_tls(tmp_path, "models.example", asked_for) as (server, authority):
        server.on("/qwen/v1/models", Reply(body=MODELS))
        server.on("/qwen/v1/completions", Reply(body=ANSWER))
        target = Endpoint(
            f"{server.url}/qwen",
            headers={"Host": "models.example"},
            ca_file=str(authority),
            server_name="models.example",
            bearer_variable="GATEWAY_TOKEN",
        )
        assert Inference(target).models() == ["m"]
        plan = Plan(
            **vars(target),
            model="m",
            prompts=[Prompt(group="g", text="hello")],
            output_tokens=1,
            arrival=Closed(concurrency=1),
            streamed=False,
        )
        (sample,) = (await run(plan)).samples
        assert sample.status == 200, sample
        with pytest.raises(Unreachable, match="gateway"):
            Inference(Endpoint(server.url, ca_file=str(authority))).models()
    assert [one.headers["authorization"] for one in server.requests] == ["Bearer the-token-of-this-test"] * 2
    assert [one.headers["host"] for one in server.requests] == ["models.example"] * 2
    assert asked_for[:2] == ["models.example"] * 2
    assert "the-token-of-this-test" not in json.dumps([vars(target), plan.model_dump(mode="json")])
    assert ssl.HAS_SNI
