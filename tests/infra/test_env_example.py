""".env.example and docker-compose.yml: a fresh clone with its required settings, as each program reads them."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from dotenv import dotenv_values

from app.core.secrets import TokenCipher
from app.settings import Settings, load_settings, misspelt_settings

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SETTINGS = {name.upper() for name in Settings.model_fields}
REQUIRED = {
    "META_APP_SECRET": "0123456789abcdef0123456789abcdef",
    "WHATSAPP_VERIFY_TOKEN": "typed-into-the-form",
    "GEMINI_API_KEY": "AIzaFictional",
    "ENCRYPTION_KEY": TokenCipher.generate_key(),
    "ADMIN_API_KEY": "a-key-of-thirty-two-characters-or-more",
    "REDIS_PASSWORD": "redisPassword1",
    "POSTGRES_PASSWORD": "postgresPassword1",
    "POSTGRES_REPLICA_PASSWORD": "replicaPassword1",
}
SECRETS = set(REQUIRED) | {"SUPABASE_KEY", "SUPABASE_JWT_SECRET", "WHATSAPP_TOKEN", "GRAFANA_PASSWORD"}


def filled(text: str) -> str:
    """As a person fills it in: behind the `=`, and a `#` before a wanted name taken away."""
    for name, value in REQUIRED.items():
        text, count = re.subn(rf"^(?:# )?{name}=[^\n]*$", f"{name}={value}", text, flags=re.MULTILINE)
        assert count == 1, name
    return text


def read_by_docker(text: str) -> dict[str, str]:
    """`docker run --env-file` (docker/cli opts/file.go): a line that begins with # is a comment; everything behind the
    first = of another line is the value, quotes, spaces and # included."""
    lines = [line.lstrip() for line in text.splitlines()]
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    assert all(equals for _, equals, _ in pairs)
    return {name: value for name, _, value in pairs}


def read_by_compose(text: str) -> dict[str, str]:
    """`env_file` and `.env` (compose-go dotenv): a comment behind white space is cut off, outer quotes too."""
    values = {}
    for name, value in read_by_docker(text).items():
        cut = re.split(r"\s+#", value, maxsplit=1)[0].strip()
        quoted = re.fullmatch(r"(['\"])(.*)\1", cut)
        values[name.strip()] = quoted[2] if quoted else cut
    return values


def interpolated(value: str, env: dict[str, str]) -> str:
    """Compose's `${NAME:?message}` and `${NAME:-default}`; a missing one that is required is a `KeyError`."""

    def fill(match: re.Match[str]) -> str:
        name, kind, rest = match[1], match[2], match[3]
        if env.get(name):
            return env[name]
        if kind == ":-":
            return str(rest)
        raise KeyError(name)

    return re.sub(r"\$\{([A-Z_]+)(:[?-])?([^}]*)\}", fill, value)


def env_of(service: str, text: str) -> dict[str, str]:
    """What `docker compose config` shows as the environment of a service, with `text` as the `.env`."""
    given = read_by_compose(text)
    wanted = COMPOSE["services"][service]
    from_file = given if wanted.get("env_file") == [".env"] else {}
    return from_file | {name: interpolated(str(v), given) for name, v in wanted.get("environment", {}).items()}


def test_every_program_reads_the_same_values_and_none_contains_a_comment() -> None:
    for text in (EXAMPLE, filled(EXAMPLE)):
        by_docker = read_by_docker(text)
        ours = {name: value or "" for name, value in dotenv_values(stream=io.StringIO(text)).items()}
        assert by_docker == read_by_compose(text) == ours
        for name, value in by_docker.items():
            assert "#" not in value, name
            assert "$" not in value, name
            assert value == value.strip(), name


def test_what_is_commented_out_can_be_switched_on_by_taking_the_mark_away() -> None:
    text = re.sub(r"^# ([A-Z][A-Z0-9_]+=)", r"\1", EXAMPLE, flags=re.MULTILINE)
    for name, value in read_by_docker(text).items():
        assert "#" not in value, name
        assert " " not in value, name


def test_no_setting_stands_there_twice() -> None:
    named = re.findall(r"^#? ?([A-Z][A-Z0-9_]+)=", EXAMPLE, flags=re.MULTILINE)
    assert {name: times for name, times in Counter(named).items() if times > 1} == {}


