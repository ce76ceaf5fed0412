"""Settings in sd-scripts files that its SD3 trainer ignores: from its other trainers and from GUIs.

The kohya_ss GUI and lora-scripts run sd-scripts with a TOML that holds their own settings as well.
"""

from __future__ import annotations

OF = {
    "the kohya_ss GUI and lora-scripts": """
        epoch noise_offset_type stop_text_encoder_training lr_restart_cycles show_timesteps show_timesteps_resolution
        no_token_padding lowvram enable_preview enable_contrastive negative_sampling_method noise_strength
        contrastive_weight contrastive_warmup_steps model_train_type train_type""",
    "the launcher": """
        num_processes num_machines multi_gpu gpu_ids main_process_port dynamo_mode dynamo_use_fullgraph
        dynamo_use_dynamic""",
    "Flux and Lumina Image": """
        model_type ae discrete_flow_shift timestep_sampling model_prediction_type sigmoid_scale split_mode mem_eff_save
        single_blocks_to_swap double_blocks_to_swap blockwise_fused_optimizers controlnet_model_name_or_path
        gemma2 gemma2_max_token_length system_prompt use_flash_attn use_sage_attn sample_batch_size""",
    "HunyuanImage and Anima": """
        attn_mode split_attn byt5 fp8_scaled fp8_vl text_encoder text_encoder_cpu vae_chunk_size vae_disable_cache
        qwen3 qwen3_max_token_length t5_max_token_length t5_tokenizer_path llm_adapter_path llm_adapter_lr self_attn_lr
        cross_attn_lr mlp_lr mod_lr qwen_image_vae_2d unsloth_offload_checkpointing compile compile_backend compile_mode
        compile_dynamic compile_fullgraph compile_cache_size_limit""",
    "whole models, DreamBooth and textual inversion": """
        block_lr diffusers_xformers fused_optimizer_groups learning_rate_te learning_rate_te1 learning_rate_te2
        learning_rate_te3 num_last_block_to_freeze skip_latents_validity_check train_text_encoder use_t5xxl_cache_only
        init_word num_vectors_per_token token_string use_object_template use_style_template weights""",
}
"""Names that sd-scripts' SD3 trainer does not know, by the program that uses them."""
IGNORED = frozenset(name for names in OF.values() for name in names.split())

OF_ANOTHER_MODEL = {
    "networks.lora_flux": "Flux",
    "networks.oft_flux": "Flux",
    "networks.lora_lumina": "Lumina Image",
    "networks.lora_hunyuan_image": "HunyuanImage",
    "networks.lora_anima": "Anima",
}
"""The network modules of sd-scripts' other trainers, each with the model it is for."""
