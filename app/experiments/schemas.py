"""The experiment object of the HTTP dialect."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, JsonValue

from app.errors import InvalidInput
from app.experiments.arms import MAX_ARMS, ArmPlan, base_model_arms, grid_arms, ramp_arms
from app.experiments.models import Experiment
from app.experiments.repository import ArmRows
from app.experiments.service import ENDED, NewExperiment, status_of
from app.http.schemas import RequestBody, Text

_FileId = Annotated[Text, Field(max_length=64)]
_ModelName = Annotated[Text, Field(max_length=100)]


class Ramp(RequestBody):
    """Vary the number of training rows; 0 is the base model as it is."""

    kind: Literal["ramp"]
    sizes: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=MAX_ARMS)]


class Grid(RequestBody):
    """Vary hyperparameters: every combination of the values is an arm."""

    kind: Literal["hyperparameters"]
    grid: Annotated[
        dict[Annotated[Text, Field(max_length=64)], Annotated[list[JsonValue], Field(min_length=1, max_length=MAX_ARMS)]],
        Field(min_length=1, max_length=16),
    ]


class BaseModels(RequestBody):
    """Vary the base model."""

    kind: Literal["base_models"]
    models: Annotated[list[_ModelName], Field(min_length=1, max_length=MAX_ARMS)]


class CreateExperiment(RequestBody):
    """What is held fixed, and the one thing that varies. The first arm is the baseline."""

    name: Annotated[Text, Field(max_length=100)] | None = None
    model: Annotated[_ModelName, Field(description="Base model of every arm; left out where base models vary.")] | None = None
    training_file: _FileId
    test_file: Annotated[_FileId, Field(description="Rows that every arm answers; no arm trains on them.")]
    validation_file: Annotated[_FileId, Field(description="As of a fine-tuning job, for every arm.")] | None = None
    hyperparameters: dict[str, JsonValue] = Field(default_factory=dict, max_length=64, description="Those of every arm.")
    vary: Annotated[Ramp | Grid | BaseModels, Field(discriminator="kind")]
    max_rows: Annotated[int, Field(ge=1, description="Most rows of the test file.")] | None = None
    suffix: Annotated[Text, Field(max_length=60, description="Adapters are called `<suffix>-<arm>:1`.")] | None = None
    seed: Annotated[int, Field(ge=0, le=2**31 - 1, description="Of every training, and of the cut of a ramp.")] = 0

    model_config = RequestBody.model_config | {
        "json_schema_extra": {
            "examples": [
                {
                    "model": "gemma-3-270m",
                    "training_file": "file-0123456789abcdef01234567",
                    "test_file": "file-89abcdef0123456789abcdef",
                    "vary": {"kind": "ramp", "sizes": [0, 100, 400, 5000]},
                },
                {
                    "model": "gemma-3-270m",
                    "training_file": "file-0123456789abcdef01234567",
                    "test_file": "file-89abcdef0123456789abcdef",
                    "hyperparameters": {"n_epochs": 3},
                    "vary": {"kind": "hyperparameters", "grid": {"learning_rate": [5e-5, 2e-4], "lora_rank": [16, 128]}},
                },
            ]
        }
    }

    def to_new(self) -> NewExperiment:
        """Spells the arms out.

        Raises:
            InvalidInput: the arms are too many, or contradict each other, or the base model is missing or too much.
        """
        arms: list[ArmPlan]
        match self.vary:
            case Ramp(sizes=sizes):
                arms = ramp_arms(self._get_model(), sizes, self.hyperparameters)
            case Grid(grid=grid):
                arms = grid_arms(self._get_model(), grid, self.hyperparameters)
            case BaseModels(models=models):
                if self.model is not None:
                    raise InvalidInput("The base model is what varies. Leave model out.", param="model")
                arms = base_model_arms(models, self.hyperparameters)
        return NewExperiment(
            name=self.name,
            kind=self.vary.kind,
            vary=self.vary.model_dump(),
            arms=arms,
            hyperparameters=self.hyperparameters,
            training_file=self.training_file,
            validation_file=self.validation_file,
            test_file=self.test_file,
            max_rows=self.max_rows,
            suffix=self.suffix,
            seed=self.seed,
        )

    def _get_model(self) -> str:
        if self.model is None:
            raise InvalidInput("Name the base model that every arm starts from.", param="model")
        return self.model


class ArmObject(BaseModel):
    """One arm: its training job and its evaluation."""

    number: int
    label: str
    is_baseline: bool
    status: str
    """queued, training, paused, trained, evaluating; and at the end: succeeded, failed, cancelled."""
    base_model: str
    training_file: str | None
    training_rows: int
    hyperparameters: dict[str, Any]
    job: str | None
    adapter: str | None
    evaluation: str | None
    progress: dict[str, Any] | None
    """Of the job that works on it now."""
    error: str | None

    @classmethod
    def of(cls, rows: ArmRows) -> "ArmObject":
        """Builds the object of an arm's rows."""
        arm, job, evaluating = rows.arm, rows.job, rows.evaluating
        failed = next((one for one in (job, evaluating) if one is not None and one.error_message), None)
        now = evaluating or job
        return cls(
            number=arm.number,
            label=arm.label,
            is_baseline=arm.number == 1,
            status=status_of(rows).value,
            base_model=arm.base_model,
            training_file=arm.training_file_id,
            training_rows=arm.training_rows,
            hyperparameters=arm.hyperparameters,
            job=arm.job_id,
            adapter=None if job is None else job.adapter_id,
            evaluation=arm.evaluation_id,
            progress=None if now is None else now.progress,
            error=arm.error or (None if failed is None else failed.error_message),
        )


class ExperimentObject(BaseModel):
    """An experiment and its arms."""

    id: str
    object: Literal["experiment"] = "experiment"
    created_at: int
    finished_at: int | None
    status: str
    """running; succeeded: every arm has; failed: some arm has not, the others can be compared; cancelled."""
    name: str | None
    kind: str
    vary: dict[str, Any]
    hyperparameters: dict[str, Any]
    training_file: str
    validation_file: str | None
    test_file: str
    max_rows: int | None
    seed: int
    arms_ended: int
    arms: list[ArmObject]

    @classmethod
    def of(cls, experiment: Experiment, arms: list[ArmRows]) -> "ExperimentObject":
        """Builds the object of the rows."""
        return cls(
            id=experiment.id,
            created_at=int(experiment.created_at),
            finished_at=None if experiment.finished_at is None else int(experiment.finished_at),
            status=experiment.status,
            name=experiment.name,
            kind=experiment.kind,
            vary=experiment.vary,
            hyperparameters=experiment.hyperparameters,
            training_file=experiment.training_file_id,
            validation_file=experiment.validation_file_id,
            test_file=experiment.test_file_id,
            max_rows=experiment.max_rows,
            seed=experiment.seed,
            arms_ended=sum(status_of(rows) in ENDED for rows in arms),
            arms=[ArmObject.of(rows) for rows in arms],
        )
