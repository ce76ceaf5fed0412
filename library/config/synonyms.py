"""Our settings' names in other trainers, so that an unknown name is matched by meaning first, then by spelling."""

from __future__ import annotations

from collections.abc import Iterable

from library.config.family_settings import FAMILY_SETTINGS
from library.errors import did_you_mean

SYNONYMS = {
    ours: theirs.split()
    for ours, theirs in {
        "pretrained_model_name_or_path": """model model_path model_name model_name_or_path base_model base_model_name
            base_model_path name_or_path checkpoint ckpt pretrained_model pretrained_model_name diffusers_path""",
        "vae": "vae_path vae_model vae_name_or_path",
        "mixed_precision": "precision dtype train_dtype training_precision",
        "base_quantization": "quantize quantization base_model_precision qtype",
        "gradient_checkpointing": "use_gradient_checkpointing enable_gradient_checkpointing activation_checkpointing",
        "train_data_dir": """data_dir instance_data_dir train_dir dataset_dir training_data_dir train_dataset_dir
            image_folder""",
        "image_dir": "path folder_path data_dir instance_data_dir image_path directory folder",
        "reg_data_dir": "class_data_dir reg_dir regularization_dir",
        "conditioning_data_dir": "mask_path mask_dir",
        "trigger": "trigger_word instance_token placeholder_token concept_token",
        "class_word": "class_name initializer_token class_prompt",
        "class_tokens": "default_caption instance_prompt",
        "resolution": "image_size size max_resolution train_resolution",
        "train_batch_size": """batch_size batchsize batch per_device_train_batch_size micro_batch_size_per_gpu
            micro_batch_size""",
        "batch_size": "train_batch_size batchsize batch per_device_train_batch_size micro_batch_size_per_gpu",
        "enable_bucket": "bucket buckets enable_buckets enable_ar_bucket aspect_ratio_bucketing bucketing",
        "dataset_repeats": "repeats num_repeat num_repeats",
        "num_repeats": "repeats dataset_repeats balancing",
        "flip_aug": "flip flip_x random_flip horizontal_flip enable_random_flip",
        "shuffle_caption": "shuffle_tokens shuffle_tags enable_tag_shuffling caption_shuffle",
        "keep_tokens": "keep_tags keep_tags_count",
        "caption_extension": "caption_ext caption_file_extension",
        "caption_dropout_rate": "caption_dropout caption_dropout_prob caption_dropout_probability",
        "caption_tag_dropout_rate": "tag_dropout tag_dropout_rate token_dropout_rate",
        "network_dim": "rank lora_rank r lora_r dim lora_dim network_rank linear",
        "network_alpha": "alpha lora_alpha linear_alpha",
        "network_dropout": "dropout lora_dropout",
        "target_modules": "target_layers lora_layers lora_target_modules layer_filter",
        "network_weights": "pretrained_lora_path lora_weights lora_model_name lora_path init_from_existing",
        "learning_rate": "lr base_lr lora_lr max_lr transformer_lr",
        "max_train_steps": """steps max_steps num_train_steps train_steps total_steps num_steps iterations num_iters
            num_training_steps max_training_steps""",
        "max_train_epochs": "epochs num_epochs num_train_epochs max_epochs train_epochs n_epochs",
        "optimizer_type": "optimizer optim optimizer_name",
        "optimizer_args": "optimizer_params optimizer_kwargs optimizer_config",
        "lr_scheduler": "scheduler lr_schedule learning_rate_scheduler lr_scheduler_name",
        "lr_scheduler_args": "lr_scheduler_params lr_scheduler_kwargs",
        "lr_warmup_steps": "warmup_steps lr_warmup warmup num_warmup_steps learning_rate_warmup_steps",
        "gradient_accumulation_steps": "gradient_accumulation grad_accum grad_accum_steps accumulate_grad_batches",
        "max_grad_norm": "clip_grad_norm gradient_clipping gradient_clip gradient_clip_val grad_clip",
        "ema_decay": "ema use_ema ema_config",
        "seed": "random_seed manual_seed",
        "weighting_scheme": "timestep_type timestep_distribution timestep_sample_method",
        "training_shift": "shift flow_shift timestep_shift",
        "prior_loss_weight": "with_prior_preservation prior_preservation prior_weight",
        "replay_images": "num_class_images",
        "output_dir": "output output_path save_path save_dir training_folder workspace_dir output_folder",
        "output_name": "name run_name model_save_name lora_name output_model_name",
        "save_precision": "save_dtype output_dtype",
        "save_every_n_steps": "save_steps checkpointing_steps save_every save_every_steps checkpoint_every_n_steps",
        "save_every_n_epochs": "save_epochs save_every_epochs checkpoint_every_n_epochs save_epoch",
        "save_last_n_steps": "checkpoints_total_limit save_total_limit max_step_saves_to_keep",
        "resume": "resume_from_checkpoint resume_from resume_path continue_last_backup",
        "log_with": "report_to use_wandb use_tensorboard logger",
        "logging_dir": "log_dir tensorboard_dir",
        "sample_prompts": "prompts validation_prompts validation_prompt samples sample_prompt",
        "sample_every_n_steps": "sample_every sample_every_steps validation_steps sample_interval",
        "sample_every_n_epochs": "validation_epochs sample_epochs sample_every_epochs",
        "sample_steps": "num_inference_steps inference_steps diffusion_steps",
        "guidance_scale": "cfg cfg_scale guidance validation_guidance",
    }.items()
}
"""Our settings and the keys of our dataset files, each with its names in other trainers."""

OTHERWISE = {
    "log_every_n_steps log_every logging_steps log_interval steps_per_print": (
        "There is no such setting: log.jsonl and log.csv have every step. Remove it."
    ),
    "weight_decay adam_weight_decay adam_beta1 adam_beta2 adam_epsilon beta1 beta2 betas eps momentum": (
        'The optimizer\'s own arguments belong in optimizer_args, such as optimizer_args = ["weight_decay=0.01"].'
    ),
}
"""Settings of other trainers that are written differently here, and how."""
REMOVED = {
    "guidance_focus": "keeping R(target) only where it is strongest changed nothing that the bench measures",
    "lambda_min": "clamping lambda* from below changed nothing that the bench measures",
    "replay_eta": "L_PureCC on replayed images made results worse on the bench",
}
"""Settings that earlier versions had, and why they are gone."""
ELSEWHERE = {name: how for names, how in OTHERWISE.items() for name in names.split()} | {
    name: f"It was removed, because {why}. Delete the line." for name, why in REMOVED.items()
}


def synonyms() -> dict[str, list[str]]:
    """All settings with other names elsewhere, including those of families."""
    of_families = {ours: theirs.split() for one in FAMILY_SETTINGS.values() for ours, theirs in one.synonyms.items()}
    return SYNONYMS | of_families


def meant(word: str, known: Iterable[str]) -> str:
    """A remedy for an unknown name: its name here, the nearest known name, or a list of names.

    Args:
        known: the names that are valid in its place.
    """
    names, asked = sorted(known), word.lower().replace("-", "_")
    called = [ours for ours, theirs in synonyms().items() if asked in theirs and ours in names]
    if called:
        return f'Did you mean "{called[0]}"?'
    return ELSEWHERE.get(asked) or did_you_mean(word, names)
