"""Families of open models as tiny random ones: by transformers' name, what their configuration needs besides what all have."""

from typing import Any

LATENT = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
"""Latent attention."""
EXPERTS = {
    "moe_intermediate_size": 32,
    "num_experts": 4,
    "n_routed_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "shared_expert_intermediate_size": 32,
}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
LINEAR_TYPES = {"layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"]}
CONVOLUTIONS = {"layer_types": ["conv", "full_attention"] * 2}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8}
SCALED = {"logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3}
SLIDING = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}
KEY_HEADS = {"num_key_value_heads": 2, "head_dim": 8}

RUN: dict[str, dict[str, Any]] = {
    "afmoe": KEY_HEADS | EXPERTS | SLIDING,
    "apertus": KEY_HEADS,
    "arcee": KEY_HEADS,
    "aria_text": KEY_HEADS | EXPERTS | {"moe_num_experts": 4, "moe_topk": 2},
    "biogpt": {},
    "bitnet": KEY_HEADS,
    "bloom": {},
    "codegen": {"rotary_dim": 4},
    "cohere": KEY_HEADS,
    "cohere2": KEY_HEADS | SLIDING,
    "cohere2_moe": KEY_HEADS | EXPERTS | SLIDING,
    "cwm": KEY_HEADS | SLIDING,
    "deepseek_v2": LATENT | EXPERTS | {"first_k_dense_replace": 1, "head_dim": 4},
    "deepseek_v3": LATENT | EXPERTS | {"first_k_dense_replace": 1, "num_key_value_heads": 4},
    "diffllama": KEY_HEADS,
    "doge": KEY_HEADS,
    "dots1": KEY_HEADS | EXPERTS | {"n_shared_experts": 1, "first_k_dense_replace": 1},
    "ernie4_5": KEY_HEADS,
    "ernie4_5_moe": KEY_HEADS | EXPERTS | {"moe_num_experts": 4, "moe_k": 2, "moe_num_shared_experts": 1},
    "exaone4": KEY_HEADS | SLIDING,
    "exaone_moe": KEY_HEADS | EXPERTS | SLIDING,
    "falcon": {"alibi": False, "multi_query": True},
    "flex_olmo": KEY_HEADS | EXPERTS,
    "gemma": KEY_HEADS,
    "gemma2": KEY_HEADS | {"query_pre_attn_scalar": 8, "final_logit_softcapping": 5.0, "sliding_window": 4},
    "gemma3_text": KEY_HEADS | {"query_pre_attn_scalar": 8} | SLIDING,
    "gemma4_text": KEY_HEADS | SLIDING | {"global_head_dim": 8, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0},
    "glm": KEY_HEADS,
    "glm4": KEY_HEADS,
    "glm4_moe": KEY_HEADS | EXPERTS | {"first_k_dense_replace": 1},
    "glm4_moe_lite": LATENT | EXPERTS | {"num_key_value_heads": 4, "first_k_dense_replace": 1},
    "gpt2": {"n_inner": 64},
    "gpt_bigcode": {"n_inner": 64},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 4},
    "gpt_neox": {},
    "gpt_oss": KEY_HEADS | EXPERTS | SLIDING,
    "gptj": {"rotary_dim": 4},
    "granite": KEY_HEADS | SCALED,
    "granitemoe": KEY_HEADS | EXPERTS | SCALED,
    "granitemoeshared": KEY_HEADS | EXPERTS | SCALED,
    "helium": KEY_HEADS,
    "hunyuan_v1_dense": KEY_HEADS,
    "hunyuan_v1_moe": KEY_HEADS | EXPERTS | {"moe_topk": 2},
    "hy_v3": KEY_HEADS | EXPERTS,
    "internlm3": KEY_HEADS,
    "jais2": KEY_HEADS,
    "jetmoe": EXPERTS | {"num_key_value_heads": 2, "kv_channels": 8},
    "laguna": KEY_HEADS | EXPERTS,
    "llama": KEY_HEADS,
    "mellum": KEY_HEADS | EXPERTS,
    "mimo_v2_flash": KEY_HEADS | EXPERTS | SLIDING,
    "minimax_m2": KEY_HEADS | EXPERTS,
    "ministral": KEY_HEADS | SLIDING,
    "ministral3": KEY_HEADS,
    "mistral": KEY_HEADS | {"sliding_window": 4},
    "mixtral": KEY_HEADS | EXPERTS,
    "mpt": {},
    "nanochat": KEY_HEADS | {"final_logit_softcapping": 5.0},
    "nemotron": KEY_HEADS,
    "olmo": KEY_HEADS,
    "olmo2": KEY_HEADS,
    "olmo3": KEY_HEADS | SLIDING,
    "olmoe": KEY_HEADS | EXPERTS,
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "persimmon": {},
    "phi": KEY_HEADS,
    "phi3": KEY_HEADS,
    "phimoe": KEY_HEADS | EXPERTS,
    "qwen2": KEY_HEADS,
    "qwen2_moe": KEY_HEADS | EXPERTS,
    "qwen3": KEY_HEADS,
    "qwen3_moe": KEY_HEADS | EXPERTS,
    "seed_oss": KEY_HEADS,
    "smollm3": KEY_HEADS,
    "solar_open": KEY_HEADS | EXPERTS,
    "stablelm": KEY_HEADS,
    "starcoder2": KEY_HEADS,
    "vaultgemma": KEY_HEADS | {"query_pre_attn_scalar": 8, "final_logit_softcapping": 5.0} | SLIDING,
    "xglm": {"ffn_dim": 64, "attention_heads": 4},
    "youtu": LATENT | {"num_key_value_heads": 4},
}
"""Those that are scored and steered."""

