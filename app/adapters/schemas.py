"""The model and alias objects of the HTTP dialect."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from app.adapters.models import Adapter, Alias, AliasMove
from app.http.schemas import RequestBody, Text


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


class PointAlias(RequestBody):
    """Where an alias shall point."""

    to: Annotated[Text, Field(max_length=110, description="An adapter such as `telecom:7`, or `previous`.")]
    reason: Annotated[Text, Field(max_length=1000)] | None = None

    model_config = RequestBody.model_config | {"json_schema_extra": {"examples": [{"to": "telecom:7"}, {"to": "previous"}]}}


class AliasObject(BaseModel):
    """Where an alias points."""

    name: str
    object: Literal["alias"] = "alias"
    model: str
    updated_at: int

    @classmethod
    def of(cls, alias: Alias) -> "AliasObject":
        """Builds the object of a row."""
        return cls(name=alias.name, model=alias.adapter_id, updated_at=int(alias.updated_at))


class AliasMoveObject(BaseModel):
    """One move of an alias."""

    number: int
    from_model: str | None
    to_model: str
    reason: str | None
    created_at: int

    @classmethod
    def of(cls, move: AliasMove) -> "AliasMoveObject":
        """Builds the object of a row."""
        return cls(
            number=move.number,
            from_model=move.from_adapter_id,
            to_model=move.to_adapter_id,
            reason=move.reason,
            created_at=int(move.created_at),
        )


class AliasHistory(BaseModel):
    """Every move of an alias, newest first."""

    object: Literal["list"] = "list"
    data: list[AliasMoveObject]
