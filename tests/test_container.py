"""The container's recipe names what there is: extras, versions, commands, the port, the routes."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tercet.cli import tercet

pytest.importorskip("starlette", reason="needs tercet[serve]")

from tercet.serve.app import DRAIN_SECONDS
from tercet.serve.processes import STOP
from tercet.serve.routes import ENDPOINTS
from tercet.serve.settings import KEY_ENV, ServeSettings

ROOT = Path(__file__).resolve().parent.parent
RECIPE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICE = COMPOSE["services"]["tercet"]


def argument(name: str) -> str:
    found = re.search(rf"^ARG {name}=(\S+)$", RECIPE, re.MULTILINE)
    assert found is not None, name
    return found[1]


def listed(instruction: str) -> list[str]:
    """The JSON list behind an instruction."""
    found = re.search(rf"^{instruction} (\[.*\])$", RECIPE, re.MULTILINE)
    assert found is not None, instruction
    words: list[str] = json.loads(found[1])
    return words


def served(words: list[str]) -> dict[str, Any]:
    """What `tercet serve` understands of a command; fails where an option is not there."""
    (program,) = listed("ENTRYPOINT")
    assert program in PROJECT["project"]["scripts"]
    command = tercet.commands[words[0]]
    return command.make_context(words[0], list(words[1:])).params


def test_what_is_installed_is_what_the_project_has() -> None:
    assert set(argument("EXTRAS").split(",")) <= PROJECT["project"]["optional-dependencies"].keys()
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"torch=={argument('TORCH')}" in pins
    version = tuple(map(int, argument("PYTHON").partition("-")[0].split(".")))
    assert version >= tuple(map(int, PROJECT["project"]["requires-python"][2:].split(".")))


def test_what_is_copied_is_there_and_sent_to_the_builder() -> None:
    sent = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert sent[0] == "*"
    copied = [
        name
        for line in re.findall(r"^COPY (.+) \S+$", RECIPE, re.MULTILINE)
        for name in line.split()
    ]
    assert {"src", "pyproject.toml", PROJECT["project"]["readme"]} <= set(copied)
    for name in (*copied, *PROJECT["project"]["license-files"]):
        assert (ROOT / name).exists(), name
        assert f"!{name}" in sent, name


@pytest.mark.parametrize("words", [listed("CMD"), SERVICE["command"]], ids=["image", "compose"])
def test_the_server_listens_where_it_is_asked(words: list[str]) -> None:
    found = served(words)
    port = int(found["port"])
    assert found["host"] == "0.0.0.0"
    assert f"EXPOSE {port}\n" in RECIPE
    assert f"http://0.0.0.0:{port}/health'" in RECIPE
    assert [each.rpartition(":")[2] for each in SERVICE["ports"]] == [str(port)]
    assert found["index"].startswith("/data/")
    assert "VOLUME /data\n" in RECIPE
    assert any(each.endswith(":/data") for each in SERVICE["volumes"])


def test_health_is_told_to_whoever_has_no_key() -> None:
    assert [endpoint.open for endpoint in ENDPOINTS if endpoint.path == "/health"] == [True]


def test_keys_come_from_where_the_server_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"${KEY_ENV}" in RECIPE
    (name,) = SERVICE["secrets"]
    assert str(served(SERVICE["command"])["key_file"]) == f"/run/secrets/{name}"
    secret = COMPOSE["secrets"][name]["file"]
    assert secret in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    monkeypatch.setenv(KEY_ENV, "a-key-of-tests")
    assert ServeSettings(host="0.0.0.0").keys() == (b"a-key-of-tests",)


def test_the_server_is_given_the_time_to_end() -> None:
    assert int(SERVICE["stop_grace_period"].removesuffix("s")) >= DRAIN_SECONDS + STOP


def test_nothing_runs_as_root() -> None:
    users = re.findall(r"^USER (\d+):(\d+)$", RECIPE, re.MULTILINE)
    assert users
    assert all(int(user) and int(group) for user, group in users)
    assert RECIPE.index("USER") < RECIPE.index("ENTRYPOINT")
