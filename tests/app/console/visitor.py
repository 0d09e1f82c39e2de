"""A visitor without scripts: follows links, sends the forms of pages with their tokens."""

import re
from dataclasses import dataclass
from typing import Any

import httpx2

from tests.fixtures.api import Api

_TOKEN = re.compile(r'name="form_token" value="([^"]+)"')


@dataclass
class Visitor:
    """Reads pages and sends forms."""

    api: Api
    language: str = "en"

    def get(self, path: str, **query: Any) -> httpx2.Response:
        """Opens a page."""
        return self.api.client.get(path, params=query or None, headers={"accept-language": self.language}, follow_redirects=False)

    def page(self, path: str, **query: Any) -> str:
        """Returns the text of a page that must be there."""
        response = self.get(path, **query)
        assert response.status_code == 200, response.text
        return str(response.text)

    def token(self) -> str:
        """Returns the token of this visitor's forms."""
        found = _TOKEN.search(self.page("/console/ask"))
        assert found
        return found.group(1)

    def send(self, path: str, *, files: Any = None, token: str | None = None, **fields: str) -> httpx2.Response:
        """Sends a form; a redirect is not followed."""
        data = {"form_token": self.token() if token is None else token, **fields}
        headers = {"accept-language": self.language}
        return self.api.client.post(path, data=data, files=files, headers=headers, follow_redirects=False)
