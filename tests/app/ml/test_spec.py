import json
import math
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ml.errors import InvalidSpec
from app.ml.spec import DEFAULT_PRESET, PRESETS, FinetuneSpec, resolve_spec, spec_from_mapping
from app.ml.spec_values import ALL_LINEAR, LORA_TARGETS, WORD_LISTS
from tests.app.ml.strategies import PLAIN_TEXT

LISTS = ("lora_target", "synonym_lists", "distill_from", "synonyms")
RANGED = {field.name: field for field in fields(FinetuneSpec) if "low" in field.metadata}
CHOICES = {field.name: field for field in fields(FinetuneSpec) if "choices" in field.metadata and field.name not in LISTS}
SWITCHES = ("use_rslora", "use_dora", "gradient_checkpointing", "load_best_model_at_end", "prompt_repeats_question")
WHOLE = (
    "cutoff_len",
    "lora_rank",
    "lora_alpha",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_samples",
    "save_steps",
    "eval_max_rows",
    "early_stopping_patience",
    "average_last_epochs",
    "prompt_neighbours",
    "min_train_steps",
    "max_train_steps",
)


def a_value(field: Any) -> st.SearchStrategy[object]:
    low, high = field.metadata["low"], field.metadata["high"]
    values: st.SearchStrategy[Any] = st.integers(low, high) if field.name in WHOLE else st.floats(low, high)
    return st.none() | values if field.default is None else values


def needs_evaluation(values: dict[str, Any]) -> bool:
    return bool(values["load_best_model_at_end"] or values["early_stopping_patience"])


