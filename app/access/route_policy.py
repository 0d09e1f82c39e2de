"""Which scope a request needs, found as the router finds its route: the exact path first, then the patterns in order."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from starlette._utils import get_route_path  # the router's own: two opinions on a path would be a hole
from starlette.routing import compile_path
from starlette.types import Scope as AsgiScope

from app.access.scopes import Scope

RouteScopes = Mapping[tuple[str, str], Scope | None]
"""(method, path of the route) -> what it needs; None: nothing, the route is for everybody."""
_WIDEST = Scope.ADMIN


@dataclass(frozen=True)
class Needed:
    """What a request needs."""

    scope: Scope | None
    """None: nothing."""
    is_declared: bool = True
    """False: no route of this path was declared, so that nobody may reach one that was forgotten."""


_UNDECLARED = Needed(_WIDEST, is_declared=False)
_WRONG_METHOD = Needed(_WIDEST)


class RoutePolicy:
    """The table, compiled."""

    def __init__(self, scopes: RouteScopes) -> None:
        self._exact = {key: Needed(scope) for key, scope in scopes.items() if "{" not in key[1]}
        self._known_paths = {path for _, path in self._exact}
        patterns: dict[str, dict[str, Needed]] = {}
        for (method, path), scope in scopes.items():
            if "{" in path:
                patterns.setdefault(path, {})[method] = Needed(scope)
        self._patterns: list[tuple[re.Pattern[str], dict[str, Needed]]] = [
            (compile_path(path)[0], methods) for path, methods in patterns.items()
        ]

    def needed(self, asgi: AsgiScope) -> Needed:
        """Returns what a request needs; a method that its path does not have needs the widest scope before it is a 405."""
        path, method = get_route_path(asgi), asgi["method"]
        if method == "HEAD":
            method = "GET"
        if (exact := self._exact.get((method, path))) is not None:
            return exact
        is_path = path in self._known_paths
        for pattern, methods in self._patterns:
            if pattern.match(path):
                if (found := methods.get(method)) is not None:
                    return found
                is_path = True
        return _WRONG_METHOD if is_path else _UNDECLARED
