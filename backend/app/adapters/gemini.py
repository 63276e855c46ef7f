"""Gemini over REST (`generateContent`), and what each of its answers and errors means to us."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from urllib.parse import quote

from app.adapters.gemini_answers import (
    ApiError,
    Spoken,
    as_object,
    parse,
    read_answer,
    read_error,
    read_files,
)
from app.adapters.gemini_parameters import MAX_OUTPUT_TOKENS, ModelParameters
from app.core.circuit_breaker import (
    FAILED,
    IGNORED,
    CircuitBreaker,
    KeyedCircuitBreakers,
    State,
    Verdict,
    default_classify,
    gemini_circuit_breaker,
    gemini_model_breakers,
)
from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.deadline import Deadline
from app.core.errors import Overloaded
from app.core.http_client import (
    GetClient,
    HttpError,
    PoolFull,
    Response,
    get_http_client,
    get_http_client_for_probes,
    request,
)
from app.core.resilience import ResiliencePolicy
from app.core.retry import is_unavailable
from app.core.slots import Slots
from app.domain.errors import ModelRefused, Unavailable
from app.domain.models import BotProfile, Generation, Json, Prompt, Turn
from app.domain.text import whole_sentences

logger = logging.getLogger(__name__)

DEPENDENCY = "gemini"
ATTEMPT_SECONDS = 15.0
PROBE_SECONDS = 5.0
NO_JSON = "with a body that is not JSON"
PER_DAY_RETRY_SECONDS = 3600.0
"""A daily quota comes back at midnight Pacific time: longer than any reply can wait, so it is handed over."""
MINUTE_SECONDS = 60.0
"""The longest delay of a quota that is counted per minute. The circuit stays open for as long as one of those says."""
LOOK_AGAIN_SECONDS = 30.0
"""How long it stays open for a longer one: the quota may be raised, or the key replaced, at any time."""
EMPTY_PAUSE_SECONDS = 2.0
"""Before an answer without text is asked for once more: up to this, drawn evenly (full jitter)."""
MAX_REFUSED_PARAMETERS = 4
"""So many requests in a row may be answered with "this model does not take that parameter"."""
PROOF_SECONDS = 600.0
"""After so long without an answer from the default model, the probe asks for one itself instead of only looking the
model up. At most 144 answers of one token a day and replica: requests per day are the scarcest of Gemini's quotas."""
PROBE_PROMPT = Prompt("Answer with one word.", (Turn("user", "ping"),))


class GeminiUnavailable(Unavailable):
    """`passing`: worth another attempt · `hold_seconds`: how long the circuit stays open for it, if the upstream named
    a delay."""

    def __init__(
        self,
        message: str,
        *,
        passing: bool,
        retry_after: float | None = None,
        hold_seconds: float | None = None,
    ) -> None:
        super().__init__(DEPENDENCY, message, retry_after=retry_after)
        self.passing = passing
        self.hold_seconds = hold_seconds