def what_goes_together(values: dict[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = {"eval_strategy": "epoch"} if needs_evaluation(values) else {}
    changed |= {} if values["loss_over"] == "allowed" else {"label_smoothing_factor": 0.0, "distill_from": ()}
    changed |= {"prompt_repeats_question": False} if values["prompt_neighbours"] else {}
    low, high = values["min_train_steps"], values["max_train_steps"]
    changed |= {"min_train_steps": min(low, high)} if low and high else {}
    is_other = values["ema_decay"] or values["early_stopping_patience"]
    return {**changed, "average_last_epochs": 1} if is_other else changed


SPECS = st.fixed_dictionaries(
    {
        **{name: a_value(field) for name, field in RANGED.items()},
        **{name: st.sampled_from(field.metadata["choices"]) for name, field in CHOICES.items()},
        **{name: st.booleans() for name in SWITCHES},
        "lora_target": st.lists(st.sampled_from(LORA_TARGETS), min_size=1, unique=True).map(tuple),
        "synonyms": st.lists(st.lists(PLAIN_TEXT.filter(str.strip), min_size=2, unique=True, max_size=3).map(tuple)).map(tuple),
        "synonym_lists": st.lists(st.sampled_from(WORD_LISTS), unique=True).map(tuple),
        "distill_from": st.lists(st.sampled_from(["a:1", "a:2", "b:1"]), unique=True).map(tuple),
    }
).map(lambda values: FinetuneSpec(**values | what_goes_together(values)))


def refused(**hyperparameters: object) -> InvalidSpec:
    with pytest.raises(InvalidSpec) as caught:
        resolve_spec(hyperparameters, param_prefix="hyperparameters.")
    return caught.value


def test_the_strategies_know_every_field() -> None:
    assert {*RANGED, *CHOICES, *SWITCHES, *LISTS} == {field.name for field in fields(FinetuneSpec)}


@pytest.mark.parametrize("field", fields(FinetuneSpec), ids=lambda field: field.name)
def test_every_field_says_its_unit_and_meaning(field: Any) -> None:
    assert field.metadata["unit"].strip()
    assert field.metadata["doc"].strip().endswith((".", ")"))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_taken_as_it_is(preset: str) -> None:
    assert resolve_spec({"preset": preset}) == PRESETS[preset]


def test_without_a_preset_auto_holds_or_what_the_deployment_says() -> None:
    assert resolve_spec({}) == PRESETS["auto"]
    assert resolve_spec({}, default_preset="quick") == PRESETS["quick"]
    assert resolve_spec({"preset": "recipe"}, default_preset="quick") == PRESETS["recipe"]


def test_the_recipe_is_the_hand_made_one_number_for_number() -> None:
    # Copied from the LLaMA-Factory YAML of the recipe that the product replaces.
    recipe = PRESETS["recipe"]
    assert (recipe.lora_rank, recipe.lora_alpha, recipe.lora_dropout) == (128, 256, 0.1)
    assert (recipe.use_rslora, recipe.use_dora, recipe.loraplus_lr_ratio) == (True, True, 1.0)
    assert (recipe.learning_rate, recipe.num_train_epochs, recipe.effective_batch_size) == (5e-5, 5.0, 64)
    assert (recipe.lora_target, recipe.template) == (("q_proj", "k_proj", "v_proj"), "default")


def test_rslora_scales_by_the_root_of_the_rank() -> None:
    spec = FinetuneSpec(lora_rank=64, lora_alpha=16, use_rslora=True)
    assert (spec.lora_scale, replace(spec, use_rslora=False).lora_scale) == (2.0, 0.25)


def test_openai_names_are_understood() -> None:
    spec = resolve_spec({"preset": "quick", "n_epochs": 7, "batch_size": 4, "learning_rate_multiplier": 0.5})
    assert (spec.num_train_epochs, spec.effective_batch_size, spec.learning_rate) == (7.0, 4, PRESETS["quick"].learning_rate / 2)


def test_openais_batch_is_that_of_an_optimiser_step() -> None:
    assert resolve_spec({"preset": "recipe", "batch_size": 4}).gradient_accumulation_steps == 1


def test_openais_batch_may_be_cut_into_micro_batches() -> None:
    assert resolve_spec({"batch_size": 4, "gradient_accumulation_steps": 2}).effective_batch_size == 8


def test_llama_factory_names_are_understood() -> None:
    given = {
        "lora_rank": 8,
        "lora_target": "q_proj, v_proj",
        "lr_scheduler_type": "linear",
        "num_train_epochs": 2,
        "use_dora": False,
    }
    spec = resolve_spec(given)
    assert (spec.lora_rank, spec.lora_target, spec.lr_scheduler_type) == (8, ("q_proj", "v_proj"), "linear")
    assert (spec.num_train_epochs, spec.use_dora) == (2.0, False)


@pytest.mark.parametrize("targets", ["all", list(ALL_LINEAR), ",".join(ALL_LINEAR), [*ALL_LINEAR, "q_proj"]])
def test_lora_targets_may_be_given_in_several_ways(targets: object) -> None:
    assert resolve_spec({"lora_target": targets}).lora_target == ALL_LINEAR


@pytest.mark.parametrize("name", ["n_epochs", "batch_size", "learning_rate_multiplier", *RANGED, "lora_target"])
def test_auto_stands_for_the_presets_value(name: str) -> None:
    assert resolve_spec({"preset": "quick", name: "auto"}) == PRESETS["quick"]


def test_precision_auto_asks_the_device() -> None:
    assert resolve_spec({"precision": "auto"}).precision == "auto"


@pytest.mark.parametrize(
    ("openai", "llama_factory"),
    [
        ("n_epochs", "num_train_epochs"),
        ("batch_size", "per_device_train_batch_size"),
        ("learning_rate_multiplier", "learning_rate"),
    ],
)
def test_a_field_under_both_its_names_is_refused(openai: str, llama_factory: str) -> None:
    assert refused(**{openai: 1, llama_factory: 1}).param == f"hyperparameters.{openai}"


@pytest.mark.parametrize("value", [1, "auto", None, {}])
def test_an_unknown_name_is_named(value: object) -> None:
    assert refused(lora_rnak=value).param == "hyperparameters.lora_rnak"


@pytest.mark.parametrize("preset", ["fast", "best", None, 1, [], {}])
def test_an_unknown_preset_is_refused(preset: object) -> None:
    assert refused(preset=preset).param == "hyperparameters.preset"


@pytest.mark.parametrize("name", RANGED)
def test_a_number_out_of_range_is_refused(name: str) -> None:
    metadata = RANGED[name].metadata
    for value in (metadata["low"] - 1, metadata["high"] + 1):
        assert refused(**{name: value}).param == f"hyperparameters.{name}"


@pytest.mark.parametrize("name", RANGED)
@pytest.mark.parametrize("value", [True, math.nan, math.inf, -math.inf, 10**400, -(10**400), "1", [], {}, "auto?"])
def test_what_is_no_number_in_range_is_refused(name: str, value: object) -> None:
    assert refused(**{name: value}).param == f"hyperparameters.{name}"


@pytest.mark.parametrize("name", WHOLE)
def test_a_broken_number_where_a_whole_one_is_needed_is_refused(name: str) -> None:
    assert refused(**{name: 16.5}).param == f"hyperparameters.{name}"


@pytest.mark.parametrize("name", ["n_epochs", "batch_size", "learning_rate_multiplier"])
@pytest.mark.parametrize("value", [True, None, "2", [], 0, -1, math.nan, math.inf, 10**400, -(10**400)])
def test_what_is_no_number_in_range_is_refused_under_openais_names(name: str, value: object) -> None:
    assert (refused(**{name: value}).param or "").startswith("hyperparameters.")


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("value", [0, 1, "true", None])
def test_a_switch_is_true_or_false(name: str, value: object) -> None:
    assert refused(**{name: value}).param == f"hyperparameters.{name}"


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("value", ["other", 0, True, None, [], {}])
def test_a_choice_is_one_of_its_names(name: str, value: object) -> None:
    assert refused(**{name: value}).param == f"hyperparameters.{name}"


@pytest.mark.parametrize("needing", [{"load_best_model_at_end": True}, {"early_stopping_patience": 1}])
def test_what_needs_an_evaluation_is_refused_without_one(needing: dict[str, object]) -> None:
    assert resolve_spec(needing).eval_strategy == "epoch"
    assert refused(eval_strategy="no", **needing).param == "hyperparameters.eval_strategy"


def test_label_smoothing_is_refused_where_it_has_no_allowed_tokens_to_spread_over() -> None:
    assert resolve_spec({"loss_over": "allowed", "label_smoothing_factor": 0.1}).label_smoothing_factor == 0.1
    assert refused(preset="quick", label_smoothing_factor=0.1).param == "hyperparameters.label_smoothing_factor"


def test_a_preset_gives_its_smoothing_up_where_the_loss_is_to_be_over_the_vocabulary() -> None:
    spec = resolve_spec({"preset": "auto", "loss_over": "vocabulary"})
    assert (spec.loss_over, spec.label_smoothing_factor) == ("vocabulary", 0.0)


@pytest.mark.parametrize(
    ("low", "high", "rows", "steps"),
    [(10, None, 16, 10), (10, None, 64, 12), (None, 5, 64, 5), (None, 5, 16, 3), (2, 2, 64, 2), (7, 9, 16, 7), (1, None, 1, 3)],
)
def test_steps_are_held_between_their_bounds(low: int | None, high: int | None, rows: int, steps: int) -> None:
    spec = resolve_spec({"batch_size": 16, "n_epochs": 3, "min_train_steps": low, "max_train_steps": high})
    assert spec.total_steps(rows) == steps


def test_bounds_of_the_steps_that_exclude_each_other_are_refused() -> None:
    assert refused(min_train_steps=3, max_train_steps=2).param == "hyperparameters.min_train_steps"


@pytest.mark.parametrize("value", ["a:1", 3, None, [1], ["a:1", ""], ["x" * 111], [f"a:{n}" for n in range(9)], {"a": 1}])
def test_teachers_that_are_no_few_adapter_ids_are_refused(value: object) -> None:
    assert refused(loss_over="allowed", distill_from=value).param == "hyperparameters.distill_from"


def test_learning_from_adapters_is_refused_where_the_loss_is_over_the_vocabulary() -> None:
    assert resolve_spec({"loss_over": "allowed", "distill_from": ["a:1", "a:1"]}).distill_from == ("a:1",)
    assert refused(preset="quick", distill_from=["a:1"]).param == "hyperparameters.distill_from"


@pytest.mark.parametrize("other", [{"ema_decay": 0.9}, {"early_stopping_patience": 1}])
def test_a_mean_of_the_last_epochs_is_refused_beside_what_it_cannot_go_with(other: dict[str, object]) -> None:
    assert resolve_spec({"average_last_epochs": 3}).average_last_epochs == 3
    assert refused(average_last_epochs=3, **other).param == "hyperparameters.average_last_epochs"


def test_unless_asked_a_run_goes_to_its_end_and_keeps_its_last_adapter() -> None:
    for spec in PRESETS.values():
        assert (spec.eval_strategy, spec.early_stopping_patience, spec.load_best_model_at_end) == ("epoch", 0, False)


@pytest.mark.parametrize("value", ["", [], {}, 3, None, True, ["q_proj", 1], [["q_proj"]], "lm_head", "../q_proj", ["all"]])
def test_lora_targets_that_are_no_modules_are_refused(value: object) -> None:
    assert refused(lora_target=value).param == "hyperparameters.lora_target"


@settings(deadline=None)
@given(SPECS)
def test_a_spec_comes_back_from_its_json_form(spec: FinetuneSpec) -> None:
    assert spec_from_mapping(json.loads(json.dumps(spec.to_mapping()))) == spec


@settings(deadline=None)
@given(SPECS)
def test_a_resolved_spec_has_the_types_of_its_fields(spec: FinetuneSpec) -> None:
    read = spec_from_mapping(spec.to_mapping())
    assert all(
        isinstance(getattr(read, name), int if name in WHOLE else float | None)
        for name in RANGED
        if getattr(read, name) is not None
    )


@pytest.mark.parametrize(("rows", "steps"), [(1, 1), (16, 1), (17, 2), (33, 3)])
def test_an_epoch_has_a_step_for_each_batch_begun(rows: int, steps: int) -> None:
    assert FinetuneSpec(per_device_train_batch_size=4, gradient_accumulation_steps=4).steps_per_epoch(rows) == steps


@pytest.mark.parametrize(("epochs", "rows", "steps"), [(3.0, 17, 6), (0.5, 64, 2), (0.01, 1, 1), (2.5, 33, 8)])
def test_a_run_has_a_step_for_each_part_of_an_epoch_begun(epochs: float, rows: int, steps: int) -> None:
    spec = FinetuneSpec(num_train_epochs=epochs, per_device_train_batch_size=4, gradient_accumulation_steps=4)
    assert spec.total_steps(rows) == steps


@pytest.mark.parametrize(
    ("rows", "epochs"),
    [(5_000, 1), (2_369, 1), (2_304, 2), (400, 6), (40, 38), (1, 38)],
)
def test_a_run_of_many_epochs_is_scored_and_stored_thirty_two_times_at_most(rows: int, epochs: int) -> None:
    spec = PRESETS["auto"]
    between = spec.steps_between_scores(rows)
    assert between == epochs * spec.steps_per_epoch(rows)
    assert spec.total_steps(rows) / between <= 32


@pytest.mark.parametrize(
    "synonyms",
    [
        "怎么",
        [["怎么"]],
        [["怎么", 3]],
        [["怎么", " "]],
        [["怎么", "\x00"]],
        [["怎么", "怎么"]],
        [["a", "b"]] * 201,
        [["a", "b" * 41]],
    ],
)
def test_synonyms_are_lists_of_words_within_limits(synonyms: object) -> None:
    assert refused(synonyms=synonyms).param == "hyperparameters.synonyms"


@pytest.mark.parametrize("lists", ["telecom_zh", ["telecom_xy"], ["/etc/passwd"], [3], None])
def test_a_list_of_synonyms_is_one_of_the_products(lists: object) -> None:
    assert refused(synonym_lists=lists).param == "hyperparameters.synonym_lists"
    assert resolve_spec({"preset": "quick", "synonym_lists": ["telecom_zh", "telecom_zh"]}).synonym_lists == ("telecom_zh",)


def test_codes_are_exchanged_in_full_for_few_rows_and_ever_less_for_many() -> None:
    spec = resolve_spec({"preset": "quick", "prompt_codes_exchanged": 0.5})
    assert [spec.code_exchange_chance(rows) for rows in (0, 400, 2_000, 4_000, 20_000)] == [0.5, 0.5, 0.5, 0.25, 0.05]


def test_a_question_is_repeated_in_prompts_alone_that_show_no_others() -> None:
    assert refused(preset="auto", prompt_repeats_question=True).param == "hyperparameters.prompt_repeats_question"
    assert not resolve_spec({"preset": "direct", "prompt_neighbours": 4}).prompt_repeats_question, "the preset gives it up"


@pytest.mark.parametrize("preset", ["recipe", "quick"])
def test_no_preset_of_before_touches_its_rows(preset: str) -> None:
    spec = PRESETS[preset]
    assert (spec.code_order, spec.prompt_neighbours, spec.has_fresh_rows) == ("given", 0, False)


@pytest.mark.parametrize(
    "asked",
    [
        {"augment_noise": 0.1},
        {"augment_phrases": 0.5},
        {"augment_joins": 0.1},
        {"augment_inferences": 0.1},
        {"code_order": "shuffled"},
        {"augment_synonyms": 0.5},
        {"prompt_neighbours": 2, "prompt_neighbours_hidden": 0.1},
        {"prompt_neighbours": 2, "prompt_alone": 0.1},
        {"prompt_neighbours": 2, "prompt_codes_exchanged": 0.1},
        {"augment_synonyms": 0.5, "synonym_lists": ["telecom_zh"]},
    ],
)
def test_rows_are_made_anew_where_something_changes_from_epoch_to_epoch(asked: dict[str, Any]) -> None:
    assert resolve_spec({"preset": "quick", **asked, "synonyms": [["怎么", "如何"]]}).has_fresh_rows
    assert not resolve_spec({"preset": "quick", "augment_synonyms": 0.5}).has_fresh_rows, "no word to exchange"
    assert not resolve_spec({"preset": "quick", "synonym_lists": ["telecom_zh"]}).has_fresh_rows, "no chance to exchange one"
    assert not resolve_spec({"preset": "quick", "prompt_alone": 0.5}).has_fresh_rows, "nothing to show"


def test_what_an_older_spec_does_not_say_stays_the_recipes_whatever_the_default_preset_is() -> None:
    assert DEFAULT_PRESET != "recipe"
    assert spec_from_mapping({"version": 1, "lora_rank": 8}) == replace(PRESETS["recipe"], lora_rank=8)


def test_auto_goes_on_over_few_rows_until_they_are_learnt() -> None:
    auto = PRESETS["auto"]
    assert (auto.total_steps(40), auto.total_steps(5000), auto.total_steps(20_000)) == (1200, 1200, 8 * 313)
