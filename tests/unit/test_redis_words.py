"""What Redis says is repeated as far as it is known; the rest may quote the command, with names of mailboxes."""

from __future__ import annotations

import pytest
from redis.exceptions import (
    AuthenticationError,
    InvalidResponse,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    RedisClusterException,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from app.core.redis.trouble import redis_words


@pytest.mark.parametrize(
    ("exc", "words"),
    [
        (NoScriptError("No matching script. Please use EVAL."), "NoScriptError: No matching script"),
        (
            OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
            "OutOfMemoryError: command not allowed when used memory > 'maxmemory'",
        ),
        (ResponseError("MISCONF Amina cannot be saved"), "ResponseError MISCONF"),
        (
            ResponseError("ERR unknown command 'X', with args beginning with: 'Amina'"),
            "ResponseError ERR: unknown command",
        ),
        (ResponseError("WRONGTYPE Amina"), "ResponseError WRONGTYPE"),
        (
            ResponseError("user_script:12: attempt to compare Amina script: 0f3, on @user_script:12."),
            "ResponseError: user_script:12",
        ),
        (
            NoPermissionError("User Amina has no permissions to run the 'script|load' command"),
            "NoPermissionError: no permissions to run the 'script|load' command",
        ),
        (
            AuthenticationError("invalid username-password pair or user Amina is disabled."),
            "AuthenticationError: invalid username-password pair",
        ),
        (InvalidResponse("Protocol Error: b'Amina'"), "InvalidResponse"),
        (RedisClusterException("Invalid args in command: ('EVAL', 'Amina')"), "RedisClusterException"),
        (KeyError("Amina"), "KeyError"),
        (RedisConnectionError("Error 111 connecting to h:1."), "Error 111 connecting to h:1."),
    ],
)
def test_of_what_redis_says_the_code_and_what_is_known(exc: Exception, words: str) -> None:
    assert redis_words(exc) == words
