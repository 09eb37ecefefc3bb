# SPDX-License-Identifier: Apache-2.0
"""llama.cpp through its C API (llama-cpp-python): just enough to run tokens and read logits."""
import ctypes

import llama_cpp as L
import numpy as np


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def _quiet(_level, _text, _user):
    pass


L.llama_log_set(_quiet, None)
L.llama_backend_init()


KV_TYPES = {"f32": 0, "f16": 1, "bf16": 30}  # ggml's numbers


class Model:
    def __init__(self, path):
        params = L.llama_model_default_params()
        params.n_gpu_layers = 0
        self.at = L.llama_model_load_from_file(path.encode(), params)
        if not self.at:
            raise SystemExit(f"llama.cpp can't load {path}")
        self.vocab_at = L.llama_model_get_vocab(self.at)
        self.vocab = L.llama_vocab_n_tokens(self.vocab_at)

    def tokenize(self, text, special):
        raw = text.encode()
        room = (ctypes.c_int32 * (len(raw) + 8))()
        n = L.llama_tokenize(self.vocab_at, raw, len(raw), room, len(room), False, special)
        return list(room[:n])


class Context:
    """One sequence; threads as given, everything else llama.cpp's default but the context's size and
    the KV cache's type."""

    def __init__(self, model, threads, context, kv="f16"):
        params = L.llama_context_default_params()
        params.n_ctx = context
        params.n_batch = context
        params.n_threads = threads
        params.n_threads_batch = threads
        params.type_k = params.type_v = KV_TYPES[kv]
        if kv == "f32":
            params.flash_attn_type = 0  # its CPU kernel would round K and V to f16
        self.model = model
        self.at = L.llama_init_from_model(model.at, params)
        if not self.at:
            raise SystemExit("llama.cpp can't make a context")
        self.batch = L.llama_batch_init(context, 0, 1)
        self.pos = 0

    def clear(self):
        L.llama_memory_clear(L.llama_get_memory(self.at), True)
        self.pos = 0

    def run(self, tokens):
        """Logits are wanted after the last token."""
        b = self.batch
        b.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            b.token[i] = int(token)
            b.pos[i] = self.pos + i
            b.n_seq_id[i] = 1
            b.seq_id[i][0] = 0
            b.logits[i] = i + 1 == len(tokens)
        if L.llama_decode(self.at, b) != 0:
            raise SystemExit("llama_decode failed")
        self.pos += len(tokens)

    def logits(self):
        at = L.llama_get_logits_ith(self.at, -1)
        return np.ctypeslib.as_array(at, shape=(self.model.vocab,)).copy()

    def close(self):
        L.llama_batch_free(self.batch)
        L.llama_free(self.at)
