# SPDX-License-Identifier: Apache-2.0
"""libkvwire.so by cffi's ABI mode: no compiler and no header is needed where the package is installed. The structs are
those of kvwire/core_types.h, node.h, pool.h and mem.h; tests/python/abi.py compares each offset with the headers.

cffi gives up the GIL during every call, so whatever waits in C holds up no other Python thread. Nothing here is called
from C."""

from __future__ import annotations

import os
from typing import Any

import cffi

CDEF = """
typedef struct kvw_key { uint8_t bytes[16]; } kvw_key;
typedef struct kvw_peer_id { uint32_t value; } kvw_peer_id;
typedef struct kvw_pool_id { uint32_t value; } kvw_pool_id;
typedef struct kvw_xfer_ref { uint64_t value; } kvw_xfer_ref;
typedef struct kvw_region_id { uint32_t value; } kvw_region_id;
typedef struct kvw_batch_id { uint64_t value; } kvw_batch_id;
typedef int kvw_err;

struct kvw_core_event {
    uint32_t size; uint32_t kind; int32_t err; kvw_peer_id peer; kvw_xfer_ref xfer; kvw_key key; uint32_t layer;
    uint32_t chunks; uint64_t at_ns; uint64_t raw_bytes, wire_bytes; uint64_t first_ns, last_ns; uint32_t codec;
    uint32_t note_bytes; uint8_t note[512]; char text[257]; kvw_batch_id batch;
    uint32_t codec_chunks[64];
};
struct kvw_peer_info {
    uint32_t size; uint32_t state; uint64_t instance; char name[64]; char path[16]; char address[256]; uint32_t pools;
    uint32_t xfers; uint64_t chunks_sent, chunks_landed, raw_bytes_sent, raw_bytes_landed; uint64_t rate_bytes_per_s;
    uint64_t rtt_ns; uint32_t codec; uint32_t reserved; char why[160]; char twins[160];
};
struct kvw_group_blocks {
    uint32_t group; uint32_t block_count; const uint32_t *blocks; uint32_t token_first; uint32_t want_first;
    uint32_t want_end;
};
struct kvw_offer_terms {
    uint32_t size; uint32_t budget; uint32_t exact_first; uint32_t exact_last; uint64_t take_by_ns; uint64_t lease_ns;
    uint64_t deadline_ns;
};
struct kvw_offer_args {
    uint32_t size; kvw_pool_id pool; kvw_key key; uint32_t tokens; uint32_t group_count;
    const struct kvw_group_blocks *groups; const kvw_peer_id *sources; uint32_t source_count; uint32_t group_bytes;
    const struct kvw_offer_terms *terms; const struct kvw_stage_ref *staged;
};
struct kvw_stage_ref { uint8_t bytes[32]; };
struct kvw_stage_args {
    uint32_t size; kvw_pool_id pool; kvw_key key; uint32_t tokens; uint32_t group_count;
    const struct kvw_group_blocks *groups; uint32_t pulls; uint32_t group_bytes; uint64_t until_ns;
    struct kvw_stage_ref *ref;
};
struct kvw_stream_args {
    uint32_t size; kvw_pool_id pool; kvw_key key; uint32_t tokens; uint32_t group_count;
    const struct kvw_group_blocks *groups; uint32_t receivers; uint32_t group_bytes; uint64_t offer_by_ns;
    uint64_t deadline_ns; uint32_t codec; uint32_t reserved;
};
struct kvw_core_stats {
    uint32_t size; uint32_t peers_up, peers_known, xfers_open; uint64_t xfers_ok, xfers_failed;
    uint64_t chunks_sent, chunks_landed, chunks_rejected, chunks_stale;
    uint64_t raw_bytes_sent, wire_bytes_sent, raw_bytes_landed, wire_bytes_landed;
    uint64_t credit_stalls, encoder_stalls, slots_recalled; uint32_t slots_free, stages_free;
    uint64_t batches_ok, batches_failed; uint64_t batch_bytes_sent, batch_bytes_landed; uint64_t batch_message_bytes;
    uint64_t notes_sent, notes_received; uint32_t regions, batches; uint32_t staged, reserved;
    uint64_t staged_bytes; uint64_t stages_pulled, stages_expired, stages_full;
    uint64_t packets_sent, packets_received, packets_retransmitted; uint64_t packets_lost, packets_spurious;
};
struct kvw_region_args {
    uint32_t size; uint32_t rights; const struct kvw_mem *mem; uint32_t mem_bytes; uint32_t reserved;
};
struct kvw_region_info { uint32_t size; uint32_t rights; uint64_t base, bytes; uint32_t id; uint32_t reserved; };
struct kvw_batch_piece { uint64_t local, remote; uint64_t bytes; };
struct kvw_batch_args {
    uint32_t size; uint32_t op; kvw_peer_id peer; uint32_t piece_count; const struct kvw_batch_piece *pieces;
    uint32_t piece_bytes; uint32_t reserved;
};
struct kvw_post_args {
    uint32_t size; uint32_t quiet; const void *note; uint32_t note_bytes; uint32_t reserved; uint64_t deadline_ns;
};
struct kvw_batch_status {
    uint32_t size; uint32_t state; int32_t err; uint32_t runs; uint64_t bytes; uint64_t moved; uint64_t posts;
    uint64_t post_ns; uint64_t first_ns; uint64_t end_ns; char text[257];
};
struct kvw_mem {
    void *base; uint64_t bytes; int kind; int32_t device_id; int32_t dmabuf_fd; uint64_t dmabuf_offset;
    const void *device;
};
struct kvw_plane { void *base; uint64_t block_stride, entry_stride, row_stride, value_stride; };
struct kvw_part_desc {
    const char *name; uint32_t dtype; uint32_t row_bytes; uint32_t rows; uint32_t row_first; uint32_t rows_model;
    uint32_t plane_bytes; const struct kvw_plane *planes;
};
struct kvw_group_desc {
    uint32_t kind; uint32_t blocks; uint32_t block_entries; uint32_t entry_tokens; uint32_t window_tokens;
    uint32_t layer_count; const uint32_t *layers; uint32_t part_count; uint32_t part_bytes;
    const struct kvw_part_desc *parts;
};
struct kvw_pool_desc {
    uint32_t size; uint32_t model_layers; uint8_t fingerprint[16]; const char *name; uint32_t mem_count;
    uint32_t mem_bytes; const struct kvw_mem *mems; uint32_t group_count; uint32_t group_bytes;
    const struct kvw_group_desc *groups;
};
struct kvw_node_path {
    const char *transport; const char *local; const char *advertise; const char *peer;
    uint32_t listen; uint32_t reserved;
};
struct kvw_node_config {
    uint32_t size; uint32_t listen; const char *name; const char *transport; const char *local; const char *advertise;
    const char *fault; const char *trace; uint64_t open_by_ns; uint64_t instance; uint32_t busy_poll; uint32_t codec;
    uint32_t encoders; uint32_t chunk_raw_bytes; uint32_t slots; uint32_t stages; uint32_t peers_max;
    uint32_t xfers_max; uint32_t dead_ms; uint32_t cpus_bytes; const void *cpus; const char *peer; const char *kv_trace;
    const void *gpu_plugin; void *gpu;
    uint64_t stage_bytes;
    const struct kvw_node_path *more; uint32_t more_count; uint32_t more_bytes; uint32_t app_driven; uint32_t reserved;
    uint32_t no_twins; uint32_t unused;
};
struct kvw_node;

const char *kvw_strerror(kvw_err err);
kvw_key kvw_key_of(const char *text);
uint64_t kvw_now_ns(void);
const char *kvw_version(void);
const char *kvw_features(void);
uint32_t kvw_dtype_bytes(int dtype);
kvw_err kvw_node_open(struct kvw_node **node, const struct kvw_node_config *cfg, char *why, size_t why_bytes);
void kvw_node_close(struct kvw_node *node);
int kvw_node_fd(const struct kvw_node *node);
_Bool kvw_node_next_event(struct kvw_node *node, struct kvw_core_event *ev);
_Bool kvw_node_wait(struct kvw_node *node, uint64_t until_ns);
kvw_err kvw_node_address(const struct kvw_node *node, char *text, uint32_t *bytes);
kvw_err kvw_node_blob(const struct kvw_node *node, void *blob, uint32_t *bytes);
kvw_err kvw_node_peer_blob(struct kvw_node *node, const void *blob, uint32_t bytes, kvw_peer_id *peer);
kvw_err kvw_node_peer_add(struct kvw_node *node, const char *address, kvw_peer_id *peer);
kvw_err kvw_node_peer_drop(struct kvw_node *node, kvw_peer_id peer);
kvw_err kvw_node_peer_info(struct kvw_node *node, kvw_peer_id peer, struct kvw_peer_info *info);
kvw_err kvw_node_pool_add(struct kvw_node *node, const struct kvw_pool_desc *desc, kvw_pool_id *pool, char *why,
                          size_t why_bytes);
kvw_err kvw_node_pool_remove(struct kvw_node *node, kvw_pool_id pool);
kvw_err kvw_node_offer(struct kvw_node *node, const struct kvw_offer_args *args, kvw_xfer_ref *xfer, char *why,
                       size_t why_bytes);
kvw_err kvw_node_stream(struct kvw_node *node, const struct kvw_stream_args *args, kvw_xfer_ref *xfer, char *why,
                        size_t why_bytes);
kvw_err kvw_node_push(struct kvw_node *node, kvw_xfer_ref xfer, uint32_t layer, uint32_t tokens, const void *ready);
kvw_err kvw_node_stream_blocks(struct kvw_node *node, kvw_xfer_ref xfer, uint32_t group, uint32_t first,
                               const uint32_t *ids, uint32_t count);
kvw_err kvw_node_commit(struct kvw_node *node, kvw_xfer_ref xfer, const void *note, uint32_t note_bytes);
kvw_err kvw_node_abort(struct kvw_node *node, kvw_xfer_ref xfer, const char *reason);
kvw_err kvw_node_refuse(struct kvw_node *node, kvw_peer_id peer, kvw_key key, kvw_err err, const char *reason);
kvw_err kvw_node_stage(struct kvw_node *node, const struct kvw_stage_args *args, kvw_xfer_ref *xfer, char *why,
                       size_t why_bytes);
kvw_err kvw_node_stage_drop(struct kvw_node *node, const struct kvw_stage_ref *ref);
_Bool kvw_node_layer_ready(struct kvw_node *node, kvw_xfer_ref xfer, uint32_t layer);
uint32_t kvw_node_bad_blocks(struct kvw_node *node, kvw_xfer_ref xfer, uint32_t group, uint32_t *ids, uint32_t max);
kvw_err kvw_node_region_add(struct kvw_node *node, const struct kvw_region_args *args, kvw_region_id *region, char *why,
                            size_t why_bytes);
kvw_err kvw_node_region_remove(struct kvw_node *node, kvw_region_id region);
kvw_err kvw_node_peer_region(struct kvw_node *node, kvw_peer_id peer, uint32_t at, struct kvw_region_info *info);
kvw_err kvw_node_batch_make(struct kvw_node *node, const struct kvw_batch_args *args, kvw_batch_id *batch, char *why,
                            size_t why_bytes);
kvw_err kvw_node_batch_post(struct kvw_node *node, kvw_batch_id batch, const struct kvw_post_args *args, char *why,
                            size_t why_bytes);
kvw_err kvw_node_batch_status(struct kvw_node *node, kvw_batch_id batch, struct kvw_batch_status *status);
kvw_err kvw_node_batch_wait(struct kvw_node *node, kvw_batch_id batch, uint64_t until_ns,
                            struct kvw_batch_status *status);
kvw_err kvw_node_batch_release(struct kvw_node *node, kvw_batch_id batch);
kvw_err kvw_node_notify(struct kvw_node *node, kvw_peer_id peer, const void *note, uint32_t note_bytes);
void kvw_node_stats(struct kvw_node *node, struct kvw_core_stats *stats);
size_t kvw_node_metrics(struct kvw_node *node, char *text, size_t text_bytes);
"""


def library_path() -> str:
    """The library that is used: $KVWIRE_LIBRARY, or the one that came with the package."""
    named = os.environ.get("KVWIRE_LIBRARY")
    return named or os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib", "libkvwire.so")


def load() -> tuple[Any, Any]:
    """(ffi, lib). ImportError says which file was tried and what was wrong with it."""
    made = cffi.FFI()
    made.cdef(CDEF)
    path = library_path()
    try:
        return made, made.dlopen(path)
    except OSError as e:
        raise ImportError("kvwire: its library can't be loaded: %s" % e) from e


ffi, lib = load()
