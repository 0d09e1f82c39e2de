"""The model object of the HTTP dialect."""

from typing import Any, Literal

from pydantic import BaseModel

from app.adapters.models import Adapter, Alias


class ModelObject(BaseModel):
    """OpenAI's model object, with what an adapter says of itself."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    kind: Literal["base", "adapter", "alias"]
    parent: str | None = None
    """The base model of an adapter, or the adapter of an alias."""
    checksum: str | None = None
    job: str | None = None
    spec: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    available: bool = True
    """False for a base model whose weights are not in the store."""

    @classmethod
    def of_adapter(cls, adapter: Adapter) -> "ModelObject":
        """Builds the object of an adapter."""
        return cls(
            id=adapter.id,
            created=int(adapter.created_at),
            owned_by="dianda",
            kind="adapter",
            parent=adapter.base_model,
            checksum=adapter.checksum,
            job=adapter.job_id,
            spec=adapter.spec,
            metrics=adapter.metrics,
        )

    @classmethod
    def of_alias(cls, alias: Alias) -> "ModelObject":
        """Builds the object of an alias."""
        return cls(id=alias.name, created=int(alias.updated_at), owned_by="dianda", kind="alias", parent=alias.adapter_id)

    @classmethod
    def of_base(cls, name: str, checksum: str | None) -> "ModelObject":
        """Builds the object of a base model."""
        return cls(id=name, created=0, owned_by="operator", kind="base", checksum=checksum, available=checksum is not None)


class ModelList(BaseModel):
    """OpenAI's list of models."""

    object: Literal["list"] = "list"
    data: list[ModelObject]
    has_more: bool = False
