"""Says in the API's description which scope each operation needs."""

from typing import Any

from fastapi import FastAPI

from app.access.route_policy import RouteScopes

_SCHEME = "api_key"
_DESCRIBED = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key (`dianda key create`), where the deployment asks for one; the header `api-key: KEY` does as well.",
}


def describe_access(app: FastAPI, scopes: RouteScopes) -> None:
    """Adds the security scheme and each operation's scope to what `app.openapi` returns."""
    describe = app.openapi
    # A description knows no convertors of paths.
    by_description = {(method, path.replace(":path}", "}")): scope for (method, path), scope in scopes.items()}

    def openapi() -> dict[str, Any]:
        document = describe()
        if _SCHEME in document.setdefault("components", {}).setdefault("securitySchemes", {}):
            return document
        document["components"]["securitySchemes"][_SCHEME] = _DESCRIBED
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                scope = by_description.get((method.upper(), path))
                if scope is not None:
                    operation["security"] = [{_SCHEME: []}]
                    operation["x-required-scope"] = scope.value
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the description
