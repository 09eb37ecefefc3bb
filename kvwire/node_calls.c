/* SPDX-License-Identifier: Apache-2.0 */
/* node_calls.c - node.h's calls that only ask the core, each under the node's lock. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "node_state.h"
#include "node_trace.h"
#include "wire/le.h"

#define BLOB_MAGIC 0x3242564bu /* "KVB2", little-endian */
#define BLOB_FIXED 12u         /* magic, instance */

/* --- peers ------------------------------------------------------------------------------------ */

kvw_err kvw_node_path_address(const struct kvw_node *n, uint32_t path, char *text, uint32_t *bytes)
{
    uint32_t need;
    bool fits;

    if (path >= n->way_count)
        return KVW_E_INVALID;
    need = (uint32_t)strlen(n->ways[path].address) + 1;
    fits = *bytes >= need;
    *bytes = need;
    if (!fits)
        return KVW_E_TRUNCATED;
    memcpy(text, n->ways[path].address, need);
    return KVW_OK;
}

kvw_err kvw_node_address(const struct kvw_node *n, char *text, uint32_t *bytes)
{
    return kvw_node_path_address(n, 0, text, bytes);
}

/* Magic, instance, and for each transport two lengths, its name and its address. */
kvw_err kvw_node_blob(const struct kvw_node *n, void *blob, uint32_t *bytes)
{
    uint32_t need = BLOB_FIXED;
    uint8_t *to = blob;
    bool fits;

    for (uint32_t i = 0; i < n->way_count; ++i)
        need += 4 + (uint32_t)(strlen(n->ways[i].name) + strlen(n->ways[i].address));
    fits = *bytes >= need;
    *bytes = need;
    if (!fits)
        return KVW_E_TRUNCATED;
    kvw_store_le32(to, BLOB_MAGIC);
    kvw_store_le64(to + 4, n->instance);
    to += BLOB_FIXED;
    for (uint32_t i = 0; i < n->way_count; ++i) {
        const size_t name = strlen(n->ways[i].name), address = strlen(n->ways[i].address);

        kvw_store_le16(to, (uint16_t)name);
        kvw_store_le16(to + 2, (uint16_t)address);
        memcpy(to + 4, n->ways[i].name, name);
        memcpy(to + 4 + name, n->ways[i].address, address);
        to += 4 + name + address;
    }
    return KVW_OK;
}

kvw_err kvw_node_peer_add_by(struct kvw_node *n, uint32_t path, const char *address,
                             kvw_peer_id *peer)
{
    kvw_err err;

    kvw_node_lock(n);
    err = kvw_core_peer_add(n->core, path, address, kvw_now_ns(), peer);
    kvw_node_unlock_and_wake(n);
    return err;
}

kvw_err kvw_node_peer_add(struct kvw_node *n, const char *address, kvw_peer_id *peer)
{
    return kvw_node_peer_add_by(n, 0, address, peer);
}

/* This node's path of a name of so many bytes; way_count: it has none. */
static uint32_t path_named(const struct kvw_node *n, const uint8_t *name, uint32_t bytes)
{
    uint32_t i = 0;

    while (i < n->way_count &&
           (strlen(n->ways[i].name) != bytes || memcmp(n->ways[i].name, name, bytes) != 0))
        ++i;
    return i;
}

kvw_err kvw_node_peer_blob(struct kvw_node *n, const void *blob, uint32_t bytes, kvw_peer_id *peer)
{
    char address[KVW_ADDRESS_MAX + 1];
    const uint8_t *from = blob;
    uint32_t best = n->way_count;

    if (bytes <= BLOB_FIXED || kvw_load_le32(from) != BLOB_MAGIC)
        return KVW_E_FORMAT;
    for (uint32_t at = BLOB_FIXED; at < bytes;) {
        uint32_t name, length, path;

        if (bytes - at < 4)
            return KVW_E_FORMAT;
        name = kvw_load_le16(from + at);
        length = kvw_load_le16(from + at + 2);
        at += 4;
        if (bytes - at < name + length || length > KVW_ADDRESS_MAX)
            return KVW_E_FORMAT;
        path = path_named(n, from + at, name);
        if (path < best) {
            best = path;
            memcpy(address, from + at + name, length);
            address[length] = '\0';
        }
        at += name + length;
    }
    if (best == n->way_count)
        return KVW_E_UNSUPPORTED;
    return kvw_node_peer_add_by(n, best, address, peer);
}

