"""Limits in the worker's memory: tallies of keys, groups and upstreams, made on first use.

Everything happens on the loop's thread and without waiting, so that what one request takes
another cannot. It writes nothing down: what was spent before comes from the books at the start
(`restore`, or `look_up` on a tally's first use), and what was held by a process that died is
gone with it. Workers do not share it: with more than one, limited keys need other counters.

Keys whose tally says nothing that a new one would not (their windows are over, nothing is under
way) are forgotten: two are looked at for each that is new, once there are some thousand. So a
million keys that came once are not a million tallies for ever. Groups and upstreams stay.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from msgspec import Struct
from msgspec.structs import replace

from keyhole.policy import credits as upstream_credits
from keyhole.policy import limits
from keyhole.policy.limit_words import refusal
from keyhole.policy.limits import Bound, Hold, Place, Scopes, Spent, Tally, take
from keyhole.wire.keys import Key, Limits
from keyhole.wire.mirror import Mark

Name = tuple[Place, str]
"""A key's id, a group's or an upstream's name, and which of these it is."""

NOT_HELD = Hold((), 0, 0, 0, 0, 0, is_over=True)
"""The hold of whoever has no limits."""


class _Known(Struct):
    """The scopes of a key as it was when they were made."""

    key: Key
    scopes: Scopes


def _nothing(_: Name) -> Iterable[Spent]:
    return ()


class MemoryCounters:
    """The port `Counters`, in memory. For one thread.

    `now_ms` is UTC's clock, asked when a tally is made; `look_up` brings what a tally that is new
    here has spent of its budget before, or raises GatewayError; `kept_keys` is up to how many none
    is forgotten, for what is known of one costs some microseconds to make again. `check_alone`
    raises GatewayError where another process counts, and is asked before a tally is made.
    """

    def __init__(
        self,
        now_ms: Callable[[], int],
        *,
        look_up: Callable[[Name], Iterable[Spent]] = _nothing,
        check_alone: Callable[[], None] = lambda: None,
        kept_keys: int = 10_000,
    ) -> None:
        self._now_ms = now_ms
        self._look_up = look_up
        self._check_alone = check_alone
        self._kept_keys = kept_keys
        self._serial = 1
        self._tallies: dict[Name, Tally] = {}
        self._round: deque[str] = deque()
        """The ids of `_known`, in the order in which they are looked at."""
        self._limits: dict[Name, Limits] = {}
        self._known: dict[str, _Known] = {}
        """By key id."""
        self._restored: dict[Name, list[Spent]] = {}
        self.credits_gone: dict[str, int] = {}
        """When each of these upstreams said so, in milliseconds."""

    def restore(self, spent: Iterable[tuple[Name, Spent]]) -> None:
        """Remember what was spent before this process, for tallies that are made from now on.

        The first tally of such a name is made of that, and nothing is looked up.
        """
        for name, amount in spent:
            self._restored.setdefault(name, []).append(amount)

    def scopes(self, key: Key | None) -> Scopes:
        """As the port says. The same Key object again costs a look into a dict."""
        if key is None:
            return ()
        known = self._known.get(key.id)
        if known is not None and known.key is key:
            return known.scopes
        return self._make_scopes(key)

    def upstream_scopes(self, upstream: str, limits: Limits) -> Scopes:
        """As the port says."""
        if limits.are_none:
            return ()
        return (self._tally(("upstream", upstream), upstream, limits),)

    def hold(self, scopes: Scopes, bound: Bound, now_ms: int) -> Hold:
        """As the port says."""
        if not scopes:
            return NOT_HELD
        serial = self._serial
        self._serial = serial + 1
        hold = take(scopes, bound, now_ms, serial)
        if hold is None:
            raise refusal(scopes, bound, now_ms)
        return hold

    def settle(
        self, hold: Hold, prompt_tokens: int, completion_tokens: int, cost_microusd: int
    ) -> None:
        """As the port says."""
        if not hold.is_over:
            limits.settle(hold, prompt_tokens + completion_tokens, cost_microusd)

    def release(self, hold: Hold) -> None:
        """As the port says."""
        limits.release(hold)

    def out_of_credits(self, upstream: str, now_ms: int) -> None:
        """As the port says."""
        self.credits_gone[upstream] = now_ms

    def check_credits(self, upstream: str, now_ms: int) -> None:
        """As the port says."""
        since_ms = self.credits_gone.get(upstream)
        if since_ms is None:
            return
        if upstream_credits.are_gone(since_ms, now_ms):
            raise upstream_credits.refusal(upstream, since_ms)
        del self.credits_gone[upstream]

    def clear_credits(self, upstream: str) -> None:
        """As the port says."""
        self.credits_gone.pop(upstream, None)

    def hear(self, marks: Iterable[Mark]) -> None:
        """Take over what others were told of credits, and what the operator took back."""
        for mark in marks:
            own_ms = self.credits_gone.get(mark.upstream)
            if not mark.is_cleared:
                self.credits_gone[mark.upstream] = max(mark.since_ms, own_ms or 0)
            elif own_ms is not None and own_ms <= mark.since_ms:
                del self.credits_gone[mark.upstream]

    @property
    def tally_count(self) -> int:
        """How many tallies there are."""
        return len(self._tallies)

    def _make_scopes(self, key: Key) -> Scopes:
        scopes = []
        # One whose limits are taken away is told so, or it would go on where it stood then.
        if not key.limits.are_none or ("key", key.id) in self._tallies:
            scopes.append(self._tally(("key", key.id), key.name, key.limits))
        group = key.group
        if group is not None and (
            not group.limits.are_none or ("group", group.name) in self._tallies
        ):
            scopes.append(self._tally(("group", group.name), group.name, group.limits))
        if key.id not in self._known:
            self._forget_some()
            self._round.append(key.id)
        known = self._known[key.id] = _Known(key, tuple(scopes))
        return known.scopes

    def _tally(self, name: Name, shown: str, wanted: Limits) -> Tally:
        """The tally of this name, with these limits and with what it has spent before."""
        tally = self._tallies.get(name)
        is_new = tally is None
        if tally is not None and self._limits[name] == wanted:
            return tally
        # Before anything is changed: where it cannot be known, the next request asks again.
        if tally is None:
            self._check_alone()
        spent_before = self._restored.get(name)
        if spent_before is None:
            counts_minutes = wanted.rpm is not None or wanted.tpm is not None
            has_past = wanted.budget is not None or (is_new and counts_minutes)
            spent_before = list(self._look_up(name)) if has_past else []
        if tally is None:
            tally = self._tallies[name] = Tally(place=name[0], name=shown)
        tally.name = shown
        self._limits[name] = wanted
        has_new_budget = limits.limit(tally, wanted, self._serial)
        if is_new or has_new_budget:
            now_ms = self._now_ms()
            for spent in spent_before:
                of_window = spent if is_new else replace(spent, requests=0)
                limits.restore(tally, of_window, now_ms, self._serial)
        self._restored.pop(name, None)
        return tally

    def _forget_some(self) -> None:
        """Look at the two keys that were not looked at for longest; groups and upstreams stay."""
        if len(self._known) < self._kept_keys:
            return
        for _ in range(2):
            key_id = self._round.popleft()
            name: Name = ("key", key_id)
            tally = self._tallies.get(name)
            if tally is not None and not limits.is_as_new(tally, self._now_ms()):
                self._round.append(key_id)
                continue
            del self._known[key_id]
            if tally is not None:
                del self._tallies[name], self._limits[name]
