"""`python -m llmd_sandbox.images.vllm_cpu PYTHON vllm serve MODEL ...`: become the real vLLM, on CPU.

PYTHON is the engine's own, with vLLM in it.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

from llmd_sandbox.images.vllm_cpu import VERSION
from llmd_sandbox.images.vllm_cpu.words import translate
from llmd_sandbox.site import MARKER

_NICENESS = 15
_SESSION = Path("/proc/self/autogroup")
_TRIES, _BETWEEN_S = 50, 0.1
_SOCKET_PATH_BYTES = 107
_SOCKET_NAME_BYTES = 37


def main(python: str, argv: list[str]) -> NoReturn:
    """Make the model's folder, then become the server."""
    address = os.environ.get("LLMD_SANDBOX_POD_IP", "127.0.0.1")
    wanted = translate(argv, address)
    folder = Path.home() / "model"
    print(f"llm-d sandbox: the real vLLM {VERSION} on CPU; a tiny model with random weights serves as {wanted.model}")
    left_out = shlex.join(wanted.left_out) or "nothing"
    print(f"llm-d sandbox: left out, for there is no GPU and no download: {left_out}", flush=True)
    maker = [python, str(Path(__file__).parent / "model.py"), str(folder), str(wanted.max_position_embeddings)]
    if status := subprocess.run(maker, check=False).returncode:
        sys.exit(status)
    _give_way()
    words = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), *wanted.flags]
    os.execve(python, words, os.environ | _variables(address))


def _give_way() -> None:
    """Let whoever measures have the processors first, as where engines have machines of their own.

    Linux shares them between sessions before it looks at niceness (sched(7), autogroup): a pod is a session.
    """
    os.nice(_NICENESS)
    if os.getsid(0) != os.getpid():
        return  # the session is somebody else's
    for _ in range(_TRIES):
        try:
            _SESSION.write_text(str(_NICENESS))
        except BlockingIOError:  # of all who are not root together, one in a tenth of a second
            time.sleep(_BETWEEN_S)
        except OSError:  # no such feature, or a read-only /proc: the niceness is what there is
            return
        else:
            return


def _variables(address: str) -> dict[str, str]:
    """One thread a replica, nothing from the network, nothing to it."""
    own = {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "SPT_NOENV": "1",  # vLLM's processes rename themselves: over their environment, by which `down` finds them
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # else a CPU's engine has its one worker in a process of its own
        "VLLM_HOST_IP": address,
        "VLLM_NO_USAGE_STATS": "1",
    }
    folder = os.environ.get(MARKER, "")
    if folder and len(os.fsencode(folder)) + _SOCKET_NAME_BYTES <= _SOCKET_PATH_BYTES:
        own["VLLM_RPC_BASE_PATH"] = folder  # sockets that a kill leaves behind go with the sandbox
    return own


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