kvw_err kvw_node_peer_drop(struct kvw_node *n, kvw_peer_id peer)
{
    kvw_err err;

    kvw_node_lock(n);
    err = kvw_core_peer_drop(n->core, peer, kvw_now_ns());
    kvw_node_tell_events(n);
    kvw_node_unlock_and_wake(n);
    return err;
}

kvw_err kvw_node_peer_info(struct kvw_node *n, kvw_peer_id peer, struct kvw_peer_info *info)
{
    kvw_err err;

    kvw_node_lock(n);
    err = kvw_core_peer_info(n->core, peer, info);
    kvw_node_unlock(n);
    return err;
}

/* --- pools and transfers ---------------------------------------------------------------------- */

kvw_err kvw_node_pool_add(struct kvw_node *n, const struct kvw_pool_desc *desc, kvw_pool_id *pool,
                          char *why, size_t why_bytes)
{
    kvw_err err;

    kvw_node_lock(n);
    err = kvw_core_pool_add(n->core, desc, pool, why, why_bytes);
    kvw_node_unlock_and_wake(n);
    return err;
}

kvw_err kvw_node_pool_remove(struct kvw_node *n, kvw_pool_id pool)
{
    kvw_err err;

    kvw_node_lock(n);
    err = kvw_core_pool_remove(n->core, pool, kvw_now_ns());
    kvw_node_tell_events(n);
    kvw_node_unlock_and_wake(n);
    return err;
}

kvw_err kvw_node_offer(struct kvw_node *n, const struct kvw_offer_args *args, kvw_xfer_ref *xfer,
                       char *why, size_t why_bytes)
{
    kvw_err err;

    kvw_node_lock(n);
    err = kvw_core_offer(n->core, args, kvw_now_ns(), xfer, why, why_bytes);
    kvw_node_unlock_and_wake(n);
    return err;
}

kvw_err kvw_node_stream(struct kvw_node *n, const struct kvw_stream_args *args, kvw_xfer_ref *xfer,
                        char *why, size_t why_bytes)
{
    kvw_err err;

    kvw_node_lock(n);
    err = kvw_core_stream(n->core, args, kvw_now_ns(), xfer, why, why_bytes);
    kvw_node_tell_events(n);
    kvw_node_unlock_and_wake(n);
    return err;
}

kvw_err kvw_node_peer_fits(struct kvw_node *n, kvw_peer_id peer, kvw_pool_id pool, char *why,
                           size_t why_bytes)
{
    kvw_err err;

    kvw_node_lock(n);
    err = kvw_core_peer_fits(n->core, peer, pool, why, why_bytes);
    kvw_node_unlock_and_wake(n);
    return err;
}

kvw_err kvw_node_stage(struct kvw_node *n, const struct kvw_stage_args *args, kvw_xfer_ref *xfer,
                       char *why, size_t why_bytes)
{
    kvw_err err;

    kvw_node_lock(n);
    err = kvw_core_stage(n->core, args, kvw_now_ns(), xfer, why, why_bytes);
    kvw_node_unlock_and_wake(n);
    return err;
}

kvw_err kvw_node_stage_drop(struct kvw_node *n, const struct kvw_stage_ref *ref)
{
    kvw_err err;

    kvw_node_lock(n);
    err = kvw_core_stage_drop(n->core, ref, kvw_now_ns());
    kvw_node_tell_events(n);
    kvw_node_unlock_and_wake(n);
    return err;
}

/* False: there is no room. */
static bool leave_push(struct kvw_node *n, const struct kvw_node_push_left *p)
{
    bool room;

    pthread_mutex_lock(&n->left_lock);
    room = n->left_tail - n->left_head < KVW_NODE_LEFT;
    if (room)
        n->left[n->left_tail++ % KVW_NODE_LEFT] = *p;
    pthread_mutex_unlock(&n->left_lock);
    if (room)
        kvw_node_wake(n);
    return room;
}

