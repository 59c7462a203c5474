"""One log line per decision: what was decided, by what and for whom; nothing of the prompt."""

import hashlib
import json
import logging
import time
from collections import Counter
from json.encoder import encode_basestring_ascii

from router.service.auth import Caller
from router.service.logs import WRITTEN_FIELDS
from router.service.schema import RouteRequest
from router.types import Decision

LOGGER = "router.decision"


class DecisionLog:
    """Writes to the logger of decisions, unless it is off."""

    def __init__(self, is_wanted: bool) -> None:
        """is_wanted: by the settings; the level of the logger may turn it off as well."""
        self._logger = logging.getLogger(LOGGER)
        self._is_wanted = is_wanted
        self._like = self._logger.makeRecord(LOGGER, logging.INFO, "", 0, "decided", (), None).__dict__

    def write(self, decision: Decision, asked: RouteRequest, caller: Caller, session: str | None) -> None:
        """Write one line. session: the id as the router knows it, of which a hash is written."""
        logger = self._logger
        if self._is_wanted and logger.isEnabledFor(logging.INFO):
            # Like the first but for its time and fields: to make one anew takes as long as to write it.
            record = logging.LogRecord.__new__(logging.LogRecord)
            record.__dict__.update(self._like)
            record.created = time.time()
            record.__dict__[WRITTEN_FIELDS] = written_fields(decision, asked, caller, session)
            logger.handle(record)


def written_fields(decision: Decision, asked: RouteRequest, caller: Caller, session: str | None) -> dict[str, str]:
    """Return what the line holds, the values in JSON: a third of the time that an encoder of any value would take.

    excluded: how many models by code, only with an explanation.
    """
    estimates = decision.estimates
    chosen = estimates[0] if estimates else None
    return {
        "decision_id": f'"{decision.decision_id}"',
        "artifact_id": encode_basestring_ascii(decision.artifact_id),
        "model": encode_basestring_ascii(decision.model),
        "gateway_model": _text(decision.gateway_model),
        "endpoint": _text(decision.endpoint),
        "reason": f'"{decision.reason}"',
        "policy": _text(decision.policy),
        "key": _text(caller.name or None),
        "application": _text(asked.application),
        "role": _text(asked.role),
        "task": _text(asked.task),
        "intent": "null" if decision.intent is None else encode_basestring_ascii(decision.intent.label),
        "session": _text(decision.session),
        "session_hash": "null" if session is None else f'"{session_hash(session)}"',
        "tier": f'"{decision.tier}"',
        "degraded": "true" if decision.degraded else "false",
        "cached": "true" if decision.cached else "false",
        "quality": "null" if chosen is None else f"{chosen.quality:.6f}",
        "cost_usd": _number(None if chosen is None else chosen.cost_usd),
        "latency_ms": _number(None if chosen is None else chosen.latency_ms),
        "propensity": repr(decision.propensity),
        "n_candidates": str(len(decision.fallbacks) + (chosen is not None)),
        "excluded": json.dumps(Counter(one.code for one in decision.excluded)) if asked.explain else "null",
        "elapsed_ms": f"{decision.elapsed_ms:.4f}",
        "budget_met": "true" if decision.budget_met else "false",
    }


def _text(value: str | None) -> str:
    return "null" if value is None else encode_basestring_ascii(value)


def _number(value: float | None) -> str:
    return "null" if value is None else repr(value)


def session_hash(session: str) -> str:
    """Return 64 bits of a hash, so that the lines of a session can be found by who knows its id."""
    return hashlib.blake2b(session.encode(), digest_size=8).hexdigest()
