"""What can go wrong in the ML core; all of it `AppError`, so each edge reports it with its stable code."""

from app.errors import AppError, InvalidInput, Kind, NotFound, Unavailable


class InvalidSpec(InvalidInput):
    """A hyperparameter is unknown, of the wrong type or out of range; `param` names it."""

    code = "invalid_hyperparameter"


class DatasetFormatError(InvalidInput):
    """A dataset file cannot be read; the details list rows, fields and reasons."""

    code = "invalid_dataset"


class PromptTooLong(InvalidInput):
    """A question has more tokens than the answerer accepts."""

    code = "question_too_long"


class AnswerTooLong(InvalidInput):
    """An answer grows longer than the engine has room for."""

    code = "answer_too_long"


class DeadlinePassed(Unavailable):
    """Nobody waits for an answer any more."""

    code = "deadline_passed"


class BaseModelMissing(NotFound):
    """The base model is on the operator's list, but its weights are not in the store."""

    code = "base_model_missing"


class BrokenModelImport(Unavailable):
    """Imported weights do not compute what the published model computes."""

    code = "base_model_broken"
    retryable = False


class AdapterMismatch(InvalidInput):
    """An adapter does not belong to the base model that is loaded."""

    code = "adapter_mismatch"


class NonFiniteLoss(AppError):
    """The loss became NaN or infinite."""

    kind = Kind.INVALID
    code = "non_finite_loss"


class ZeroGradient(AppError):
    """The gradient of a whole step is exactly zero, so nothing would ever be learnt."""

    kind = Kind.INVALID
    code = "zero_gradient"

    def __init__(
        self,
        message: str = "The gradient is exactly zero, so nothing can be learnt: what trains does not reach the loss. Set "
        "precision to fp32 and lora_dropout to 0; if it stays zero, the device or its driver computes wrongly: try another.",
        *,
        param: str | None = "precision",
        details: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message, param=param, details=details)


class DeviceComputesWrongly(AppError):
    """The device's results differ from the CPU's on a tiny model: nothing that it trains or answers can be trusted."""

    kind = Kind.INTERNAL
    code = "device_computes_wrongly"


class TorchTooOld(AppError):
    """The installed torch is older than the product needs, and nobody waived that."""

    kind = Kind.INTERNAL
    code = "torch_too_old"


class NoRows(InvalidInput):
    """A dataset file has no rows."""

    code = "no_rows"


class DistillationTooLarge(InvalidInput):
    """What teachers would say of the rows does not fit into memory."""

    code = "distillation_too_large"


class NothingToTrain(InvalidInput):
    """No row of the dataset leaves a trained token after truncation."""

    code = "nothing_to_train"


class OutOfDeviceMemory(AppError):
    """The device has too little memory for what the spec asks."""

    kind = Kind.INVALID
    code = "out_of_device_memory"


class GgufConverterMissing(Unavailable):
    """The worker has no llama.cpp converter."""

    code = "gguf_converter_missing"
    retryable = False


class GgufConversionFailed(Unavailable):
    """llama.cpp's converter did not make a usable file of the merged model."""

    code = "gguf_conversion_failed"
    retryable = False


class NotExportable(InvalidInput):
    """The model cannot be written in the wanted format."""

    code = "not_exportable"
