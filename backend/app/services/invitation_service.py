"""Invitations to an account: owners write them, the person with the link accepts."""

from __future__ import annotations

import logging

from app.domain.errors import Forbidden, NotFound
from app.domain.invitations import MAX_INVITATIONS, PREFIX, VALID_SECONDS, Invitation, Membership
from app.domain.models import Role, User
from app.domain.opaque_tokens import digest_of, is_token, new_token
from app.domain.ports import InvitationStore
from app.services.account_service import AccountService

logger = logging.getLogger(__name__)


class InvitationService:
    def __init__(self, accounts: AccountService, store: InvitationStore) -> None:
        self._accounts = accounts
        self._store = store

    async def create(self, user: User, account_id: str, *, role: Role) -> tuple[Invitation, str]:
        """For owners. With its token, which nothing shows again. Raises `Conflict("too_many_invitations")`."""
        await self._accounts.authorize(user, account_id, Role.OWNER)
        token = new_token(PREFIX)
        made = await self._store.create_invitation(
            account_id, role=role, digest=token.digest, created_by=user.id, by_owner=not user.is_operator,
            valid_seconds=VALID_SECONDS, most=MAX_INVITATIONS,
        )  # fmt: skip
        logger.info("invitation created", extra={"account": account_id, "invitation": made.id})
        return made, token.secret

    async def list_for(self, user: User, account_id: str) -> tuple[Invitation, ...]:
        """For owners: those that have not expired, the newest first."""
        await self._accounts.authorize(user, account_id, Role.OWNER)
        return await self._store.list_invitations(account_id)

    async def withdraw(self, user: User, account_id: str, invitation_id: str) -> None:
        """For owners. Raises `NotFound("invitation")`. A member whom it made stays one."""
        await self._accounts.authorize(user, account_id, Role.OWNER)
        if await self._store.get_invitation(account_id, invitation_id) is None:
            raise NotFound("invitation")
        await self._store.delete_invitation(account_id, invitation_id)
        logger.info("invitation withdrawn", extra={"account": account_id, "invitation": invitation_id})

    async def accept(self, user: User, token: str) -> Membership:
        """`user` is a member from now on; a higher role that they have stays. The same person may repeat it. Raises
        `NotFound("invitation")`, `Conflict` (`invitation_used`, `invitation_expired`), and `Forbidden` for what is no
        person who can sign in again."""
        if user.is_operator or user.grant is not None:
            raise Forbidden("an invitation is for a person: sign in as the one who is to become a member")
        if user.is_anonymous:
            raise Forbidden("an anonymous user cannot become a member; sign in with an e-mail address first")
        if not is_token(token, PREFIX):
            raise NotFound("invitation")
        member = await self._store.accept_invitation(digest_of(token), user.id)
        logger.info("invitation accepted", extra={"account": member.account_id})
        return member