kvw_err kvw_node_push(struct kvw_node *n, kvw_xfer_ref xfer, uint32_t layer, uint32_t tokens,
                      const struct kvw_ready *ready)
{
    const struct kvw_node_push_left p = {xfer, layer, tokens};
    const bool plain = ready == NULL || ready->query == NULL;
    kvw_err err;

    if (!kvw_node_try_lock(n)) {
        if (plain && leave_push(n, &p))
            return KVW_OK;
        kvw_node_lock(n);
    }
    err = kvw_core_push(n->core, xfer, layer, tokens, ready);
    kvw_node_unlock_and_wake(n);
    return err;
}

kvw_err kvw_node_push_after(struct kvw_node *n, kvw_xfer_ref xfer, uint32_t layer, uint32_t tokens,
                            void *stream)
{
    kvw_err err;

    kvw_node_lock(n);
    err = kvw_core_push_after(n->core, xfer, layer, tokens, stream);
    kvw_node_unlock_and_wake(n);
    return err;
}

kvw_err kvw_node_stream_blocks(struct kvw_node *n, kvw_xfer_ref xfer, uint32_t group,
                               uint32_t first, const uint32_t *ids, uint32_t count)
{
    kvw_err err;

    kvw_node_lock(n);
    err = kvw_core_stream_blocks(n->core, xfer, group, first, ids, count);
    kvw_node_unlock(n);
    return err;
}

kvw_err kvw_node_commit(struct kvw_node *n, kvw_xfer_ref xfer, const void *note,
                        uint32_t note_bytes)
{
    kvw_err err;

    kvw_node_lock(n);
    err = kvw_core_commit(n->core, xfer, note, note_bytes);
    kvw_node_unlock_and_wake(n);
    return err;
}

kvw_err kvw_node_abort(struct kvw_node *n, kvw_xfer_ref xfer, const char *reason)
{
    kvw_err err;

    kvw_node_lock(n);
    err = kvw_core_abort(n->core, xfer, reason);
    kvw_node_tell_events(n);
    kvw_node_unlock_and_wake(n);
    return err;
}

kvw_err kvw_node_refuse(struct kvw_node *n, kvw_peer_id peer, kvw_key key, kvw_err why,
                        const char *reason)
{
    kvw_err err;

    kvw_node_lock(n);
    err = kvw_core_refuse(n->core, peer, key, why, reason);
    kvw_node_unlock_and_wake(n);
    return err;
}

bool kvw_node_layer_ready(struct kvw_node *n, kvw_xfer_ref xfer, uint32_t layer)
{
    bool ready;

    kvw_node_lock(n);
    ready = kvw_core_layer_ready(n->core, xfer, layer);
    kvw_node_unlock(n);
    return ready;
}

kvw_err kvw_node_layer_wait(struct kvw_node *n, kvw_xfer_ref xfer, uint32_t layer, void *stream)
{
    kvw_err err;

    kvw_node_lock(n);
    err = kvw_core_layer_wait(n->core, xfer, layer, stream);
    kvw_node_unlock(n);
    return err;
}

uint32_t kvw_node_bad_blocks(struct kvw_node *n, kvw_xfer_ref xfer, uint32_t group, uint32_t *ids,
                             uint32_t max)
{
    uint32_t count;

    kvw_node_lock(n);
    count = kvw_core_bad_blocks(n->core, xfer, group, ids, max);
    kvw_node_unlock(n);
    return count;
}

/* --- regions and batches ---------------------------------------------------------------------- */

kvw_err kvw_node_region_add(struct kvw_node *n, const struct kvw_region_args *args,
                            kvw_region_id *region, char *why, size_t why_bytes)
{
    kvw_err err;

    kvw_node_lock(n);
    err = kvw_core_region_add(n->core, args, region, why, why_bytes);
    kvw_node_unlock_and_wake(n);
    return err;
}

kvw_err kvw_node_region_remove(struct kvw_node *n, kvw_region_id region)
{
    kvw_err err;

    kvw_node_lock(n);
    err = kvw_core_region_remove(n->core, region, kvw_now_ns());
    kvw_node_tell_events(n);
    kvw_node_unlock_and_wake(n);
    return err;
}

