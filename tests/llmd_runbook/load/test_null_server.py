"""The known server's log is the truth that others are held against."""

from __future__ import annotations

from itertools import pairwise

import httpx

from llmd_runbook.load.calibrate import known_server

BODY = {"model": "null", "prompt": "hello", "max_tokens": 3, "stream": True}


def test_it_logs_each_request_and_no_question_about_itself() -> None:
    with known_server(0.02, 0.01) as (url, served), httpx.Client(base_url=url) as client:
        assert client.get("/v1/models").json()["data"][0]["id"] == "null"
        named = [{"x-request-id": "first"}, {}]
        texts = [client.post("/v1/completions", json=BODY, headers=headers).text for headers in named]
    assert all(text.count('"text":" the"') == 3 and text.endswith("data: [DONE]\n\n") for text in texts)
    assert len(served.first_s) == len(served.done_s) == len(served.ended_s) == 2
    assert len(served.gaps_s) == 2 * 2
    assert min(served.first_s) >= 0.019  # a timer goes off up to a millisecond early
    assert served.request_ids == ["first", ""]
    assert all(done >= first for first, done in zip(served.first_s, served.done_s, strict=True))
    assert all(later > at for at, later in pairwise(served.ended_s))
