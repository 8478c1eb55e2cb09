"""What is compared: fastai's 47 callbacks, and the methods that go with them.

This module needs neither fastai nor torch, so that tests may read it anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

THEMES = (
    *("loop", "recording", "schedules", "trackers", "training", "mixing"),
    *("predicting", "watching", "recurrent", "services", "adversarial", "precision"),
)


@dataclass(frozen=True)
class Subject:
    """A class or function of fastai, and what there is here in its place.

    Attributes:
        module: Where it is in fastai.
        plugin: The folder in plugins/; empty where the core itself does it.
        otherwise: What is different on purpose, and why.
        shown: The test that shows it, as ``file::name`` from the repository's root.
        not_offered: Why there is nothing.
    """

    module: str
    plugin: str = ""
    otherwise: str = ""
    shown: str = ""
    not_offered: str = ""


FAULTS = "tests/test_fastai_faults.py::"


def test_of(plugin: str, name: str) -> str:
    """A test of a plugin."""
    folder = plugin.replace("-", "_")
    return f"plugins/{plugin}/tests/test_{folder}.py::test_{name}"


CALLBACKS: dict[str, Subject] = {
    "TrainEvalCallback": Subject(
        "callback.core",
        otherwise="Part of the loop. A model's `reset()` is called by `model-resetter` "
        "only.",
        shown=test_of("rnn", "without_it_the_model_goes_on_remembering"),
    ),
    "GatherPredsCallback": Subject(
        "callback.core",
        "gather-preds",
        "Plain torch loaders will do, and a pass inside a fit changes nothing of it.",
        FAULTS + "test_evaluating_in_a_callback_changes_no_weight_row_or_file",
    ),
    "FetchPredsCallback": Subject(
        "callback.core",
        "fetch-preds",
        "`validate()` fetches too; fastai waits for itself there for ever.",
        test_of("fetch-preds", "validate_fetches_too_and_comes_to_an_end"),
    ),
    "SkipToEpoch": Subject(
        "learner",
        not_offered="`fit(start_epoch=)` does it, and leaves out the empty rows and "
        "the cancels of the epochs before.",
        shown=FAULTS + "test_start_epoch_keeps_schedule_and_rows_in_their_places",
    ),
    "Recorder": Subject(
        "learner",
        "recorder",
        "`train_loss` is the mean of the epoch; fastai's is `smooth_loss`. A phase "
        "that was cancelled leaves its columns empty; fastai's later ones move up.",
        FAULTS + "test_a_cancelled_phase_shifts_no_column",
    ),
    "CastToTensor": Subject(
        "learner",
        "cast-to-tensor",
        "Takes part when it is named, and goes through lists and mappings too.",
        test_of("cast-to-tensor", "tuples_lists_and_mappings_keep_their_kind"),
    ),
    "CollectDataCallback": Subject(
        "callback.data",
        "collect-data",
        "Tensors are copied; a cancelled batch has no prediction instead of the one "
        "before.",
        test_of("collect-data", "a_cancelled_batch_has_no_prediction"),
    ),
    "MixedPrecision": Subject(
        "callback.fp16",
        "mixed-precision",
        "Works on a CPU too. The scale goes on in the next fit and in a run that is "
        "resumed; no cancel leaves autocast switched on.",
        test_of("mixed-precision", "precision_is_full_again_outside"),
    ),
    "ModelToHalf": Subject(
        "callback.fp16",
        not_offered="it serves `NonNativeMixedPrecision` only.",
    ),
    "NonNativeMixedPrecision": Subject(
        "callback.fp16",
        not_offered="it is from before torch had `torch.amp`; `mixed-precision` does "
        "what it did.",
    ),
    "HookCallback": Subject(
        "callback.hook",
        "hooks",
        "`every` takes hooks off again in a subclass too; fastai's looks at a counter "
        "that has moved on.",
        "plugins/hooks/tests/test_activation_stats.py::"
        "test_every_looks_at_the_first_batch_and_each_so_many_after",
    ),
    "ActivationStats": Subject(
        "callback.hook",
        "hooks",
        "Numbers stay on the device for 64 batches; fastai waits for it three times a "
        "layer and batch.",
        "plugins/hooks/tests/test_activation_stats.py::"
        "test_nothing_is_read_from_the_device_batch_by_batch",
    ),
    "MixHandler": Subject(
        "callback.mixup",
        "mixup",
        "A subclass says how it mixes in `mix()`. No loss function is swapped, so none "
        "stays swapped after an error.",
        FAULTS + "test_an_error_in_mid_batch_leaves_no_loss_function_swapped",
    ),
    "MixUp": Subject(
        "callback.mixup",
        "mixup",
        "torch's own cross entropy will do: fastai blends class numbers unless the "
        "loss has `y_int`. Ignored and weighted classes count as without it.",
        test_of(
            "mixup",
            "weighted_mean_is_divided_by_what_the_blended_labels_count",
        ),
    ),
    "CutMix": Subject(
        "callback.mixup",
        "cutmix",
        "The loader's images stay as they are; fastai writes into them.",
        test_of("cutmix", "the_data_itself_is_left_alone"),
    ),
    "MCDropoutCallback": Subject(
        "callback.preds",
        "mc-dropout",
        "Not in the validation of a fit; modes are put back after an error.",
        test_of("mc-dropout", "modes_are_put_back_where_an_evaluation_fails"),
    ),
    "ProgressCallback": Subject(
        "callback.progress",
        "progress",
        "Bars of its own by rich, plain lines in a file. The training loss is the mean "
        "of the epoch, as in the recorder.",
        test_of(
            "progress",
            "file_gets_a_header_once_and_one_aligned_row_an_epoch",
        ),
    ),
    "ShowGraphCallback": Subject(
        "callback.progress",
        "show-graph",
        "A fit with `start_epoch` is drawn; fastai's fails.",
        test_of("show-graph", "a_fit_that_starts_later_is_drawn_where_it_is"),
    ),
    "CSVLogger": Subject(
        "callback.progress",
        "csv-logger",
        "`validate()` and `lr_find()` leave the file alone, and `append` writes no "
        "second header.",
        test_of("csv-logger", "validation_after_a_fit_leaves_the_file_alone"),
    ),
    "ModelResetter": Subject(
        "callback.rnn",
        "rnn",
        "An evaluation in the middle of a fit keeps the hidden state.",
        test_of("rnn", "a_validation_in_the_middle_leaves_the_hidden_state"),
    ),
    "RNNCallback": Subject("callback.rnn", "rnn"),
    "RNNRegularizer": Subject(
        "callback.rnn",
        "rnn",
        "Sequences of one step have no TAR, where fastai's is NaN.",
        test_of("rnn", "sequences_of_one_step_train_without_a_change_penalty"),
    ),
    "ParamScheduler": Subject(
        "callback.schedule",
        "schedule",
        "An optimizer without momentum runs one-cycle, with a warning; fastai's fails.",
        FAULTS + "test_one_cycle_runs_with_an_optimizer_that_has_no_momentum",
    ),
    "LRFinder": Subject(
        "callback.schedule",
        "lr-finder",
        "Random streams, the recorder and, after an error, weights are put back.",
        test_of("lr-finder", "an_error_in_the_middle_leaves_nothing_changed"),
    ),
    "TerminateOnNaNCallback": Subject(
        "callback.tracker",
        "terminate-on-nan",
        "Looks every 50 batches unless told otherwise, since looking waits for the "
        "device; here it looked at every one.",
        test_of("terminate-on-nan", "a_step_reads_nothing_back"),
    ),
    "TrackerCallback": Subject(
        "callback.tracker",
        "tracker",
        "Which direction is better is said or known, never guessed from a name.",
        FAULTS + "test_the_direction_of_a_metric_is_not_guessed_from_its_name",
    ),
    "SaveModelCallback": Subject(
        "callback.tracker",
        "save-model",
        "Files are safetensors, written whole or not at all.",
        test_of(
            "save-model",
            "interrupted_writing_leaves_the_file_of_before_and_no_litter",
        ),
    ),
    "ReduceLROnPlateau": Subject(
        "callback.tracker",
        "reduce-lr-on-plateau",
        "Works with every optimizer; with one of torch's fastai writes the rate into a "
        "copy. A schedule that would undo it is refused.",
        test_of("reduce-lr-on-plateau", "every_group_falls_by_the_same_factor"),
    ),
    "EarlyStoppingCallback": Subject(
        "callback.tracker",
        "early-stopping",
        "Every plugin sees the epoch that stops the fit, whatever their order.",
        test_of("early-stopping", "every_plugin_sees_the_epoch_that_stops_the_fit"),
    ),
    "ShortEpochCallback": Subject(
        "callback.training",
        "short-epoch",
        "The share of batches is run and not one more; no phase is cancelled, so no "
        "column is lost.",
        test_of("short-epoch", "the_columns_of_training_and_validation_are_kept"),
    ),
    "GradientAccumulation": Subject(
        "callback.training",
        "gradient-accumulation",
        "What is left over at the end of an epoch is stepped; fastai counts it into "
        "the next. An `n_acc` below the batch size does not enlarge the step.",
        test_of(
            "gradient-accumulation",
            "what_is_left_is_stepped_where_the_length_is_not_known",
        ),
    ),
    "GradientClip": Subject("callback.training", "gradient-clip"),
    "BnFreeze": Subject(
        "callback.training",
        "bn-freeze",
        "Layers without weights are left alone; fastai's fails.",
        test_of("bn-freeze", "layers_that_train_or_have_no_weights_are_left_alone"),
    ),
    "ChannelsLast": Subject(
        "callback.channelslast",
        "channels-last",
        "Inputs are turned as well as weights, and `to_channelslast` leaves the "
        "precision alone.",
        test_of("channels-last", "weights_and_inputs_have_their_channels_last"),
    ),
    "TensorBoardBaseCallback": Subject(
        "callback.tensorboard",
        "tensorboard",
        "A base class there; here `callboard-run-log` is that of all loggers.",
        test_of("tensorboard", "projector_may_show_the_output_of_a_layer"),
    ),
    "TensorBoardCallback": Subject(
        "callback.tensorboard",
        "tensorboard",
        "Steps of the validation are not logged as if they were of training; samples "
        "come from the validation itself.",
        test_of("tensorboard", "losses_and_rates_stand_under_their_steps"),
    ),
    "TensorBoardProjectorCallback": Subject(
        "callback.tensorboard",
        "tensorboard",
        "Images need be no square, and no subclass of tensors.",
        test_of("tensorboard", "projector_may_show_the_output_of_a_layer"),
    ),
    "WandbCallback": Subject(
        "callback.wandb",
        "wandb",
        "Losses are read 50 steps at a time; the run is kept in the state.",
        test_of("wandb", "resumed_run_goes_on_in_the_run_that_was_killed"),
    ),
    "CometCallback": Subject(
        "callback.comet",
        "comet",
        "fastai's cannot be made, since its constructor reads a name that is defined "
        "nowhere; here the name was defined. Numbers stand under their steps.",
        test_of("comet", "numbers_stand_under_their_steps"),
    ),
    "AzureMLCallback": Subject(
        "callback.azureml",
        "azure-ml",
        "Hyper-parameters of every group have a name of their own; an epoch of an hour "
        "is no error.",
        test_of("azure-ml", "numbers_stand_under_their_steps"),
    ),
    "ParallelTrainer": Subject(
        "distributed",
        "parallel-trainer",
        "The model is not wrapped, so its weights keep their names during a fit and "
        "it is itself after an error.",
        test_of("parallel-trainer", "an_error_leaves_the_model_as_it_was"),
    ),
    "DistributedTrainer": Subject(
        "distributed",
        not_offered="several processes are no plugin of this repository.",
    ),
    "GANTrainer": Subject(
        "vision.gan",
        "gan",
        "Turns go on over epochs; fastai begins with the generator after every "
        "validation. Momentum moves nobody whose turn it is not.",
        test_of("gan", "turns_may_be_of_any_length_and_go_on_where_an_epoch_ended"),
    ),
    "FixedGANSwitcher": Subject(
        "vision.gan",
        "gan",
        "A function gets how many batches the other had; in fastai always 0.",
        test_of("gan", "length_of_a_turn_may_hang_on_the_turn_before"),
    ),
    "AdaptiveGANSwitcher": Subject("vision.gan", "gan"),
    "GANDiscriminativeLR": Subject(
        "vision.gan",
        "gan",
        "A schedule keeps its rate, and a switcher before it leaves none behind.",
        test_of("gan", "the_critics_rate_follows_a_schedule"),
    ),
    "VerboseCallback": Subject(
        "test_utils",
        "verbose",
        "Three events more, `checkpoint`, `on_exception` and `teardown`, are printed "
        "too; `after_create` also for callbacks that are added later.",
        test_of("verbose", "an_error_is_an_event"),
    ),
}

METHODS: dict[str, Subject] = {
    "Learner.validate": Subject("learner"),
    "Learner.freeze": Subject("learner"),
    "Learner.tta": Subject("learner", "gather-preds"),
    "Learner.fit_one_cycle": Subject("callback.schedule", "schedule"),
    "Learner.fit_flat_cos": Subject(
        "callback.schedule",
        "schedule",
        "`start_epoch` is heeded; fastai passes 0 on.",
        test_of(
            "schedule",
            "other_runs_that_start_later_meet_the_rest_of_the_same_schedule",
        ),
    ),
    "Learner.fit_sgdr": Subject(
        "callback.schedule",
        "schedule",
        "Every cycle begins with the first batch of its epoch. In fastai most begin a "
        "batch late, since shares such as 1/7 are rounded to float32.",
        test_of("schedule", "every_restart_begins_with_the_first_batch_of_its_epoch"),
    ),
    "Learner.fine_tune": Subject("callback.schedule", "fine-tune"),
    "Learner.lr_find": Subject("callback.schedule", "lr-finder"),
    "Learner.summary": Subject("callback.hook", "model-summary"),
    "WeightedDL": Subject(
        "callback.data",
        "weighted-dl",
        "What is drawn hangs on the seed and the epoch, with any number of workers.",
        test_of("weighted-dl", "items_hang_on_the_seed_and_the_epoch"),
    ),
    "PartialDL": Subject("callback.data", "weighted-dl"),
}
SUBJECTS = {**CALLBACKS, **METHODS}


def list_mistakes(classes: Iterable[str]) -> list[str]:
    """In which ways the list of callbacks is not that of the installed fastai."""
    found = set(classes)
    missing = sorted(found - set(CALLBACKS))
    gone = sorted(set(CALLBACKS) - found)
    return [f"{name}: in fastai, not in parity/subjects.py" for name in missing] + [
        f"{name}: in parity/subjects.py, not in fastai" for name in gone
    ]
