from pathlib import Path

import pytest

from llmd_sandbox.errors import SandboxError
from llmd_sandbox.faults.declared import Fault, Kind, load

WATCH = "/api/v1/pods?watch=true&resourceVersion=9"


def test_a_file_of_faults(tmp_path: Path) -> None:
    file = tmp_path / "faults.yaml"
    file.write_text("[{kind: throttle, method: GET, path: /nodes, times: 2, retry_after_s: 3}, {kind: cut}]")
    assert load(file) == [Fault(Kind.THROTTLE, "GET", "/nodes", 2, 3), Fault(Kind.CUT)]


@pytest.mark.parametrize("text", ["", "7", "[7]", "[{}]", "[{kind: explode}]", "[{kind: cut, pth: x}]", "a: b: c"])
def test_a_file_of_something_else_is_refused_with_an_example(tmp_path: Path, text: str) -> None:
    file = tmp_path / "faults.yaml"
    file.write_text(text)
    with pytest.raises(SandboxError) as caught:
        load(file)
    assert caught.value.where == str(file)
    assert caught.value.reason
    assert "{kind: throttle" in (caught.value.remedy or "")


def test_no_such_file_and_no_regular_expression(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="cannot be read"):
        load(tmp_path / "none")
    (tmp_path / "odd").write_text("[{kind: cut, path: '('}]")
    with pytest.raises(SandboxError, match="cannot be read"):
        load(tmp_path / "odd")


@pytest.mark.parametrize(
    ("fault", "method", "path", "hit"),
    [
        (Fault(Kind.CUT), "GET", "/api", True),
        (Fault(Kind.CUT, "PATCH"), "GET", "/api", False),
        (Fault(Kind.THROTTLE, path="/pods"), "GET", WATCH, True),
        (Fault(Kind.THROTTLE, path="/nodes"), "GET", WATCH, False),
        (Fault(Kind.EXPIRE, path="/pods"), "GET", WATCH, True),
        (Fault(Kind.EXPIRE, path="/pods"), "GET", "/api/v1/pods", False),
        (Fault(Kind.CUT, changes=True), "DELETE", "/api/v1/namespaces/n/pods/p", True),
        (Fault(Kind.CUT, changes=True), "GET", "/api/v1/pods", False),
        (Fault(Kind.CUT, changes=True), "PATCH", "/api/v1/pods/p?dryRun=All", False),
        (Fault(Kind.CUT, changes=True), "PUT", "/apis/coordination.k8s.io/v1/namespaces/n/leases/l", False),
        (Fault(Kind.CUT, changes=True), "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", False),
    ],
)
def test_what_a_fault_hits(fault: Fault, method: str, path: str, hit: bool) -> None:
    assert fault.hits(method, path) is hit
