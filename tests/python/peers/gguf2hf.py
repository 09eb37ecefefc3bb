#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""GGUF (llama architecture) -> a Hugging Face folder that vLLM and transformers load: config.json, model.safetensors (bf16),
tokenizer.json, tokenizer_config.json, generation_config.json.  Needs gguf, numpy, tokenizers; no torch, no hub."""
import sys, os, json, numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
src, out = sys.argv[1], sys.argv[2]; dt = sys.argv[3] if len(sys.argv) > 3 else "bfloat16"
os.makedirs(out, exist_ok=True)
r = GGUFReader(src)
F = {k: f.contents() for k, f in r.fields.items()}
g = lambda k, d=None: F.get(k, d)
arch = g("general.architecture"); assert arch == "llama", arch
nh, nkv, hid, nl = (g(f"llama.{k}") for k in ("attention.head_count", "attention.head_count_kv", "embedding_length", "block_count"))
toks, types, merges = g("tokenizer.ggml.tokens"), g("tokenizer.ggml.token_type"), g("tokenizer.ggml.merges")
print({k: v for k, v in F.items() if not isinstance(v, list) and k != "tokenizer.chat_template"})
NM = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
      "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
def unpermute(w, n):  # llama.cpp interleaves the rotary halves of q and k; transformers wants them apart
    return w.reshape(n, w.shape[0] // n // 2, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
def bf16(a):
    u = np.ascontiguousarray(a, np.float32).view(np.uint32)
    return ((u + 0x7fff + ((u >> 16) & 1)) >> 16).astype(np.uint16)
head, blobs, off, tied = {"__metadata__": {"format": "pt"}}, [], 0, True
for t in r.tensors:
    w = dequantize(t.data, t.tensor_type).reshape([int(x) for x in t.shape[::-1]])
    p = t.name.split(".")
    if p[0] == "blk":
        if p[2] == "attn_q": w = unpermute(w, nh)
        if p[2] == "attn_k": w = unpermute(w, nkv)
        name = f"model.layers.{p[1]}.{NM[p[2]]}.weight"
    elif t.name == "token_embd.weight": name = "model.embed_tokens.weight"
    elif t.name == "output_norm.weight": name = "model.norm.weight"
    elif t.name == "output.weight": name, tied = "lm_head.weight", False
    else: print("skipped", t.name); continue
    b = (bf16(w) if dt == "bfloat16" else w.astype(np.float32)).tobytes()
    head[name] = {"dtype": "BF16" if dt == "bfloat16" else "F32", "shape": list(w.shape), "data_offsets": [off, off + len(b)]}; off += len(b); blobs.append(b)
h = json.dumps(head).encode(); h += b" " * (-len(h) % 8)
with open(f"{out}/model.safetensors", "wb") as f:
    f.write(len(h).to_bytes(8, "little")); f.write(h); [f.write(b) for b in blobs]
eos, bos = g("tokenizer.ggml.eos_token_id"), g("tokenizer.ggml.bos_token_id")
json.dump({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hid, "num_hidden_layers": nl, "num_attention_heads": nh,
           "num_key_value_heads": nkv, "head_dim": hid // nh, "intermediate_size": g("llama.feed_forward_length"), "vocab_size": len(toks),
           "max_position_embeddings": g("llama.context_length"), "rms_norm_eps": float(g("llama.attention.layer_norm_rms_epsilon")),
           "rope_theta": float(g("llama.rope.freq_base", 10000.0)), "tie_word_embeddings": tied, "hidden_act": "silu", "attention_bias": False,
           "mlp_bias": False, "bos_token_id": bos, "eos_token_id": eos, "torch_dtype": dt}, open(f"{out}/config.json", "w"), indent=1)
json.dump({"bos_token_id": bos, "eos_token_id": eos, "do_sample": False}, open(f"{out}/generation_config.json", "w"))
from tokenizers import Tokenizer, models, pre_tokenizers, decoders, AddedToken
special = [t for t, y in zip(toks, types) if y == 3]
T = Tokenizer(models.BPE({t: i for i, t in enumerate(toks)}, [tuple(m.split(" ", 1)) for m in merges]))
T.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
T.decoder = decoders.ByteLevel(); T.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
T.save(f"{out}/tokenizer.json")
json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": toks[bos], "eos_token": toks[eos], "unk_token": toks[g("tokenizer.ggml.unknown_token_id", 0)],
           "pad_token": toks[g("tokenizer.ggml.padding_token_id", eos)], "model_max_length": g("llama.context_length"), "clean_up_tokenization_spaces": False,
           "chat_template": g("tokenizer.chat_template")}, open(f"{out}/tokenizer_config.json", "w"), indent=1)
print("ok", nl, "layers", nh, nkv, hid, "tied", tied, "special", special[:6], T.encode("The capital of France is 1234, isn't it?").ids)