class InvalidRequest(ModelRefused):
    """400 INVALID_ARGUMENT. `complaint` is Google's free text: to be read by `ModelParameters`, never logged."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.words)
        self.complaint = error.complaint


class GeminiModel:
    """Implements `domain.ports.Model`. `look_again_seconds`: how often an upstream is probed in the background, which
    is the longest that a used-up daily quota keeps the circuit open.

    One account's choice is not the others' outage: a model other than the default one, and answers longer than the
    default, have a circuit for that model (`model_breakers`), with retries of their own.
    """

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        default_model: str,
        max_concurrent: int = 50,
        look_again_seconds: float = LOOK_AGAIN_SECONDS,
        breaker: CircuitBreaker = gemini_circuit_breaker,
        model_breakers: KeyedCircuitBreakers = gemini_model_breakers,
        get_client: GetClient = get_http_client,
        get_probe_client: GetClient = get_http_client_for_probes,
        clock: Clock = SYSTEM_CLOCK,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._base_url = base_url
        self._headers = {"x-goog-api-key": api_key}
        self._default_model = _plain_name(default_model)
        self._look_again_seconds = look_again_seconds
        self._get_client = get_client
        self._get_probe_client = get_probe_client
        self._breaker = breaker
        self._model_breakers = model_breakers
        self._clock = clock
        self._uniform = uniform
        self._parameters = ModelParameters(clock)
        self._proven_until = 0.0
        self._policy, self._chosen_policy = (
            ResiliencePolicy(
                DEPENDENCY,
                breaker=breaker,
                attempt_timeout_seconds=ATTEMPT_SECONDS,
                max_attempts=3,
                slots=Slots(max_concurrent),
                classify=_classify,
                retry_if=_may_repeat,
                clock=clock,
            )
            for _ in range(2)
        )

    async def generate(self, prompt: Prompt, *, deadline: Deadline) -> Generation:
        model = self._model(prompt)
        policy = self._policy
        if self._is_chosen(prompt):
            policy = self._chosen_policy.behind(self._model_breakers.get(_key(model)))
        post = partial(policy.call, self._post, deadline=deadline)
        answer = await self._ask(model, prompt, post)
        answers = [answer]
        functions = frozenset(function.name for function in prompt.functions)
        spoken = read_answer(answer, functions)
        if _is_empty(spoken) and await self._pause(deadline):
            logger.warning("empty answer, asking once more", extra={"finish_reason": spoken.reason})
            answer = await self._ask(model, prompt, post)
            answers.append(answer)
            spoken = read_answer(answer, functions)
        return _generation(answers, spoken, model, prompt)

    def blocked_seconds(self, profile: BotProfile) -> float:
        breaker = self._circuit(profile)
        return breaker.blocked_seconds() if breaker else 0.0

    def away_seconds(self, profile: BotProfile) -> float:
        breaker = self._circuit(profile)
        return max(breaker.blocked_seconds(), breaker.named_seconds()) if breaker else 0.0

    def blocked_reason(self, profile: BotProfile) -> str:
        breaker = self._circuit(profile)
        words = breaker.blocked_reason() if breaker else ""
        return f"the model's own {words}" if breaker is not self._breaker else words

    def _circuit(self, profile: BotProfile) -> CircuitBreaker | None:
        """`None`: one of a model that has not been asked of late."""
        return self._model_breakers.find(_key(self._model(profile))) if self._is_chosen(profile) else self._breaker

    def _model(self, asked: Prompt | BotProfile) -> str:
        return _plain_name(asked.model or self._default_model)

    def _is_chosen(self, asked: Prompt | BotProfile) -> bool:
        """Another model, or longer answers, than an account has that chooses nothing."""
        return self._model(asked) != self._default_model or (asked.max_output_tokens or 0) > MAX_OUTPUT_TOKENS

    def silent_seconds(self) -> float:
        return self._policy.silent_seconds()

    async def probe(self) -> Mapping[str, object]:
        """Is the API reachable, the key good, the default model alive, and does it take our requests? Past the breaker.
        Asks for a token with the real parameters, or only looks the model up while answers prove the rest and the
        circuit is closed.
        Raises `Unavailable`."""
        if self._breaker.view.state is State.CLOSED and self._clock.monotonic() < self._proven_until:
            response = await self._exchange(
                "GET", self._url(self._default_model), self._get_probe_client, timeout_seconds=PROBE_SECONDS
            )
            if response.status >= 500 or (error := read_error(response.status, parse(response.body))) is not None:
                raise self._failure(error or ApiError(response.status, "", "", ""))
            return {}
        try:
            post = partial(self._post, get_client=self._get_probe_client)
            await self._ask(self._default_model, PROBE_PROMPT, post, max_output_tokens=1)
        except ModelRefused as exc:
            raise GeminiUnavailable(f"gemini: {exc.reason}", passing=False) from exc
        return {}

    async def _pause(self, deadline: Deadline) -> bool:
        """False, and no pause, if the deadline leaves no time for it and another answer."""
        seconds = EMPTY_PAUSE_SECONDS * self._uniform()
        if deadline.remaining() <= seconds:
            return False
        await self._clock.sleep(seconds)
        return True

    async def _ask(
        self,
        model: str,
        prompt: Prompt,
        post: Callable[[str, Mapping[str, object]], Awaitable[Mapping[str, object]]],
        *,
        max_output_tokens: int | None = None,
    ) -> Mapping[str, object]:
        """One answer; again without what the model does not take. A refused parameter is no failure of Gemini's."""
        for _ in range(MAX_REFUSED_PARAMETERS):
            body = self._body(model, prompt, max_output_tokens)
            try:
                return await post(model, body)
            except InvalidRequest as exc:
                if not self._parameters.learn(model, body, exc.complaint):
                    raise
                logger.warning("model refuses a parameter, asking without it", extra={"model": model})
        return await post(model, self._body(model, prompt, max_output_tokens))

    def _body(self, model: str, prompt: Prompt, max_output_tokens: int | None) -> Json:
        body = self._parameters.body(model, prompt)
        if max_output_tokens is not None:
            body["generationConfig"]["maxOutputTokens"] = max_output_tokens
        return body

    async def _post(
        self, model: str, body: Mapping[str, object], *, get_client: GetClient | None = None
    ) -> Mapping[str, object]:
        is_default = model == self._default_model
        try:
            answer = await self._answer(model, body, get_client or self._get_client)
        except Exception:
            if is_default:
                self._proven_until = 0.0
            raise
        if is_default:
            self._proven_until = self._clock.monotonic() + PROOF_SECONDS
        return answer

    async def _answer(self, model: str, body: Mapping[str, object], get_client: GetClient) -> Mapping[str, object]:
        url = f"{self._url(model)}:generateContent"
        response = await self._exchange("POST", url, get_client, timeout_seconds=ATTEMPT_SECONDS, payload=body)
        answer = parse(response.body)
        error = read_error(response.status, answer)
        if error is None:
            if answer is None:
                raise GeminiUnavailable(f"gemini: HTTP {response.status} {NO_JSON}", passing=True)
            return answer
        if error.is_about_the_request:
            raise InvalidRequest(error)
        if error.status == 404 and model != self._default_model:
            raise ModelRefused(f"{error.words}: {model}", about_the_text=False)
        raise self._failure(error)

    async def _exchange(
        self, method: str, url: str, get_client: GetClient, *, timeout_seconds: float, payload: object = None
    ) -> Response:
        try:
            return await request(
                method,
                url,
                timeout_seconds=timeout_seconds,
                headers=self._headers,
                payload=payload,
                get_client=get_client,
            )
        except PoolFull as exc:
            raise Overloaded(DEPENDENCY, f"gemini: {exc}") from exc
        except HttpError as exc:
            # Asking twice costs tokens, not a customer's patience: an ambiguous failure is as good as a definite one.
            raise GeminiUnavailable(f"gemini: {exc}", passing=True) from exc

    def _url(self, model: str) -> str:
        return f"{self._base_url}/v1beta/models/{quote(_plain_name(model), safe='')}"

    def _failure(self, error: ApiError) -> GeminiUnavailable:
        """What makes a model unusable; the table is in the API's page on errors. Quotas, too, are per model."""
        message = f"gemini: {error.words}"
        if error.status == 429:
            delay, per_day = error.quota()
            hold = self._look_again_seconds if per_day or (delay or 0.0) > MINUTE_SECONDS else delay
            if per_day:
                delay = max(delay or 0.0, PER_DAY_RETRY_SECONDS)
                message += " (daily quota)"
            return GeminiUnavailable(message, passing=not per_day, retry_after=delay, hold_seconds=hold)
        return GeminiUnavailable(message, passing=error.status >= 500)


