"""Settings: what is pasted with white space works, what cannot be meant is refused by name, a slip is noticed."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.api.schemas import AccountChanges, AccountIn
from app.core.errors import SettingsError
from app.core.redaction import credentials_problem, place_of
from app.core.secrets import clean_secret
from app.setting_names import misspelt
from app.settings import Settings, file_problems, load_settings, misspelt_settings

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="  # in the names of tests, which workers must agree on
SECRETS = (
    "DATABASE_URL", "SUPABASE_KEY", "SUPABASE_JWT_SECRET", "GEMINI_API_KEY", "WHATSAPP_VERIFY_TOKEN", "META_APP_SECRET",
    "WHATSAPP_TOKEN", "ADMIN_API_KEY", "ENCRYPTION_KEY", "REDIS_URL", "REDIS_CACHE_URL",
)  # fmt: skip
COMPLETE = {
    "REDIS_URL": "redis://127.0.0.1:1/0", "DATABASE_URL": "postgresql://127.0.0.1:1/x", "GEMINI_API_KEY": "k",
    "META_APP_SECRET": "an-app-secret-of-some-length", "ENCRYPTION_KEY": KEY,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in {name.upper() for name in Settings.model_fields} & os.environ.keys():
        monkeypatch.delenv(name)


def value_of(name: str) -> Any:
    value = getattr(load_settings(), name.lower())
    value = value[0] if isinstance(value, tuple) else value
    return value if isinstance(value, str) else value.get_secret_value()


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("outside", ["{}\n", " {} ", "\t{}\r\n", "\ufeff{}", "{}\u200b", "\u00a0{}", " \u200b {}"])
def test_a_secret_loses_what_is_invisible_around_it(name: str, outside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, outside.format("secret://value"))
    assert value_of(name) == "secret://value"


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize(
    "value",
    ["# the key", "#value", " # value", "val ue", "value  # the key", "val\nue", "val\tue", "val\u200bue", '"value"',
     "'value'", "val\u00a0ue", "val\x00ue".replace("\x00", "\x01")],
)  # fmt: skip
def test_what_cannot_be_a_secret_is_refused_by_name_and_not_repeated(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert set(caught.value.problems) == {name}
    assert "val" not in str(caught.value).replace("value", "").replace("invalid", "")


def test_a_list_of_secrets_is_cleaned_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCRYPTION_KEY", f" {KEY} ,\n{KEY}\n,")
    assert [key.get_secret_value() for key in load_settings().encryption_key] == [KEY, KEY]
    monkeypatch.setenv("META_APP_SECRET", "first, # second")
    with pytest.raises(SettingsError, match="META_APP_SECRET"):
        load_settings()


@pytest.mark.parametrize("name", ["GEMINI_MODEL", "HOST", "REDIS_NAMESPACE", "WHATSAPP_PHONE_ID", "PORT", "APP_ENV"])
def test_a_comment_is_no_value_of_any_setting(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("# what it means", "value  # what it means"):
        monkeypatch.setenv(name, value)
        with pytest.raises(SettingsError, match=name):
            load_settings()
    good = {"PORT": " 8001\n", "APP_ENV": "production ", "WHATSAPP_PHONE_ID": "\u200b106540352242922 "}
    monkeypatch.setenv(name, good.get(name, " v1 "))
    assert str(getattr(load_settings(), name.lower())) in {"8001", "production", "v1", "106540352242922"}


def test_a_setting_of_white_space_alone_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GEMINI_API_KEY", "PORT", "SUPABASE_URL", "META_APP_SECRET"):
        monkeypatch.setenv(name, " \n")
    settings = load_settings()
    assert (settings.gemini_api_key, settings.port, settings.supabase_url, settings.meta_app_secret) == (
        None, 8000, None, (),
    )  # fmt: skip


@pytest.mark.parametrize("field", ["access_token", "verify_token"])
def test_tokens_of_an_account_are_cleaned_and_refused_the_same_way(field: str) -> None:
    for given in ("token-of-an-account\n", " token-of-an-account "):
        assert getattr(AccountChanges(**{field: given}), field) == "token-of-an-account"
    account: Any = {"name": "n", "slug": "s", "phone_number_id": "1", "access_token": "a" * 9, "verify_token": "v" * 9}
    for refused in ("token of an account", "# token-of-an-account", "token\nof", " " * 9 + "short", '"token-of-it"'):
        with pytest.raises(ValidationError, match=field):
            AccountIn(**account | {field: refused})
    with pytest.raises(ValidationError, match=field):
        AccountChanges(**{field: "token-of-the-café"})


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("\ufeffGEMINI_API_KEY=k\n".encode())
    assert value_of("GEMINI_API_KEY") == "k"


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("GEMINI_API_KEY=k\n".encode("utf-16"))
    with pytest.raises(SettingsError, match=r"\.env"):
        load_settings()
    assert misspelt_settings() == {}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("REDIS_ULR", "REDIS_URL"), ("GEMINI_KEY", "GEMINI_API_KEY"), ("DEBOUNCE_SECOND", "DEBOUNCE_SECONDS"),
        ("redis_ulr", "REDIS_URL"), ("REDIS_URI", "REDIS_URL"), ("DATABSE_URL", "DATABASE_URL"),
        ("WHATSAPP_PHONE_NUMBER_ID", "WHATSAPP_PHONE_ID"), ("WHATSAPP_ACCESS_TOKEN", "WHATSAPP_TOKEN"),
        ("META_SECRET", "META_APP_SECRET"), ("ADMIN_KEY", "ADMIN_API_KEY"), ("ENCRYPTION_KEYS", "ENCRYPTION_KEY"),
        ("LOGLEVEL", "LOG_LEVEL"), ("CHORUS_REDIS_URL", "REDIS_URL"), ("QUEUE_PENDING", "QUEUE_MAX_PENDING"),
        ("REPLY_DEADLINE", "REPLY_DEADLINE_SECONDS"), ("WORKER_CONCURENCY", "WORKER_CONCURRENCY"),
        ("SUPABASE_SERVICE_KEY", "SUPABASE_KEY"), ("APPENV", "APP_ENV"),
        ("SINGUP", "SIGNUP"), ("HSOT", "HOST"), ("PROT", "PORT"), ("REIDS_URL", "REDIS_URL"),
        ("LEASE_SECS", "LEASE_SECONDS"), ("LEASE_SEC", "LEASE_SECONDS"), ("DEBOUNCE_MS", "DEBOUNCE_SECONDS"),
        ("DRAINSECS", "DRAIN_SECONDS"), ("REPLY_DEADLINE_SECS", "REPLY_DEADLINE_SECONDS"),
        ("LOGLVL", "LOG_LEVEL"), ("LOG_LVL", "LOG_LEVEL"), ("MAX_CONNS", "MAX_CONNECTIONS"),
        ("WHATSAPP_MSGS_PER_SEC", "WHATSAPP_MESSAGES_PER_SECOND"), ("APP_ENVIRONMENT", "APP_ENV"),
        ("WA_TOKEN", "WHATSAPP_TOKEN"), ("TRUST_ENV", "HTTP_TRUST_ENV"), ("VERIFY_TOKEN", "WHATSAPP_VERIFY_TOKEN"),
        ("MAX_PENDING", "QUEUE_MAX_PENDING"), ("GEMINI_TOKEN", "GEMINI_API_KEY"), ("GEMINI_APIKEY", "GEMINI_API_KEY"),
        ("ADMIN_TOKEN", "ADMIN_API_KEY"), ("METRICS_SECRET", "METRICS_API_KEY"), ("WHATSAPP_API_KEY", "WHATSAPP_TOKEN"),
        ("SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_KEY"), ("SUPABASE_SECRET_KEY", "SUPABASE_KEY"),
        ("SUPABASE_JWT_KEY", "SUPABASE_JWT_SECRET"), ("WHATSAPP_APP_SECRET", "META_APP_SECRET"),
        ("REDIS_DURABLE", "REDIS_DURABILITY"), ("DATABASE_POOL", "DATABASE_POOLING"), ("CHORUS_LOGLVL", "LOG_LEVEL"),
    ],
)  # fmt: skip
def test_a_slip_is_named_with_the_setting_that_was_meant(
    name: str, meant: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(name, "x")
    assert misspelt_settings()[name.upper()] == meant
    monkeypatch.delenv(name)
    assert name.upper() not in misspelt_settings()
    (tmp_path / ".env").write_text(f"{name}=x\n")
    assert misspelt_settings()[name.upper()] == meant


UNRELATED = [
    "CHORUS_PORT",
    "CHORUS_SERVICE_HOST",
    "CHORUS_SERVICE_PORT",
    "CHORUS_PORT_8080_TCP",
    "CHORUS_API_PORT",
    "REDIS_SERVICE_PORT",
    "HOSTNAME",
    "HOME",
    "PATH",
    "PWD",
    "SHELL",
    "TERM",
    "LANG",
    "LC_ALL",
    "REDIS_PORT",
    "REDIS_HOST",
    "REDIS_SERVICE_HOST",
    "REDIS_PORT_6379_TCP",
    "POSTGRES_PASSWORD",
    "POSTGRES_USER",
    "OTEL_LOG_LEVEL",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "LOG_LEVEL_ROOT",
    "LOG_FILE",
    "LOG_FILE_FORMAT",
    "APP_NAME",
    "APP_VERSION",
    "APP_ENV_FILE",
    "APP_URL",
    "APP_KEY",
    "APP_DEBUG",
    "APP_SECRET",
    "META_APP_ID",
    "NEXT_PUBLIC_SUPABASE_URL",
    "NODE_ENV",
    "RAILS_ENV",
    "SERVER_PORT",
    "WHATSAPP_BUSINESS_ACCOUNT_ID",
    "SSL_CERT_DIR",
    "HOST_IP",
    "DB_URL",
    "KUBERNETES_PORT",
    "GITHUB_TOKEN",
    "SUPABASE_ANON_KEY",
    "SUPABASE_ACCESS_TOKEN",
    "ADMIN_EMAIL",
    "ADMIN_PASSWORD",
    "GOOGLE_API_KEY",
    "DATABASE_NAME",
    "DATABASE_USER",
    "WORKER_ID",
    "QUEUE_NAME",
    "QUEUE_URL",
    "HTTP_HOST",
    "ALL_PROXY",
    "PUBLIC_PORT",
    "OPERATORS_PORT",
    "GRAFANA_PORT",
    "REDIS_PASSWORD",
    "GRAFANA_PASSWORD",
    "REDIS_NAME",
    "API_KEY",
    "API_VERSION",
    "BASE_URL",
    "CACHE_URL",
    "JWT_SECRET",
    "SECRET_KEY",
    "DATABASE_POOL_SIZE",
    "LOG_DIR",
    "TIMEOUT_MS",
    "LESS",
    "POST",
    "HOSTS",
    "HOST_PORT",
    "ENVIRONMENT",
    "MAX_RETRIES",
    "FACEBOOK_APP_SECRET",
    "OPENAI_API_KEY",
    "OTEL_SERVICE_NAME",
    "PYTHONPATH",
    "UVICORN_PORT",
    "WEB_CONCURRENCY",
]


@pytest.mark.parametrize("name", UNRELATED)
def test_variables_of_other_programs_raise_no_alarm(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "x")
    assert name not in misspelt_settings()


def test_a_copy_beside_a_setting_that_is_given_raises_no_alarm() -> None:
    known = {"GEMINI_API_KEY": False, "DATABASE_URL": False}
    assert misspelt(["GEMINI_API_KEY", "GEMINI_API_KEY_OLD", "GEMINI_API_KEY_2"], known) == {}
    assert misspelt(["DATABASE_URL", "DATABASE_URL_TEST"], known) == {}
    known = {"SUPABASE_KEY": False, "GEMINI_API_KEY": False, "HTTP_TRUST_ENV": True}
    others = ["SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_SECRET_KEY", "GEMINI_TOKEN", "TRUST_ENV"]
    assert misspelt([*known, *others], known) == {}


@pytest.mark.parametrize(
    ("text", "line", "meant"),
    [
        ("REDIS_ULR: redis://:secret@h\n", 1, "REDIS_URL"),
        ("PORT=80\n\nREDIS_URL: redis://:secret@h\n", 3, "REDIS_URL"),
        ('# a comment\nGEMINI_API_KEY="secret\nPORT=80\n', 2, "GEMINI_API_KEY"),
        ("GEMINI_API_KEY='secret\n", 1, "GEMINI_API_KEY"), ('export GEMINI_KEY="secret\n', 1, "GEMINI_API_KEY"),
        ('GEMINI_API_KEY="secret\nMETA_APP_SECRET="secret"\n', 1, "GEMINI_API_KEY"),
        ("MIIEsecret+/=\n", 1, "NAME"), ("REDIS_URL:redis://:secret@h\n", 1, "REDIS_URL"),
        ("REDIS_URL\n", 1, "REDIS_URL"),
        ("ENCRYPTION_KEY:secret=\n", 1, "ENCRYPTION_KEY"), ("GEMINI_API_KEY secret\n", 1, "GEMINI_API_KEY"),
    ],
)  # fmt: skip
def test_a_line_of_the_file_that_sets_nothing_is_named_without_its_value(
    text: str, line: int, meant: str, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(text)
    found = file_problems()
    assert list(found) == [f".env line {line}"]
    assert f"{meant}=" in found[f".env line {line}"]
    assert "secret" not in str(found) + str(misspelt_settings()).lower()


def test_a_file_that_is_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    assert file_problems() == {".env": "is a directory; no setting is read from it"}


def test_a_good_file_and_none_are_no_problem(tmp_path: Path) -> None:
    assert file_problems() == {}
    (tmp_path / ".env").write_text("\ufeff# a comment\n\nexport PORT=80\nHOST='h'\nLOG_LEVEL=\nGEMINI_MODEL=\"m\"\r\n")
    assert file_problems() == {}
    (tmp_path / ".env").write_bytes("GEMINI_API_KEY: k\n".encode("utf-16"))  # `load_settings` says so
    assert file_problems() == {}


def test_many_lines_that_set_nothing_are_a_bounded_report(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("REDIS_URL: x\n" * 1000)
    assert len(file_problems()) == 10


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("postgresql://u:p@ss@h/db", "%40"), ("postgresql://u:p/ss@h/db", "%2F"), ("postgresql://u:p#ss@h/db", "%23"),
        ("postgresql://u:p?ss@h/db", "%3F"), ("postgresql://us@er:p@h/db", "%40"), ("redis://:pa[ss@h", "%5B"),
        ("postgresql://u:100%@h/db", "%25"),
    ],
)  # fmt: skip
def test_a_character_that_must_be_escaped_is_named(url: str, named: str) -> None:
    problem = credentials_problem(url)
    assert problem is not None
    assert named in problem
    assert "ss@" not in problem


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:p%40ss@h/db", "postgresql://h:5432/db", "postgresql://h/db?options=a@b", "redis://h:6379/0?x=a@b",
     "postgresql://u@[::1]:5432/db", "redis://", "postgresql:///db?host=/tmp", "redis+sentinel://a:1,b:2/s?x=@"],
)  # fmt: skip
def test_a_good_url_is_left_alone(url: str) -> None:
    assert credentials_problem(url) is None


def test_a_place_is_shown_without_its_secrets() -> None:
    assert place_of("redis://u:secret@h:6379/0?sentinel_password=s") == "h:6379"
    assert place_of("redis://h") == "h"
    assert place_of("unix://u:secret@/run/redis.sock") == "/run/redis.sock"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("DATABASE_URL", "postgresql://u:p@ss@h/db", "%40"),
        ("DATABASE_URL", "postgresql://u:p/ss@h/db", "%2F"),
        ("DATABASE_URL", "postgresql://h:port/db", "a port that is none"),
        ("DATABASE_URL", "mysql://h/db", "must start with"),
        ("REDIS_URL", "localhost:6379", "is not a URL"),
        ("REDIS_URL", "redis://:pa/ss@h:6379", "%2F"),
        ("REDIS_URL", "redis://h/0?nonsense=1", "an option that does not exist: nonsense"),
        ("REDIS_URL", "redis://h/0?socket_timeout=soon", "takes a number above 0 as socket_timeout"),
        ("REDIS_URL", "redis://h/0?ssl_ca_certs=/ca.pem", "needs rediss://"),
        ("REDIS_URL", "redis://h/0?protocol=9", "takes 2 or 3 as protocol"),
        ("REDIS_URL", "redis://h/abc", "no number of a database"),
        ("REDIS_URL", "unix://relative.sock", "unix:///run/redis.sock"),
        ("REDIS_CACHE_URL", "localhost:6379", "is not a URL"),
        ("REDIS_CACHE_URL", "redis://h/0/1", "no number of a database"),
        ("GEMINI_BASE_URL", "gemini", "must start with"),
        ("GEMINI_BASE_URL", "https://", "a host that is none"),
        ("GEMINI_BASE_URL", "https://:443", "a host that is none"),
        ("GEMINI_BASE_URL", "https://.example", "a host that is none"),
        ("GEMINI_BASE_URL", "https://[::1", "a host that is none"),
        ("GEMINI_BASE_URL", "https://h:99999", "a port that is none"),
        ("GEMINI_BASE_URL", "https://h:0", "a port that is none"),
        ("GEMINI_BASE_URL", "https://h/?a=b", "'?' or '#'"),
        ("SUPABASE_URL", "https://h#x", "'?' or '#'"),
        ("PUBLIC_URL", "chorus.example.com", "must start with"),
        ("PUBLIC_URL", "https://h/console", "a path or a user"),
        ("PUBLIC_URL", "https://h@evil", "a path or a user"),
        ("GEMINI_BASE_URL", "https://h/v1beta", "ends in /v1beta"),
        ("GEMINI_BASE_URL", "https://h/a/v1/", "ends in /v1,"),
        ("WHATSAPP_BASE_URL", "https://h/v26.0", "ends in /v26.0"),
        ("SUPABASE_URL", "https://h/rest/v1", "ends in /rest/v1"),
        ("HOST", "localhost:8000", "without scheme, brackets and port"),
        ("HOST", "http://0.0.0.0", "without scheme, brackets and port"),
        ("HOST", "[::]", "without scheme, brackets and port"),
        ("HOST", "*", "without scheme, brackets and port"),
        ("META_APP_SECRET", "12345:", "a colon without"),
        ("META_APP_SECRET", "an-app-secret-of-some-length,:secret", "a colon without"),
        ("META_APP_SECRET", "my-app:secret", "a colon without"),
        ("WHATSAPP_PHONE_ID", "+34610", "1 to 32 digits"),
        ("WHATSAPP_PHONE_ID", "1" * 33, "1 to 32 digits"),
        ("WHATSAPP_PHONE_ID", "٣٤", "1 to 32 digits"),
    ],
)
def test_a_value_that_cannot_work_is_named_with_the_cause(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other, good in COMPLETE.items():
        monkeypatch.setenv(other, good)
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings().check_serve()
    assert said in caught.value.problems[name]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GEMINI_BASE_URL", "https://gateway.test/v1/some-account/google-ai-studio"),
        ("GEMINI_BASE_URL", "http://[::1]:9000"),
        ("WHATSAPP_BASE_URL", "https://chorus_proxy.test:443/whatsapp"),
        ("WHATSAPP_BASE_URL", "https://münchen.test"),
        ("HOST", "::"),
        ("HOST", "chorus_api.internal."),
        ("META_APP_SECRET", "12345:one-secret,12345:another:with-a-colon"),
    ],
)
def test_an_unusual_value_that_works_is_taken(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other, good in COMPLETE.items():
        monkeypatch.setenv(other, good)
    monkeypatch.setenv(name, value)
    load_settings().check_serve()


@pytest.mark.parametrize(
    ("name", "value"),
    [("WHATSAPP_TOKEN", "short"), ("WHATSAPP_VERIFY_TOKEN", "short"), ("WHATSAPP_VERIFY_TOKEN", "token-of-the-café")],
)
def test_a_first_account_is_refused_where_account_add_refuses_it(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {"WHATSAPP_TOKEN": "access-token", "WHATSAPP_PHONE_ID": "1", "WHATSAPP_VERIFY_TOKEN": "verify-token"}
    for other, good in (COMPLETE | first).items():
        monkeypatch.setenv(other, good)
    assert load_settings().problems() == {}
    monkeypatch.setenv(name, value)
    assert "8 to 1000 visible" in load_settings().problems()[name]


FLOATS = [name.upper() for name, field in Settings.model_fields.items() if field.annotation is float]


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "Infinity"])
@pytest.mark.parametrize("name", FLOATS)
def test_a_number_is_finite(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "REPLY_DEADLINE_SECONDS" in FLOATS
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        load_settings()


def test_cleaning_twice_changes_nothing() -> None:
    assert clean_secret(clean_secret(" a-b_c \n")) == "a-b_c"


PRODUCTION: dict[str, Any] = {
    "app_env": "production", "redis_url": "redis://127.0.0.1:1/0", "database_url": "postgresql://127.0.0.1:1/x",
    "meta_app_secret": "0123456789abcdef" * 2, "gemini_api_key": "k", "encryption_key": KEY,
    "admin_api_key": "0123456789abcdef" * 2, "whatsapp_verify_token": "0123456789abcdef",
}  # fmt: skip


def test_production_takes_settings_that_nobody_guesses() -> None:
    assert load_settings(_env_file=None, **PRODUCTION).problems() == {}
    named = {"meta_app_secret": "12345:" + "0123456789abcdef" * 2 + ",67890:" + "fedcba9876543210" * 2}
    assert load_settings(_env_file=None, **PRODUCTION | named).problems() == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("supabase_url", "http://project.supabase.test"),
        ("supabase_jwt_secret", "x" * 15 + "y" * 16),
        ("supabase_jwt_secret", "x" * 64),
        ("meta_app_secret", "0123456789abcdef" * 2 + ",fedcba9876543210"),
        ("meta_app_secret", "12345:0123456789abcdef"),
        ("meta_app_secret", "12345:" + "a" * 32),
        ("meta_app_secret", "0123456789abcdef" * 2 + "," + "fedcba9876543210" * 2),
        ("admin_api_key", "0123456789abcdef" + "0" * 15),
        ("admin_api_key", "a" * 40),
        ("whatsapp_verify_token", "0123456789abcde"),
        ("whatsapp_verify_token", "v" * 16),
        ("encryption_key", "A" * 43 + "="),
        ("encryption_key", "a" * 43 + "="),
        ("encryption_key", base64.urlsafe_b64encode(b"\xfe" * 32).decode()),
        ("encryption_key", KEY + "," + "_" * 43 + "="),
    ],
)
def test_production_refuses_what_can_be_guessed_or_read_on_the_way(name: str, value: str) -> None:
    given = PRODUCTION | {name: value}
    assert set(load_settings(_env_file=None, **given).problems()) == {name.upper()}
    assert load_settings(_env_file=None, **given | {"app_env": "development"}).problems() == {}
    assert value not in str(load_settings(_env_file=None, **given).problems())