def test_no_secret_has_a_value_and_no_url_a_password() -> None:
    text = re.sub(r"^# ([A-Z][A-Z0-9_]+=)", r"\1", EXAMPLE, flags=re.MULTILINE)
    for name, value in read_by_docker(text).items():
        assert not (name in SECRETS and value), name
        assert not re.search(r"://[^/@]*:[^/@]*@", value), name


@pytest.mark.parametrize("service", ["backend", "migrate"])
def test_a_fresh_clone_with_the_required_settings_gives_a_replica_all_that_is_in_the_file(
    service: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = filled(EXAMPLE)
    env = env_of(service, text)
    own = {"APP_ENV", "HOST", "PORT", "REDIS_URL", "DATABASE_URL", "POSTGRES_PASSWORD", "MIGRATE_DATABASE_URL"}
    for name, value in read_by_compose(text).items():
        assert name in own or env[name] == value, name
    monkeypatch.chdir(tmp_path)
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    settings.check_serve()
    assert settings.app_env == "production"
    replicas = "postgresql://chorus_replica:replicaPassword1@postgres:5432/chorus"
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == replicas
    owner = settings.migrate_database_url
    assert (owner is not None) == (service == "migrate"), "no replica knows the owner's password"
    assert (REQUIRED["POSTGRES_PASSWORD"] in str(env)) == (service == "migrate")
    assert settings.redis_url == f"redis://chorus:{REQUIRED['REDIS_PASSWORD']}@redis:6379/0"
    assert not set(misspelt_settings()) & set(env)


@pytest.mark.parametrize("missing", sorted(REQUIRED))
def test_compose_names_a_required_setting_that_is_missing(missing: str) -> None:
    text = re.sub(rf"^{missing}=.*$", f"{missing}=", filled(EXAMPLE), flags=re.MULTILINE)
    with pytest.raises(KeyError, match=missing):
        env_of("migrate", text)


def test_no_setting_that_is_changed_in_the_file_is_dropped_on_the_way() -> None:
    text = filled(EXAMPLE) + "".join(f"{name}=changed\n" for name in SETTINGS)
    env = env_of("backend", text)
    lost = {name for name in SETTINGS if env.get(name) != "changed"}
    assert lost == {"APP_ENV", "HOST", "PORT", "REDIS_URL", "DATABASE_URL", "MIGRATE_DATABASE_URL"}


def _has_compose() -> bool:
    docker = shutil.which("docker")
    return docker is not None and subprocess.run([docker, "compose", "version"], capture_output=True).returncode == 0


real_compose = pytest.mark.skipif(not _has_compose(), reason="no docker compose on this machine")


def config_by_docker(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """`docker compose config` in a fresh clone, with `text` as the `.env`. No daemon is asked."""
    (folder / ".env").write_text(text, encoding="utf-8")
    profiles = ["--profile", "monitoring", "--profile", "tls"]
    return subprocess.run(
        ["docker", "compose", "--file", ROOT / "docker-compose.yml", "--project-directory", folder, *profiles, "config",
         "--format", "json"],
        capture_output=True, text=True, timeout=60, check=False,
        env={name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "DOCKER_CONFIG"}},
    )  # fmt: skip


@real_compose
def test_docker_shows_the_same_environments_and_no_secret_has_a_default_or_a_comment(tmp_path: Path) -> None:
    text = filled(EXAMPLE) + "PUBLIC_DOMAIN=chat.example.com\nALERT_WEBHOOK_URL=https://alerts.example.com/\n"
    text += "GRAFANA_PASSWORD=grafanaPassword1\nMETRICS_API_KEY=metrics-key-of-thirty-two-characters\n"
    done = config_by_docker(tmp_path, text)
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    assert services.keys() == COMPOSE["services"].keys()
    for service in ("backend", "migrate", "redis", "postgres"):
        shown = {name: value or "" for name, value in services[service]["environment"].items()}
        assert shown == env_of(service, text), service
    for name in SECRETS & services["backend"]["environment"].keys():
        assert "#" not in (services["backend"]["environment"][name] or ""), name


@real_compose
@pytest.mark.parametrize("missing", sorted(REQUIRED))
def test_docker_names_a_required_setting_that_is_missing(missing: str, tmp_path: Path) -> None:
    done = config_by_docker(tmp_path, re.sub(rf"^{missing}=.*$", f"{missing}=", filled(EXAMPLE), flags=re.MULTILINE))
    assert done.returncode != 0
    assert missing in done.stderr
