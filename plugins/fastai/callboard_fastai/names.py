"""The names in fastai 2.8's modules: facts about its interface, no code of it."""

from __future__ import annotations

from collections.abc import Mapping

#: Module of fastai -> what a star import of it brings, where it says so itself.
NAMES: Mapping[str, str] = {
    "callback.azureml": """
AzureMLCallback
    """,
    "callback.captum": """
CaptumInterpretation
    """,
    "callback.channelslast": """
ChannelsLast
    """,
    "callback.comet": """
CometCallback
    """,
    "callback.core": """
Callback CancelBackwardException CancelBatchException CancelEpochException
CancelFitException CancelStepException CancelTrainException CancelValidException
FetchPredsCallback GatherPredsCallback TrainEvalCallback event
    """,
    "callback.data": """
CollectDataCallback PartialDL WeightedDL
    """,
    "callback.fp16": """
AMPMode MixedPrecision ModelToHalf NonNativeMixedPrecision copy_clone get_master
grad_overflow test_overflow to_master_grads to_model_params
    """,
    "callback.hook": """
ActivationStats Hook HookCallback Hooks dummy_eval has_params hook_output
hook_outputs layer_info model_sizes module_summary num_features_model total_params
    """,
    "callback.mixup": """
CutMix MixHandler MixUp reduce_loss
    """,
    "callback.preds": """
MCDropoutCallback
    """,
    "callback.progress": """
CSVLogger ProgressCallback ShowGraphCallback
    """,
    "callback.rnn": """
ModelResetter RNNCallback RNNRegularizer rnn_cbs
    """,
    "callback.schedule": """
LRFinder ParamScheduler SchedCos SchedExp SchedLin SchedNo SchedPoly
SuggestionMethod annealer combine_scheds combined_cos minimum sched_cos sched_exp
sched_lin sched_no slide steep valley
    """,
    "callback.tensorboard": """
TensorBoardBaseCallback TensorBoardCallback TensorBoardProjectorCallback
projector_word_embeddings tensorboard_log
    """,
    "callback.tracker": """
EarlyStoppingCallback ReduceLROnPlateau SaveModelCallback TerminateOnNaNCallback
TrackerCallback
    """,
    "callback.training": """
BnFreeze GradientAccumulation GradientClip ShortEpochCallback bn_types set_bn_eval
    """,
    "callback.wandb": """
WandbCallback log_dataset log_model wandb_process
    """,
    "collab": """
CollabDataLoaders EmbeddingDotBias EmbeddingNN TabularCollab collab_learner
    """,
    "data.block": """
CategoryBlock DataBlock MultiCategoryBlock RegressionBlock TransformBlock
    """,
    "data.core": """
DataLoaders Datasets FilteredBase TfmdDL TfmdLists decode_at get_show_batch_func
show_at show_batch show_results test_set
    """,
    "data.external": """
URLs fastai_cfg fastai_path nb_urls prefetch_data untar_data
    """,
    "data.load": """
DataLoader SkipItemException collate_error fa_collate fa_convert
    """,
    "data.transforms": """
AttrGetter Categorize Category CategoryMap ColReader ColSplitter
EncodedMultiCategorize EndSplitter FileGetter FileSplitter FuncSplitter
GrandparentSplitter ImageGetter IndexSplitter IntToFloatTensor ItemGetter
MaskSplitter MultiCategorize MultiCategory Normalize OneHotEncode RandomSplitter
RandomSubsetSplitter RegexLabeller RegressionSetup ToTensor TrainTestSplitter
broadcast_vec get_c get_files get_image_files get_text_files image_extensions
parent_label
    """,
    "distributed": """
DistributedDL DistributedTrainer ParallelTrainer rank0_first setup_distrib
teardown_distrib
    """,
    "interpret": """
ClassificationInterpretation Interpretation SegmentationInterpretation
plot_top_losses
    """,
    "layers": """
AdaptiveAvgPool AdaptiveConcatPool1d AdaptiveConcatPool2d AvgPool BatchNorm
BatchNorm1dFlat Cat ConvLayer Debugger Embedding Flatten Identity InstanceNorm
Lambda LinBnDrop MaxPool MergeLayer Mish MishJit MishJitAutoFn NoneReduce NormType
ParameterModule PartialLambda PixelShuffle_ICNR PoolFlatten PoolType
PooledSelfAttention2d ProdLayer ResBlock ResizeBatch SEBlock SEModule
SEResNeXtBlock SelfAttention SeparableBlock SequentialEx SigmoidRange SimpleCNN
SimpleSelfAttention Swish SwishJit TimeDistributed ToTensorBase View adaptive_pool
children_and_parameters flatten_model has_children icnr_init in_channels
init_default init_linear inplace_relu mish module sequential sigmoid sigmoid_
sigmoid_range swish trunc_normal_ vleaky_relu
    """,
    "learner": """
AvgLoss AvgMetric AvgSmoothLoss CancelBackwardException CancelBatchException
CancelEpochException CancelFitException CancelStepException CancelTrainException
CancelValidException CastToTensor Learner Metric Recorder SkipToEpoch ValueMetric
before_batch_cb load_learner load_model mk_metric replacing_yield save_model
    """,
    "losses": """
BCELossFlat BCEWithLogitsLossFlat BaseLoss CrossEntropyLossFlat DiceLoss FocalLoss
FocalLossFlat L1LossFlat LabelSmoothingCrossEntropy LabelSmoothingCrossEntropyFlat
MSELossFlat
    """,
    "medical.imaging": """
DcmDataset DcmMultiValue DcmTag DicomSegmentationDataLoaders PILCTScan PILDicom
TensorCTScan TensorDicom array_freqhist_bins crop_resize dcmread dicom_windows
gauss_blur2d get_dicom_files mask2bbox uniform_blur2d
    """,
    "metrics": """
APScoreBinary APScoreMulti AccumMetric BalancedAccuracy BrierScore BrierScoreMulti
CohenKappa CorpusBLEUMetric Dice DiceMulti ExplainedVariance F1Score F1ScoreMulti
FBeta FBetaMulti HammingLoss HammingLossMulti Jaccard JaccardCoeff
JaccardCoeffMulti JaccardMulti LossMetric LossMetrics MatthewsCorrCoef
MatthewsCorrCoefMulti PearsonCorrCoef Perplexity Precision PrecisionMulti R2Score
Recall RecallMulti RocAuc RocAucBinary RocAucMulti SpearmanCorrCoef accuracy
accuracy_multi error_rate exp_rmspe foreground_acc mae mse msle optim_metric
perplexity rmse skm_to_fastai top_k_accuracy
    """,
    "optimizer": """
Adam Lamb Larc Lookahead OptimWrapper Optimizer QHAdam RAdam RMSProp SGD adam_step
average_grad average_sqr_grad debias detuplify_pg l2_reg lamb_step larc_layer_lr
larc_step momentum_step pytorch_hp_map qhadam_step radam_step ranger rms_prop_step
set_item_pg sgd_step step_stat weight_decay
    """,
    "tabular.core": """
Categorify FillMissing FillStrategy ReadTabBatch TabDataLoader TabWeightedDL
Tabular TabularPandas TabularProc add_datepart add_elapsed_times cont_cat_split
df_shrink df_shrink_dtypes make_date show_batch
    """,
    "tabular.data": """
TabularDataLoaders
    """,
    "tabular.learner": """
TabularLearner show_results tabular_learner
    """,
    "tabular.model": """
TabularModel emb_sz_rule get_emb_sz tabular_config
    """,
    "test_utils": """
RegModel VerboseCallback get_env nvidia_mem nvidia_smi show_install synth_dbunch
synth_learner try_import
    """,
    "text.core": """
BOS BaseTokenizer EOS FLD PAD SentencePieceTokenizer SpacyTokenizer
SubwordTokenizer TK_MAJ TK_REP TK_UP TK_WREP TokenizeWithRules Tokenizer UNK
WordTokenizer eu_langs fix_html fn_counter_pkl fn_lengths_pkl load_tokenized_csv
lowercase parallel_tokenize replace_all_caps replace_maj replace_rep replace_space
replace_wrep rm_useless_spaces spec_add_spaces tokenize1 tokenize_csv tokenize_df
tokenize_files tokenize_folder tokenize_texts
    """,
    "text.data": """
LMDataLoader LMTensorText Numericalize Pad_Chunk Pad_Input SortedDL TensorText
TextBlock TextDataLoaders make_vocab pad_chunk pad_input pad_input_chunk
reverse_text show_batch
    """,
    "text.learner": """
LMLearner TextLearner clean_raw_keys decode_spec_tokens language_model_learner
load_ignore_keys load_model_text match_embeds plot_top_losses show_results
text_classifier_learner
    """,
    "text.models.awdlstm": """
AWD_LSTM EmbeddingDropout RNNDropout WeightDropout awd_lstm_clas_config
awd_lstm_clas_split awd_lstm_lm_config awd_lstm_lm_split dropout_mask
    """,
    "text.models.core": """
LinearDecoder PoolingLinearClassifier SentenceEncoder SequentialRNN
get_language_model get_text_classifier masked_concat_pool
    """,
    "torch_core": """
ArrayBase ArrayImage ArrayImageBW ArrayImageBase ArrayMask Chunks Module ShowTitle
TensorBase TensorCategory TensorFlowField TensorImage TensorImageBW
TensorImageBase TensorMask TensorMultiCategory TitledFloat TitledInt TitledStr
TitledTensorScalar TitledTuple apply apply_init apply_leaf base_doc
batch_to_samples concat cond_init default_device display_df distrib_barrier doc
find_bs find_device flatten_check get_empty_df get_first get_model
get_random_states grad_module init_default ismin_torch item_find logit
make_cross_image master_bar maybe_gather nested_reorder no_random norm_bias_params
norm_types notmax_torch np_func num_distrib one_hot one_hot_decode one_param
params progress_bar rank_distrib requires_grad script_bwd script_fwd
script_save_ctx script_use_ctx set_random_states set_seed setup_cuda show_image
show_image_batch show_images show_title show_titled_image subplots tensor
to_concat to_cpu to_detach to_device to_float to_half to_np trainable_params
unsqueeze unsqueeze_
    """,
    "vision.augment": """
AffineCoordTfm Brightness Contrast CropPad DeterministicDihedral DeterministicDraw
DeterministicFlip Dihedral DihedralItem Flip FlipItem HSVTfm Hue LightingTfm
OldRandomCrop PadMode RandTransform RandomCrop RandomErasing RandomResizedCrop
RandomResizedCropGPU RatioResize Resize ResizeMethod Rotate Saturation SpaceTfm
TensorTypes Warp Zoom affine_grid affine_mat apply_perspective aug_transforms
cutout_gaussian dihedral_mat find_coeffs flip_mat grayscale hsv2rgb mask_tensor
norm_apply_denorm rgb2hsv rotate_mat setup_aug_tfms zoom_mat
    """,
    "vision.core": """
AddMaskCodes BBoxLabeler BILINEAR Image LabeledBBox NEAREST OpenMask PILBase
PILImage PILImageBW PILMask PointScaler TensorBBox TensorPoint TensorPointCreate
ToTensor cifar_stats decodes encodes get_annotations image2tensor imagenet_stats
load_image mnist_stats to_image
    """,
    "vision.data": """
BBoxBlock BBoxLblBlock ImageBlock ImageDataLoaders MaskBlock PointBlock
SegmentationDataLoaders bb_pad clip_remove_empty get_grid show_batch
    """,
    "vision.gan": """
AdaptiveGANSwitcher AdaptiveLoss AddChannels DenseResBlock FixedGANSwitcher
GANDiscriminativeLR GANLearner GANLoss GANModule GANTrainer InvisibleTensor
accuracy_thresh_expand basic_critic basic_generator gan_critic gan_loss_from_func
generate_noise set_freeze_model show_batch show_results
    """,
    "vision.learner": """
TimmBody add_head cnn_learner create_body create_cnn_model create_head
create_timm_model create_unet_model create_vision_model cut_model default_split
has_pool_type model_meta plot_top_losses show_results unet_learner vision_learner
    """,
    "vision.all": """
models
    """,
    "vision.models": """
unet xresnet
    """,
    "vision.models.unet": """
DynamicUnet ResizeToOrig UnetBlock
    """,
    "vision.models.xresnet": """
XResNet g0 g1 g2 g3 init_cnn se_kwargs1 se_kwargs2 se_kwargs3 xresnet101
xresnet152 xresnet18 xresnet18_deep xresnet18_deeper xresnet34 xresnet34_deep
xresnet34_deeper xresnet50 xresnet50_deep xresnet50_deeper xresnext101 xresnext18
xresnext34 xresnext50 xse_resnet101 xse_resnet152 xse_resnet18 xse_resnet34
xse_resnet50 xse_resnext101 xse_resnext18 xse_resnext18_deep xse_resnext18_deeper
xse_resnext34 xse_resnext34_deep xse_resnext34_deeper xse_resnext50
xse_resnext50_deep xse_resnext50_deeper xsenet154
    """,
    "vision.utils": """
download_images resize_image resize_images resize_to search_images_bing
search_images_serpapi verify_image verify_images
    """,
    "vision.widgets": """
Box Button Checkbox Dropdown FileUpload HBox ImageClassifierCleaner ImagesCleaner
Label Layout Output VBox carousel widget widgets
    """,
}