def _plain_name(model: str) -> str:
    return model.removeprefix("models/")


def _key(model: str) -> str:
    """Of its circuit. Names come from profiles: theirs is at most this long over the API."""
    return model[:100]


def _is_empty(spoken: Spoken) -> bool:
    """Without text or call for no reason that would be the same the next time."""
    return not spoken.is_something and not spoken.refused and spoken.reason != "MAX_TOKENS"


def _generation(answers: Sequence[Mapping[str, object]], spoken: Spoken, model: str, prompt: Prompt) -> Generation:
    """Of the last answer; each cost tokens. Raises `ModelRefused`. An answer cut by the token limit ends with its last
    whole sentence."""
    truncated = spoken.reason == "MAX_TOKENS"
    text = whole_sentences(spoken.text) if truncated else spoken.text
    if not text and not spoken.calls:
        raise ModelRefused(spoken.reason or "EMPTY", about_the_text=not truncated)
    contents, calls = dict[int, str](), spoken.calls
    if prompt.files:
        said = read_files(spoken.text, [function.name for function in prompt.functions])
        if said is None:  # cut off before the reply
            raise ModelRefused(spoken.reason or "EMPTY", about_the_text=False)
        contents, calls = said.contents, said.calls
        text = whole_sentences(said.reply) if truncated else said.reply
    return Generation(
        text=text,
        contents=contents,
        model=str(answers[-1].get("modelVersion") or model),
        truncated=truncated,
        input_tokens=_tokens(answers, "promptTokenCount"),
        output_tokens=_tokens(answers, "candidatesTokenCount", "thoughtsTokenCount"),
        calls=calls,
    )


def _tokens(answers: Sequence[Mapping[str, object]], *names: str) -> int | None:
    usages = [as_object(answer.get("usageMetadata")) for answer in answers]
    known = [count for usage in usages for name in names if isinstance(count := usage.get(name), int)]
    return sum(known) if known else None


def _classify(exc: Exception) -> Verdict:
    if isinstance(exc, ModelRefused):
        return IGNORED
    if isinstance(exc, GeminiUnavailable):
        if not exc.hold_seconds:
            return FAILED
        return Verdict(failed=True, hold_seconds=exc.hold_seconds, named_seconds=exc.retry_after or 0.0)
    return default_classify(exc)


def _may_repeat(exc: BaseException) -> bool:
    return exc.passing if isinstance(exc, GeminiUnavailable) else is_unavailable(exc)
