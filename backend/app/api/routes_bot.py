"""The bot profile: what the bot knows and how it speaks."""

from __future__ import annotations

from app.api.deps import AccountId, CurrentUser, Replica
from app.api.json_route import json_router
from app.api.openapi import problems
from app.api.schemas import ProfileChanges, ProfileOut, PromptOut, PromptTurnOut, SimulatedOut, SimulationIn
from app.domain.models import Prompt, Role, Turn

router = json_router("/bot", "bot")


@router.get("/profile", responses=problems(401, 404, 422, 503))
async def get_profile(replica: Replica, user: CurrentUser, account_id: AccountId) -> ProfileOut:
    """For members."""
    await replica.accounts.authorize(user, account_id, Role.VIEWER)
    return ProfileOut.model_validate(await replica.accounts.profile(account_id))


@router.put("/profile", responses=problems(400, 401, 403, 404, 413, 422, 503))
async def put_profile(replica: Replica, user: CurrentUser, account_id: AccountId, body: ProfileChanges) -> ProfileOut:
    """For owners: any subset of the fields; returns the whole profile."""
    await replica.accounts.authorize(user, account_id, Role.OWNER)
    changes = body.model_dump(exclude_unset=True)
    return ProfileOut.model_validate(await replica.accounts.update_profile(account_id, changes))


@router.post("/simulate", responses=problems(400, 401, 403, 404, 413, 422, 429, 503))
async def simulate(replica: Replica, user: CurrentUser, account_id: AccountId, body: SimulationIn) -> SimulatedOut:
    """For agents and owners: what the bot would answer with an unsaved profile, by the real prompt and model, and
    the prompt itself. Nothing is stored or sent. 60 answers for each account in ten minutes (429)."""
    changes = body.profile.model_dump(exclude_unset=True)
    turns = [Turn("user" if turn.from_ == "customer" else "model", turn.text) for turn in body.turns]
    simulated = await replica.simulator.answer(user, account_id, changes, turns)
    return SimulatedOut(
        text=simulated.text,
        calls_person=simulated.reason is not None,
        reason=simulated.reason,
        prompt=_shown(simulated.prompt),
    )


def _shown(prompt: Prompt | None) -> PromptOut | None:
    if prompt is None:
        return None
    turns = [PromptTurnOut(from_="customer" if turn.role == "user" else "bot", text=turn.text) for turn in prompt.turns]
    return PromptOut(system=prompt.system, turns=turns)
