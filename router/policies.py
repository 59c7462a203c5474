"""Policies that a configuration names, whom each is bound to, and what becomes of a request's own beside one.

What is bound holds: a request can only tighten it. What a request prefers among the models left is its own.
"""

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType

from router.errors import ConfigError, PolicyError
from router.types import DEFAULT_SWITCH_MARGIN, UNKNOWN_INTENT, Policy

CONDITIONS = ("key", "application", "role", "task")
"""What a binding may ask of a request; all that it asks must hold."""
REQUEST = "request"
"""What stands for a request's own policy behind the name of the one that is bound to it."""
ANY_TASK = "any task"
"""What stands for what the policies of all tasks ask for together, where it is not known which is meant."""
# More names than these are not listed to somebody who asked for an unknown one.
MAX_LISTED = 20
# Policies that name more are merged anew each time: kept, they could be made to fill the memory.
MAX_KEPT_NAMES = 32
N_KEPT = 256
N_KEPT_BOUND = 4096

_TRADE_OFF = ("strategy", "willingness_to_pay_usd", "willingness_to_wait_ms")
_PREFERENCES: Mapping[str, object] = {
    "min_gain": 0.0,
    "switch_margin": DEFAULT_SWITCH_MARGIN,
    "explore_share": 0.0,
    "route_anyway": False,
}
_ANYTHING = Policy()
_NO_INTENTS: Mapping[str, Policy] = MappingProxyType({})

Resolved = tuple[Policy, Mapping[str, Policy]]
"""The policy of a request, and those that take its place where the neighbours have an intent, by intent."""
Given = Set[str] | None
"""The names of the preferences that somebody stated; None: those that are not at their defaults."""


@dataclass(frozen=True, slots=True)
class Binding:
    """Binds a policy, by its name, to the requests of which every condition holds; None asks for nothing."""

    policy: str
    key: str | None = None
    application: str | None = None
    role: str | None = None
    task: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError where it would bind everybody: that is what a default is for."""
        if all(getattr(self, name) is None for name in CONDITIONS):
            raise ValueError(f"a binding needs one of {', '.join(CONDITIONS)}")


@dataclass(frozen=True, slots=True, eq=False)
class _About:
    """What is bound to a request: at once (None: nothing), and where the neighbours have an intent."""

    bound: Policy | None
    by_intent: Mapping[str, Policy]


@dataclass(frozen=True, slots=True)
class PolicyBook:
    """Named policies, the bindings in the order in which they are tried, and the policy of whom none binds."""

    policies: Mapping[str, Policy] = field(default_factory=dict)
    bindings: tuple[Binding, ...] = ()
    default: str | None = None
    _mentioned: tuple[frozenset[str], ...] = field(init=False, repr=False, compare=False)
    _about: Callable[..., _About] = field(init=False, repr=False, compare=False)
    _merged: Callable[[Policy, Given, _About], Resolved] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Give every policy its name.

        Raises:
            ConfigError: a binding or the default names no policy of the book.
        """
        for name in (*(one.policy for one in self.bindings), self.default):
            if name is not None and name not in self.policies:
                raise ConfigError(f"no policy has the name {name!r}: expected one of {', '.join(self.policies)}")
        policies = MappingProxyType({name: replace(one, name=name) for name, one in self.policies.items()})
        mentioned = (
            frozenset(value for one in self.bindings if (value := getattr(one, name)) is not None)
            for name in CONDITIONS
        )
        for name, value in (
            ("policies", policies),
            ("_mentioned", tuple(mentioned)),
            ("_about", lru_cache(N_KEPT_BOUND)(self._look_up)),
            ("_merged", lru_cache(N_KEPT)(_merge)),
        ):
            object.__setattr__(self, name, value)

    def resolve(
        self,
        asked: Policy | str | None = None,
        *,
        given: Given = None,
        key: str | None = None,
        application: str | None = None,
        role: str | None = None,
        task: str | None = None,
    ) -> Resolved:
        """Return what a request is decided by.

        asked: its own policy, or the name of one of the book. given: which preferences of it were stated. task: what
        the request says it is about; without it, the policies bound to a task come by intent.

        Raises:
            PolicyError: no policy has the name that is asked for, the request's own fallback would break what is bound,
                or the two leave no model whatever the models are.
        """
        if isinstance(asked, str):
            asked = self._named(asked)
        if not self.bindings and self.default is None:
            return asked or _ANYTHING, _NO_INTENTS
        stated = zip((key, application, role, task), self._mentioned, strict=True)
        about = self._about(*(one if one in known else None for one, known in stated), task is None)
        if asked is None or (asked == _ANYTHING and not given):
            return about.bound or _ANYTHING, about.by_intent
        if about.bound is not None:
            _check(about.bound, asked)
        is_long = asked.n_names > MAX_KEPT_NAMES
        return (_merge if is_long else self._merged)(asked, given, about)

    def _named(self, name: str) -> Policy:
        known = self.policies.get(name)
        if known is None:
            listed = f"; known: {', '.join(self.policies)}" if 0 < len(self.policies) <= MAX_LISTED else ""
            raise PolicyError(f"policy: none of this name is configured{listed}")
        return known

    def _look_up(
        self, key: str | None, application: str | None, role: str | None, task: str | None, reads_intent: bool
    ) -> _About:
        fitting = [one for one in self.bindings if _fits(one, key, application, role)]
        of_key = next((one for one in fitting if one.key is not None and one.task is None), None)

        def policy_of(one: Binding) -> Policy:
            """What a key is bound to holds whatever its requests say of themselves: a key is proven, and that not."""
            if one is of_key or of_key is None or one.key is not None:
                return self.policies[one.policy]
            return tightened(self.policies[of_key.policy], self.policies[one.policy])

        bound = None if self.default is None else self.policies[self.default]
        by_intent: dict[str, Policy] = {}
        for one in fitting:
            if one.task is None or one.task == task:
                bound = policy_of(one)
                break
            if reads_intent:
                by_intent.setdefault(one.task, policy_of(one))
        if private := _private_part(by_intent.values()):
            by_intent[UNKNOWN_INTENT] = private if bound is None else tightened(bound, private)
        return _About(bound, MappingProxyType(by_intent))