#: What its modules hold besides, for themselves; files import some of it all the same.
INNER_NAMES = """
BN_convert_float FP16Model NoneType SuggestedLRs _Annealer _BaseOptimizer
_BrightnessLogit _ConstantFunc _ContrastLogit _FakeLoader _Hue _SaturationLogit
_SwishJitAutoFn _TabIloc _WarpCoord _add_norm _add_projector_features _add_prop
_after_epoch _alexnet_meta _alexnet_split _apply_cats _apply_pipeline _array2tensor
_batch_tfms _bbs2sizes _before_batch_cb _before_epoch _cast_dicom_special _cast_tensor
_collate_types _comp_filter _compose_same_tfms _conv _conv1d_spect _conv_args
_conv_func _convert_params _copy_state _dcm2dict _decode_cats _default_meta
_default_sort _densenet_meta _densenet_split _do_crop_pad _download_image_inner
_draw_mask _draw_outline _draw_rect _events _ex_docs _exp_rmspe _fa_rebuild_qtensor
_fa_rebuild_tensor _fig_bounds _find_args _find_fail_collate _format_config
_format_config_value _format_metadata _from_dicoms _get_default
_get_downloaded_image_filename _get_elapsed _get_embeddings _get_files
_get_first_layer _get_iw_info _get_lengths _get_norm _get_shapes _get_sz
_get_sz_change_idxs _get_text_vocab _get_tokenizer _grandparent_idxs _grid_sample
_has_mps _hidden_params _hook_inner _init_mat _inner_loop _is_pool_type _join_texts
_json_clean _load_pretrained_weights _loaders _loop _make_plt _maybe_expand
_maybe_first _maybe_item _merge_grouper _merge_tfms _mish_jit_bwd _mish_jit_fwd
_model_meta _neg_axis _normalize_for_projector _one_emb_sz _open_thumb _pad_modes
_pad_tensor _pg_call _pg_obj _pg_setup _prepare_mat _print_shapes _process_sz
_px_bounds _re_all_caps _re_maj _re_rep _re_space _re_spec _re_wrep _rebuild_from_type
_resnet_meta _resnet_split _rm_module _rmse _round_to_multiple _scale_pnts _short_repr
_slice _split_elem _squeezenet_meta _squeezenet_split _stack_tups _swish_jit_bwd
_swish_jit_fwd _timm_norm _tk_diff _tk_mean _tokenize_files _torch_112 _torch_113
_torch_20 _torch_handled _torch_version _try_concat _unlist _unscale_pnts _update
_update_children _update_first_layer _vgg_meta _vgg_split _wif
_write_projector_embedding _xresnet _xresnet_meta _xresnet_split _zip affine_coord
after_batch after_epoch after_fit all_equal as_dict as_subclass aspect
backwards_debug_hook before_batch before_fit brightness cat contrast convert_module
convert_network crop_pad detach_distributed detach_parallel dihedral dihedral_batch
distrib_ctx equals export fine_tune fit_flat_cos fit_one_cycle fit_sgdr flip_batch
flip_lr freeze freeze_to freqhist_bins gather_args hist_scaled hist_scaled_pt hsv hue
insights interp_1d is_coll is_iter json_clean lighting load load_array log_predictions
lr_find mask_from_blur master_params_to_model_params model_grads_to_master_grads n_px
network_to_half no_bar noop noops one_is_instance parallel_ctx partial_dataloaders pca
pct_in_window pixels plot_lr_find plot_sched png16read prep_param_lists reset reshape
resize_max rotate saturation save save_array save_jpg save_tif16 scaled_px set_meta
set_pixels setups shape show solve sort_by_run stack string_classes summary tensored
test_dl to_3chan to_bf16 to_bytes_format to_channelslast to_contiguous to_distributed
to_fp16 to_fp32 to_nchan to_non_native_fp16 to_non_native_fp32 to_parallel
to_python_float to_thumb to_uint16 tofp16 truncate tta unfreeze warp
weighted_dataloaders windowed zoom zoom_to
"""

#: Architectures that fastai's vision brings from torchvision.
ARCHITECTURES = """
alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121
densenet161 densenet169 densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2
efficientnet_b3 efficientnet_b4 efficientnet_b5 efficientnet_b6 efficientnet_b7
efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s googlenet inception_v3
mobilenet_v2 mobilenet_v3_large mobilenet_v3_small resnet101 resnet152 resnet18
resnet34 resnet50 resnext101_32x8d resnext101_64x4d resnext50_32x4d
shufflenet_v2_x0_5 shufflenet_v2_x1_0 squeezenet1_0 squeezenet1_1 swin_b swin_s
swin_t vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16 vit_b_32
vit_l_16 wide_resnet101_2 wide_resnet50_2
"""
