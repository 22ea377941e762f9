"""Flags of an endpoint picker as Go's `flag` package reads them, and what holds where none is given."""

from __future__ import annotations

import re
from collections.abc import Sequence

KV_METRIC = "vllm:kv_cache_usage_perc"
REMOVED_KV_METRIC = "vllm:gpu_cache_usage_perc"
"""vLLM has not had it since 0.11; pickers before GIE v1.3.0 still look for it by default."""

_FIRST_WITH_KV_METRIC = {
    "epp": (1, 3),
    "llm-d-inference-scheduler": (0, 5),
    "llm-d-router-endpoint-picker": (0, 0),
}
_IMAGE = re.compile(r"(?:.*/)?([^/:@]+):v?(\d+)\.(\d+)(?:[.-].*)?")
_ZAP_LEVELS = {"debug": 1, "info": 0, "error": 0, "panic": 0}

NEEDED_VERBOSITY = 4
"""Level at which the picker logs every score and choice, in both generations."""
_CHOICE_VERBOSITY = 3
MORE_IN_THE_LOG = (
    "to have both, set the flag v of the InferencePool's release to 4, or let stage 05 raise it while it runs "
    "(affinity.raise_log_level); each restart empties the picker's prefix index"
)
DEFAULT_VERBOSITY = 2
"""The picker's own."""

_VERBOSITY = re.compile(r"--?v(?:=(.*))?")


def flag(arguments: Sequence[str], name: str) -> str | None:
    """A flag's value: `-v 4`, `-v=4`, `--v 4` and `--v=4` are the same, and the last one counts.

    >>> flag(["epp", "-v=1", "--v", "4"], "v")
    '4'
    """
    found = None
    for index, word in enumerate(arguments):
        key, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
        if word.startswith("-") and key == name:
            found = value if equals else next(iter(arguments[index + 1 : index + 2]), "")
    return found


def verbosity(arguments: Sequence[str]) -> int | None:
    """The log level; `--zap-log-level` overrides `-v` (GIE cmd/epp, initLogging). None: it is no number."""
    zap = flag(arguments, "zap-log-level")
    text = flag(arguments, "v") if zap is None else str(_ZAP_LEVELS.get(zap, zap))
    if text is None:
        return DEFAULT_VERBOSITY
    return int(text) if text.lstrip("+-").isdigit() else None


def what_is_logged(arguments: Sequence[str]) -> tuple[str, bool]:
    """The level, what of a decision a picker logs at it, and whether that is all of it.

    >>> what_is_logged(["-v=3"])
    ('-v 3: the choices, not the scores', False)
    """
    level = verbosity(arguments)
    if level is None:
        return f"the level is no number: {' '.join(arguments)}", False
    if level >= NEEDED_VERBOSITY:
        return f"-v {level}: every score and choice", True
    return (
        f"-v {level}: {'the choices, not the scores' if level >= _CHOICE_VERBOSITY else 'no scores, no choices'}",
        False,
    )


def verbosity_flag(arguments: Sequence[str]) -> int | None:
    """The value of `-v` itself; None where there is none.

    Raises:
        ValueError: the value is no whole number.
    """
    text = flag(arguments, "v")
    return None if text is None else int(text)


def with_verbosity(arguments: Sequence[str], level: int | None) -> list[str]:
    """The arguments with that value of `-v`, in the form in which it stands there; None takes it away.

    Where there is none it comes first: what is no flag ends the flags.
    """
    words = list(arguments)
    places = [index for index, word in enumerate(words) if _VERBOSITY.fullmatch(word)]
    if not places:
        return words if level is None else [f"--v={level}", *words]
    place = places[-1]
    name, equals, _ = words[place].partition("=")
    if level is None:
        del words[place : place + (1 if equals else 2)]
    elif equals:
        words[place] = f"{name}={level}"
    else:
        words[place + 1] = str(level)
    return words


def default_kv_metrics(image: str) -> tuple[str, ...]:
    """The KV metric that an image's picker reads without being told; both where the image does not say which."""
    found = _IMAGE.fullmatch(image.partition("@")[0])
    first = _FIRST_WITH_KV_METRIC.get(found[1]) if found else None
    if found is None or first is None:
        return (REMOVED_KV_METRIC, KV_METRIC)
    return (KV_METRIC,) if (int(found[2]), int(found[3])) >= first else (REMOVED_KV_METRIC,)