def _fits(one: Binding, key: str | None, application: str | None, role: str | None) -> bool:
    pairs = ((one.key, key), (one.application, application), (one.role, role))
    return all(wanted in (None, stated) for wanted, stated in pairs)


def _private_part(policies: Iterable[Policy]) -> Policy | None:
    """Return where prompts may go of which it is not known which of these policies is theirs; None where anywhere.

    What is too dear or too slow can be mended later; what has left the house cannot.
    """
    stays_local, region = False, None
    for one in policies:
        stays_local, region = stays_local or one.stays_local, _common(region, one.region)
    if not stays_local and region is None:
        return None
    return Policy(local_only=stays_local, region=region, name=ANY_TASK)


def tightened(bound: Policy, asked: Policy, given: Given = None) -> Policy:
    """Return the policy of a request that asks for one under another that is bound to it.

    Whatever model and endpoint meets its constraints meets those of both. Where the two exclude each other, so that
    none can, no candidate or region is left. The trade-off is one preference: who states any part of it states all.
    """
    agree = None in (bound.role, asked.role) or bound.role == asked.role
    trades = any(getattr(asked, name) is not None for name in _TRADE_OFF)
    preferences = {
        name: getattr(asked if (getattr(asked, name) != usual if given is None else name in given) else bound, name)
        for name, usual in _PREFERENCES.items()
    }
    return Policy(
        candidates=_common(bound.candidates, asked.candidates),
        exclude=_all(bound.exclude, asked.exclude),
        require=_all(bound.require, asked.require),
        # Named so in the error; that the region is empty, too, keeps a role that happens to be called so from passing.
        role=(bound.role or asked.role) if agree else f"{bound.role} and {asked.role}",
        local_only=bound.local_only or asked.local_only or (trades and bound.stays_local),
        region=_common(bound.region, asked.region) if agree else (),
        max_cost_usd=_least(bound.max_cost_usd, asked.max_cost_usd),
        max_latency_ms=_least(bound.max_latency_ms, asked.max_latency_ms),
        min_uptime=_most(bound.min_uptime, asked.min_uptime),
        **{name: getattr(asked if trades else bound, name) for name in _TRADE_OFF},
        **preferences,
        fallback=bound.fallback if is_constrained(bound) else asked.fallback or bound.fallback,
        name=f"{bound.name}+{asked.name or REQUEST}",
    )


def is_constrained(policy: Policy) -> bool:
    """Tell whether a policy rules anything out."""
    return bool(
        policy.candidates is not None
        or policy.exclude
        or policy.require
        or policy.role is not None
        or policy.stays_local
        or policy.region is not None
        or policy.max_cost_usd is not None
        or policy.max_latency_ms is not None
        or policy.min_uptime is not None
    )


def _merge(asked: Policy, given: Given, about: _About) -> Resolved:
    """Put what a request asks for under what is bound to it; a policy under itself stays as it is."""

    def under(bound: Policy | None) -> Policy:
        if bound is None:
            return asked
        return bound if asked == bound else tightened(bound, asked, given)

    return under(about.bound), MappingProxyType({intent: under(one) for intent, one in about.by_intent.items()})


def _check(bound: Policy, asked: Policy) -> None:
    """Refuse what a request may not ask under what is bound to it, and say it by the field.

    Of policies bound to an intent nothing is said before it is known to be that of the prompt.
    """
    if asked.fallback not in (None, bound.fallback) and is_constrained(bound):
        raise PolicyError(
            f"fallback: policy {bound.name} is bound to this request and has constraints, so the fallback is its own"
        )
    if bound.fallback is not None:
        return
    for name in ("candidates", "region"):
        if _common(getattr(bound, name), getattr(asked, name)) == () and getattr(bound, name):
            raise PolicyError(
                f"no model is left: {name}: what the request allows and what policy {bound.name} allows, which is bound"
                " to it, have nothing in common"
            )
    if None not in (bound.role, asked.role) and bound.role != asked.role:
        raise PolicyError(
            f"no model is left: role: the request asks for another than policy {bound.name}, which is bound to it"
        )


def _common(some: tuple[str, ...] | None, others: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return the names in both, None being all."""
    if some is None or others is None:
        return others if some is None else some
    wanted = set(others)
    return tuple(one for one in some if one in wanted)


def _all(some: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    known = set(some)
    return (*some, *(one for one in others if one not in known))


def _least(some: float | None, other: float | None) -> float | None:
    return some if other is None else other if some is None else min(some, other)


def _most(some: float | None, other: float | None) -> float | None:
    return some if other is None else other if some is None else max(some, other)