WITH_STATES: dict[str, dict[str, Any]] = {
    "bailing_hybrid": EXPERTS | LATENT | LINEAR_TYPES | {"num_key_value_heads": 4},
    "bamba": KEY_HEADS | MAMBA | {"attn_layer_indices": [1, 3]},
    "granitemoehybrid": KEY_HEADS | EXPERTS | SCALED | MAMBA | {"layer_types": ["mamba", "attention"] * 2, "shared_intermediate_size": 64},
    "jamba": KEY_HEADS | EXPERTS | {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False, "mamba_d_state": 8},
    "kimi_linear": EXPERTS | LATENT | LINEAR_TYPES | {"num_key_value_heads": 4, "linear_num_heads": 4, "linear_head_dim": 8},
    "lfm2": KEY_HEADS | CONVOLUTIONS,
    "lfm2_moe": KEY_HEADS | EXPERTS | CONVOLUTIONS | {"num_dense_layers": 1},
    "lfm3": KEY_HEADS | CONVOLUTIONS,
    "olmo_hybrid": KEY_HEADS | LINEAR | LINEAR_TYPES,
    "qwen3_5_moe_text": KEY_HEADS | EXPERTS | LINEAR | LINEAR_TYPES,
    "qwen3_5_text": KEY_HEADS | LINEAR | LINEAR_TYPES,
    "qwen3_next": KEY_HEADS | EXPERTS | LINEAR | LINEAR_TYPES,
}
"""Those of them that keep states of one size in some layers instead of keys and values."""

REFUSED: dict[str, dict[str, Any]] = {
    "bert": {},
    "deepseek_v32": LATENT | EXPERTS,
    "electra": {},
    "falcon_h1": KEY_HEADS | MAMBA | {"mamba_d_ssm": 64},
    "falcon_mamba": {},
    "gemma3n_text": KEY_HEADS
    | {"layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8}
    | {"activation_sparsity_pattern": [0.0] * 4, "laurel_rank": 4},
    "glm_moe_dsa": LATENT | EXPERTS,
    "hy_v4": KEY_HEADS | EXPERTS,
    "hyperclovax": KEY_HEADS | SCALED,
    "inkling_text": KEY_HEADS | EXPERTS,
    "llama4_text": KEY_HEADS | EXPERTS,
    "mamba": {},
    "minicpm3": LATENT | {"num_key_value_heads": 4},
    "minimax": KEY_HEADS | EXPERTS,
    "nemotron_h": {},
    "openai-gpt": {},
    "recurrent_gemma": KEY_HEADS,
    "roberta": {},
    "rwkv": {},
    "zaya": EXPERTS | {"num_experts_per_tok": 1},
}
"""Those that `saesteer check` refuses (saesteer.workflow.families), and the engine as well."""
