"""Every kubectl command that a user is told to type, typed on a sandbox; its output must hold what it is told for."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tests.cli.commands import CHANGING, CRASHED, LOOKING, NAMES, Command
from tests.end_to_end.conftest import Sandbox

pytestmark = [pytest.mark.cli, pytest.mark.timeout(300)]


def typed(sandbox: Sandbox, command: Command, stdin: str = "") -> str:
    """What the command prints; the test fails when that is not what it is told for."""
    selector = ("-l", NAMES["labels"], "--field-selector", "status.phase=Running")
    pod = sandbox.kubectl("get", "pods", *selector, "-o", "jsonpath={.items[*].metadata.name}").split()
    done = subprocess.run(
        command.words(pod[0] if pod else "none"),
        env={**os.environ, **sandbox.environment},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    wanted = command.shows
    for name, value in NAMES.items():
        wanted = wanted.replace("{" + name + "}", re.escape(value))
    assert re.search(wanted, done.stdout + done.stderr, re.MULTILINE), done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("command", LOOKING, ids=lambda command: command.text)
def test_looking(shared: Sandbox, command: Command) -> None:
    typed(shared, command)


def test_changing(shared: Sandbox) -> None:
    """In the order of the list, each with what the one before printed as its input; Pattern 1 serves at the end."""
    printed = ""
    for command in CHANGING:
        printed = typed(shared, command, stdin=printed)


def test_what_an_ended_replica_said(shared: Sandbox) -> None:
    """It runs out of memory as it starts, and is started anew."""
    shared.kubectl("annotate", "node", "--all", "llmd-sandbox/start=oom")
    try:
        shared.kubectl("delete", "pods", "-l", NAMES["labels"])
        restarted = "--for=jsonpath={.status.containerStatuses[0].restartCount}=1"
        shared.kubectl("wait", "pod", "-l", NAMES["labels"], "--timeout=60s", restarted)
        typed(shared, CRASHED)
    finally:
        shared.kubectl("annotate", "node", "--all", "llmd-sandbox/start-")
        shared.kubectl("delete", "pods", "-l", NAMES["labels"])
        shared.kubectl("rollout", "status", "deployment/" + NAMES["servers"], "--timeout=60s")


def test_watching_prints_what_is_there_and_goes_on(shared: Sandbox) -> None:
    words = ("kubectl", "get", "nodes", "-w", "--request-timeout=3s")
    done = shared.start(*words)
    assert re.search(r"\sReady\s", done.stdout), done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("exec", "{}", "--", "true"), "a pod's own address is open to this machine: {}"),
        (("attach", "{}"), "a pod's own address is open to this machine: {}"),
        (("port-forward", "{}", "18000:8000"), "error upgrading connection"),  # kubectl drops the server's words
    ],
)
def test_what_is_not_served_ends_at_once_and_says_so(shared: Sandbox, words: tuple[str, ...], said: str) -> None:
    pod = shared.kubectl("get", "pods", "-l", NAMES["labels"], "-o", "jsonpath={.items[0].metadata.name}")
    address = shared.kubectl("get", "pod", pod, "-o", "jsonpath={.status.podIP}")
    done = shared.start("kubectl", "-n", NAMES["namespace"], *(word.format(pod) for word in words))
    assert done.returncode != 0
    assert said.format(address) in done.stderr


def test_following_a_log_goes_on_until_interrupted(shared: Sandbox) -> None:
    words = ["kubectl", "-n", NAMES["namespace"], "logs", "-f", "--tail=1", f"deployment/{NAMES['picker']}"]
    process = subprocess.Popen(
        words, env={**os.environ, **shared.environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip()
        assert process.poll() is None
    finally:
        process.terminate()
        process.communicate()


def test_less_rights_are_seen_by_auth_can_i(shared: Sandbox) -> None:
    words = ("kubectl", "auth", "can-i", "delete", "pods", "-n", "llm-d", "--as=nobody")
    done = shared.start(*words)
    assert (done.returncode, done.stdout.strip()) == (1, "no")
