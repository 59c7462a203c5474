"""Names in policies that are no model of the artifact: one that is misspelt allows or excludes nothing by it."""

import difflib
from collections.abc import Collection, Iterable

from router.types import Policy


def misnamed(policies: Iterable[Policy], models: Collection[str]) -> list[str]:
    """Return one line for every name in a policy's candidates, exclude or fallback that is not among ``models``."""
    lines = []
    for policy in policies:
        about = "" if policy.name is None else f"policy {policy.name}: "
        fallback = () if policy.fallback is None else (policy.fallback,)
        for field, names in (
            ("candidates", policy.candidates or ()),
            ("exclude", policy.exclude),
            ("fallback", fallback),
        ):
            for name in dict.fromkeys(names):
                if name not in models:
                    near = difflib.get_close_matches(name, models, 1)
                    hint = f", did you mean {near[0]}?" if near else ""
                    lines.append(f"{about}{field} names {name!r}, which is no model of the artifact{hint}")
    return lines
