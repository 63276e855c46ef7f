"""Access tokens: only Supabase's own, for us, in time, and verified without asking Supabase each time."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from app.adapters.supabase_auth import SupabaseTokenVerifier
from app.core.circuit_breaker import BreakerPolicy, CircuitBreaker
from app.core.errors import Unavailable
from app.domain.errors import Unauthenticated
from app.domain.models import User
from tests.support.fakes import FakeClock

NO_USER_IDS = ["\ud800", "ada\x00", "", " ", "a b", "ada\n", "é", "x" * 5000, 7, ["ada"], {}, True]
URL = "https://project.supabase.test"
SECRET = "a-legacy-secret-of-more-than-32-characters"
EC_KEY = ec.generate_private_key(ec.SECP256R1())
EC_OTHER = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def jwk(key, kid, **more):
    algorithm = ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else RSAAlgorithm
    return json.loads(algorithm.to_jwk(key.public_key())) | {"kid": kid, **more}


def claims(**changes):
    wanted = {
        "iss": f"{URL}/auth/v1", "aud": "authenticated", "sub": "user-1", "role": "authenticated",
        "exp": time.time() + 600,
    } | changes  # fmt: skip
    return {name: value for name, value in wanted.items() if value is not None}


def signed(key=EC_KEY, kid="ec", algorithm="ES256", **changes):
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers={"kid": kid})


class VerifierCase:
    def __init__(self, *, secret=None) -> None:
        self.clock = FakeClock()
        self.keys: object = [jwk(EC_KEY, "ec", alg="ES256", use="sig"), jwk(RSA_KEY, "rsa")]
        self.down: object = None
        self.fetches = 0
        self.client = httpx.AsyncClient(transport=httpx.MockTransport(self.handle))
        breaker = CircuitBreaker("supabase", BreakerPolicy(5, 30.0), clock=self.clock)
        self.verifier = SupabaseTokenVerifier(
            URL, jwt_secret=secret, clock=self.clock, breaker=breaker, get_client=self.get_client
        )

    async def get_client(self):
        return self.client

    def handle(self, request):
        self.fetches += 1
        assert str(request.url) == f"{URL}/auth/v1/.well-known/jwks.json"
        if isinstance(self.down, Exception):
            raise self.down
        return self.down or httpx.Response(200, json={"keys": self.keys})

    async def refuses(self, token):
        with pytest.raises(Unauthenticated):
            await self.verifier.verify(token)


@pytest.fixture
async def world():
    world = VerifierCase()
    yield world
    await world.client.aclose()


async def test_a_good_token_of_either_key_type_tells_the_user_and_the_keys_are_fetched_once(world):
    assert await world.verifier.verify(signed()) == User("user-1")
    assert await world.verifier.verify(signed(RSA_KEY, "rsa", "RS256", sub="user-2")) == User("user-2")
    assert world.fetches == 1


@pytest.mark.parametrize(("claim", "is_anonymous"), [(True, True), (False, False), ("true", False), (None, False)])
async def test_an_anonymous_user_is_known_as_such(world, claim, is_anonymous):
    assert await world.verifier.verify(signed(is_anonymous=claim)) == User("user-1", is_anonymous=is_anonymous)


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.test/auth/v1"}, {"iss": None}, {"aud": "anon"}, {"aud": None}, {"sub": None},
        {"exp": None}, {"role": "anon"}, {"role": "service_role"}, {"role": None}, {"role": ["authenticated"]},
    ],
)  # fmt: skip
async def test_a_token_that_is_not_for_us_is_refused(world, changes):
    await world.refuses(signed(**changes))


@pytest.mark.parametrize("sub", NO_USER_IDS)
async def test_a_user_id_that_no_member_can_have_is_refused(world, sub):
    await world.refuses(signed(sub=sub))


@pytest.mark.parametrize("sub", ["7ad5e7ba-30a6-4c51-a2b8-d2f5a8a0d7b1", "auth0|ada", "a" * 255])
async def test_a_user_id_in_the_form_of_members_is_accepted(world, sub):
    assert await world.verifier.verify(signed(sub=sub)) == User(sub)


@pytest.mark.parametrize(("claim", "seconds_from_now"), [("exp", -11), ("nbf", 60)])
async def test_a_token_that_is_not_for_now_is_refused(world, claim, seconds_from_now):
    await world.refuses(signed(**{claim: time.time() + seconds_from_now}))


async def test_a_replica_whose_clock_is_behind_lets_people_in(world):
    assert await world.verifier.verify(signed(iat=int(time.time()) + 600, exp=time.time() + 4200))


async def test_clocks_may_differ_by_a_few_seconds(world):
    assert await world.verifier.verify(signed(exp=time.time() - 5))


async def test_a_wrong_signature_is_refused(world):
    await world.refuses(signed(EC_OTHER))
    head, body, signature = signed().split(".")
    await world.refuses(f"{head}.{body}.{signature[:-4]}AAAA")


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "é.é.é", "." * 10, "x" * 9000, "sb_secret_abc"])
async def test_nonsense_is_refused_without_asking_anybody(world, token):
    await world.refuses(token)
    assert world.fetches == 0


async def test_the_tokens_own_algorithm_never_chooses(world):
    """A public key must not work as an HMAC secret, `none` is no signature, and a key is used one way only."""
    await world.refuses(jwt.encode(claims(), "", algorithm="none", headers={"kid": "ec"}))
    pem = EC_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    forged = ".".join(_base64(json.dumps(part).encode()) for part in ({"alg": "HS256", "kid": "ec"}, claims()))
    await world.refuses(f"{forged}.{_base64(hmac.digest(pem, forged.encode(), 'sha256'))}")
    await world.refuses(signed(RSA_KEY, "ec", "RS256"))
    await world.refuses(signed(RSA_KEY, "rsa", "RS512"))
    await world.refuses(jwt.encode(claims(), EC_KEY, algorithm="ES256"))


def _base64(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


async def test_the_legacy_secret_works_only_if_it_is_configured(world):
    token = jwt.encode(claims(), SECRET, algorithm="HS256")
    await world.refuses(token)
    legacy = VerifierCase(secret=SECRET)
    assert await legacy.verifier.verify(token) == User("user-1")
    await legacy.refuses(jwt.encode(claims(), SECRET + "x", algorithm="HS256"))
    assert legacy.fetches == 0
    await legacy.client.aclose()


async def test_a_new_key_is_picked_up_when_a_token_names_it(world):
    await world.verifier.verify(signed())
    world.keys = [jwk(EC_OTHER, "new")]
    world.clock.advance(10)
    assert await world.verifier.verify(signed(EC_OTHER, "new"))
    await world.refuses(signed())


async def test_invented_key_ids_cannot_make_us_hammer_supabase(world):
    for n in range(50):
        await world.refuses(signed(kid=f"invented-{n}"))
    assert world.fetches == 1
    world.clock.advance(10)
    for n in range(50):
        await world.refuses(signed(kid=f"invented-{n}"))
    assert world.fetches == 2


async def test_a_revoked_key_is_forgotten_after_ten_minutes(world):
    await world.verifier.verify(signed())
    world.keys = [jwk(EC_OTHER, "new")]
    world.clock.advance(599)
    await world.verifier.verify(signed())
    world.clock.advance(2)
    await world.refuses(signed())


@pytest.mark.parametrize("keys", [[], [{"kid": "x", "kty": "oct"}]])
async def test_an_empty_set_keeps_the_known_keys(world, keys):
    await world.verifier.verify(signed())
    world.keys = keys
    world.clock.advance(700)
    assert await world.verifier.verify(signed()) == User("user-1")
    world.keys = [jwk(EC_OTHER, "new")]
    world.clock.advance(700)
    assert await world.verifier.verify(signed(EC_OTHER, "new")) == User("user-1")
    await world.refuses(signed())


async def test_known_keys_keep_working_while_supabase_is_away(world, caplog):
    await world.verifier.verify(signed())
    world.down = httpx.ConnectError("x")
    world.clock.advance(700)
    assert await world.verifier.verify(signed())
    assert "signing keys not refreshed" in caplog.text


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.ConnectError("x"),
        httpx.ReadTimeout("x"),
        httpx.Response(503),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json={"keys": "?"}),
        httpx.Response(200, json=[]),
    ],
)
async def test_without_any_key_it_is_unavailable_not_unauthenticated(world, trouble, monkeypatch):
    monkeypatch.setattr("app.core.retry.FIRST_DELAY_SECONDS", 0)
    world.down = trouble
    with pytest.raises(Unavailable) as caught:
        await world.verifier.verify(signed())
    assert caught.value.dependency == "supabase"
    fetches = world.fetches
    with pytest.raises(Unavailable) as caught:
        await world.verifier.verify(signed())
    assert caught.value.retry_after == 10
    assert world.fetches == fetches
    world.down = None
    world.clock.advance(10)
    assert await world.verifier.verify(signed())


async def test_many_first_requests_share_one_fetch(world):
    assert await asyncio.gather(*(world.verifier.verify(signed()) for _ in range(20))) == [User("user-1")] * 20
    assert world.fetches == 1


async def test_keys_we_cannot_use_are_skipped(world):
    world.keys = [
        "odd", {}, {"kid": "x"}, {"kid": "oct", "kty": "oct", "k": "c2VjcmV0"},
        {"kid": "broken", "kty": "EC", "crv": "P-256"},
        jwk(EC_OTHER, "enc", use="enc"), jwk(EC_OTHER, "wrong", alg="HS256"), jwk(EC_KEY, "ec"),
    ]  # fmt: skip
    assert await world.verifier.verify(signed())
    for kid in ("oct", "broken", "enc", "wrong"):
        await world.refuses(signed(EC_OTHER, kid))