kvw_err kvw_node_peer_region(struct kvw_node *n, kvw_peer_id peer, uint32_t at,
                             struct kvw_region_info *info)
{
    kvw_err err;

    kvw_node_lock(n);
    err = kvw_core_peer_region(n->core, peer, at, info);
    kvw_node_unlock(n);
    return err;
}

kvw_err kvw_node_batch_make(struct kvw_node *n, const struct kvw_batch_args *args,
                            kvw_batch_id *batch, char *why, size_t why_bytes)
{
    kvw_err err;

    kvw_node_lock(n);
    err = kvw_core_batch_make(n->core, args, batch, why, why_bytes);
    kvw_node_unlock(n);
    return err;
}

kvw_err kvw_node_batch_post(struct kvw_node *n, kvw_batch_id batch,
                            const struct kvw_post_args *args, char *why, size_t why_bytes)
{
    kvw_err err;

    kvw_node_lock(n);
    err = kvw_core_batch_post(n->core, batch, args, kvw_now_ns(), why, why_bytes);
    kvw_node_unlock_and_wake(n);
    return err;
}

kvw_err kvw_node_batch_status(struct kvw_node *n, kvw_batch_id batch,
                              struct kvw_batch_status *status)
{
    kvw_err err;

    kvw_node_lock(n);
    err = kvw_core_batch_status(n->core, batch, status);
    kvw_node_unlock(n);
    return err;
}

/* App-driven: poll until the latest post has ended or the time has come. */
static void poll_batch(struct kvw_node *n, kvw_batch_id batch, uint64_t until_ns)
{
    struct kvw_batch_status s = {.size = sizeof(s)};

    for (;;) {
        (void)kvw_node_poll(n);
        if (kvw_node_batch_status(n, batch, &s) != KVW_OK || s.state != KVW_BATCH_POSTED ||
            until_ns <= kvw_now_ns())
            return;
        kvw_node_sleep_here(&n->sleep, until_ns);
    }
}

kvw_err kvw_node_batch_wait(struct kvw_node *n, kvw_batch_id batch, uint64_t until_ns,
                            struct kvw_batch_status *status)
{
    struct kvw_batch_status s = {.size = sizeof(s)};
    const struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000u),
                                   .tv_nsec = (long)(until_ns % 1000000000u)};
    bool late = false;
    kvw_err err;

    if (n->app_driven)
        poll_batch(n, batch, until_ns);
    kvw_node_lock(n);
    while ((err = kvw_core_batch_status(n->core, batch, &s)) == KVW_OK &&
           s.state == KVW_BATCH_POSTED && !late && !n->app_driven) {
        if (until_ns == UINT64_MAX)
            pthread_cond_wait(&n->ended, &n->core_lock);
        else
            late = pthread_cond_timedwait(&n->ended, &n->core_lock, &until) == ETIMEDOUT;
    }
    if (err == KVW_OK && status != NULL)
        err = kvw_core_batch_status(n->core, batch, status);
    kvw_node_unlock(n);
    if (err != KVW_OK)
        return err;
    if (s.state == KVW_BATCH_IDLE)
        return KVW_E_INVALID;
    return s.state == KVW_BATCH_POSTED ? KVW_E_AGAIN : (kvw_err)s.err;
}

kvw_err kvw_node_batch_release(struct kvw_node *n, kvw_batch_id batch)
{
    kvw_err err;

    kvw_node_lock(n);
    err = kvw_core_batch_release(n->core, batch, kvw_now_ns());
    kvw_node_tell_events(n);
    kvw_node_unlock_and_wake(n);
    return err;
}

kvw_err kvw_node_notify(struct kvw_node *n, kvw_peer_id peer, const void *note, uint32_t note_bytes)
{
    kvw_err err;

    kvw_node_lock(n);
    err = kvw_core_notify(n->core, peer, note, note_bytes);
    kvw_node_unlock_and_wake(n);
    return err;
}

/* --- figures ---------------------------------------------------------------------------------- */

