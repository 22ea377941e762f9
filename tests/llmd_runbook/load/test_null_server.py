"""The known server's log is the truth that others are held against."""

from __future__ import annotations

from itertools import pairwise

import httpx

from llmd_runbook.load.calibrate import known_server

BODY = {"model": "null", "prompt": "hello", "max_tokens": 3, "stream": True}


def test_it_logs_each_request_and_no_question_about_itself() -> None:
    with known_server(0.02, 0.01) as (url, served), httpx.Client(base_url=url) as client:
        assert client.get("/v1/models").json()["data"][0]["id"] == "null"
        texts = [client.post("/v1/completions", json=BODY).text for _ in range(2)]
    assert all(text.count('"text":" the"') == 3 and text.endswith("data: [DONE]\n\n") for text in texts)
    assert len(served.first_s) == len(served.done_s) == len(served.ended_s) == 2
    assert len(served.gaps_s) == 2 * 2
    assert min(served.first_s) >= 0.02
    assert all(done >= first for first, done in zip(served.first_s, served.done_s, strict=True))
    assert all(later > at for at, later in pairwise(served.ended_s))
