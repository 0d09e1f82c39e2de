"""OpenAI's list object."""

from typing import Generic, Literal, TypeVar

from pydantic import BaseModel

Item = TypeVar("Item", bound=BaseModel)


class ListPage(BaseModel, Generic[Item]):
    """One page, newest first; the next begins `after` its last id."""

    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, data: list[Item], *, has_more: bool) -> "ListPage[Item]":
        """Builds a page of objects that have an `id`."""
        ids = [str(getattr(item, "id")) for item in data]  # noqa: B009  # Item is any schema with an id
        return cls(data=data, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None, has_more=has_more)
