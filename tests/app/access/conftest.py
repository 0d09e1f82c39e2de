from tests.app.access.keyed import keyed_api

__all__ = ["keyed_api"]
