"""The split of the HTTP dialect: what is asked, and the files that it made."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.datasets.models import Dataset
from app.datasets.schemas import FileObject
from app.datasets.splits import CutPart
from app.http.schemas import RequestBody, Text
from app.ml.splitting import SplitPart

_MAX_PARTS = 50
_PartName = Annotated[Text, Field(min_length=1, max_length=100, pattern=r"^[\w.-]+$")]


class AskPart(RequestBody):
    """One part: `size` in rows, or `fraction` of the file (of the part `within`, if that is given)."""

    name: Annotated[_PartName, Field(description="Names the new file `<name>.jsonl`: letters, digits, '.', '_' and '-'.")]
    size: Annotated[int, Field(ge=1, description="Rows.")] | None = None
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    within: Annotated[_PartName, Field(description="A part listed before, from which this one is taken.")] | None = None

    def to_part(self) -> SplitPart:
        """Returns what the splitter knows."""
        return SplitPart(name=self.name, size=self.size, fraction=self.fraction, within=self.within)


class CreateSplit(RequestBody):
    """The parts to cut; parts side by side share no question."""

    parts: Annotated[list[AskPart], Field(min_length=1, max_length=_MAX_PARTS)]
    seed: Annotated[int, Field(ge=0, le=2**31 - 1, description="The same seed cuts the same file alike.")] = 0

    model_config = RequestBody.model_config | {
        "json_schema_extra": {
            "examples": [
                {
                    "parts": [
                        {"name": "telecom_train_400", "size": 400},
                        {"name": "telecom_train_100", "size": 100, "within": "telecom_train_400"},
                        {"name": "telecom_test_100", "size": 100},
                    ],
                    "seed": 1,
                }
            ]
        }
    }


class ShareObject(BaseModel):
    """Percent of rows that show a category: of the whole file before, of the part after."""

    category: str
    before_percent: float
    after_percent: float


class PartObject(BaseModel):
    """One part that was made."""

    name: str
    within: str | None
    rows: int
    """As asked, unless questions that occur often left no fitting choice."""
    largest_deviation_points: float
    """Percentage points between before and after, over the categories that more than 1 % of the file's rows show."""
    categories: list[ShareObject]
    """The file's commonest 100."""
    file: FileObject


class SplitObject(BaseModel):
    """The files of one split, in the order asked."""

    object: Literal["file.split"] = "file.split"
    parent_id: str
    seed: int
    data: list[PartObject]

    @classmethod
    def of(cls, parent_id: str, seed: int, cuts: list[CutPart], files: list[Dataset]) -> "SplitObject":
        """Builds the object of the parts and their rows."""
        return cls(
            parent_id=parent_id,
            seed=seed,
            data=[
                PartObject(
                    name=cut.part.name,
                    within=cut.part.within,
                    rows=cut.report.rows,
                    largest_deviation_points=cut.largest_deviation_points,
                    categories=[
                        ShareObject(category=one.category, before_percent=one.before_percent, after_percent=one.after_percent)
                        for one in cut.shares
                    ],
                    file=FileObject.of(file),
                )
                for cut, file in zip(cuts, files, strict=True)
            ],
        )