void kvw_node_stats(struct kvw_node *n, struct kvw_core_stats *stats)
{
    kvw_node_lock(n);
    kvw_core_stats(n->core, stats);
    kvw_node_unlock(n);
}

size_t kvw_node_metrics(struct kvw_node *n, char *text, size_t text_bytes)
{
    struct kvw_core_stats s = {.size = sizeof(s)};
    size_t at = 0;

    uint64_t lost;

    kvw_node_stats(n, &s);
    kvw_node_lock(n);
    lost = kvw_trace_file_lost(n->trace);
    kvw_node_unlock(n);
    const struct {
        const char *name, *kind, *help;
        uint64_t value;
    } rows[] = {
        {"peers_up", "gauge", "Peers that are connected.", s.peers_up},
        {"peers_known", "gauge", "Peers that are known.", s.peers_known},
        {"transfers_open", "gauge", "Offers and streams that are open.", s.xfers_open},
        {"transfers_ok_total", "counter", "Transfers that ended well.", s.xfers_ok},
        {"transfers_failed_total", "counter", "Transfers that failed.", s.xfers_failed},
        {"chunks_sent_total", "counter", "Chunks sent.", s.chunks_sent},
        {"chunks_landed_total", "counter", "Chunks in place.", s.chunks_landed},
        {"chunks_rejected_total", "counter", "Chunks refused: digest, codec, range.",
         s.chunks_rejected},
        {"chunks_stale_total", "counter", "Chunks of transfers that had ended.", s.chunks_stale},
        {"raw_bytes_sent_total", "counter", "KV bytes sent, before the codec.", s.raw_bytes_sent},
        {"wire_bytes_sent_total", "counter", "KV bytes sent, after it.", s.wire_bytes_sent},
        {"raw_bytes_landed_total", "counter", "KV bytes in place.", s.raw_bytes_landed},
        {"wire_bytes_landed_total", "counter", "The same as they came.", s.wire_bytes_landed},
        {"credit_stalls_total", "counter", "Times that data waited for landing slots.",
         s.credit_stalls},
        {"encoder_stalls_total", "counter", "Chunks sent raw as encoders were behind.",
         s.encoder_stalls},
        {"landing_slots_free", "gauge", "Landing slots that nobody holds.", s.slots_free},
        {"batches_ok_total", "counter", "Posts of batches that ended well.", s.batches_ok},
        {"batches_failed_total", "counter", "Posts of batches that failed.", s.batches_failed},
        {"batch_bytes_sent_total", "counter", "Bytes of batches sent.", s.batch_bytes_sent},
        {"batch_bytes_landed_total", "counter", "Bytes of batches in place.", s.batch_bytes_landed},
        {"batch_message_bytes_total", "counter", "Batches' messages and headers sent.",
         s.batch_message_bytes},
        {"notes_sent_total", "counter", "Notifications sent.", s.notes_sent},
        {"notes_received_total", "counter", "Notifications received.", s.notes_received},
        {"staged", "gauge", "Requests in staging memory.", s.staged},
        {"staged_bytes", "gauge", "Bytes that they take.", s.staged_bytes},
        {"stages_pulled_total", "counter", "Staged requests that were pulled.", s.stages_pulled},
        {"stages_expired_total", "counter", "Staged requests whose time passed.", s.stages_expired},
        {"stages_full_total", "counter", "Stagings refused for want of room.", s.stages_full},
        {"staging_slots_free", "gauge", "Staging slots that are free.", s.stages_free},
        {"trace_lines_lost_total", "counter", "Lines of kv_trace that could not be written.", lost},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i)
        at += (size_t)snprintf(at < text_bytes ? text + at : NULL,
                               at < text_bytes ? text_bytes - at : 0,
                               "# HELP kvwire_%s %s\n# TYPE kvwire_%s %s\nkvwire_%s %llu\n",
                               rows[i].name, rows[i].help, rows[i].name, rows[i].kind, rows[i].name,
                               (unsigned long long)rows[i].value);
    return at;
}

const char *kvw_version(void)
{
    return KVW_VERSION;
}

const char *kvw_features(void)
{
    return kvw_parts.features;
}
