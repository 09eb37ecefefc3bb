/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trace.h - what happened to each chunk of each transfer, for people who ask why a hand-over took
 * as long as it did. A core calls kvw_core_config.trace for each of these; kvw_node_config.kv_trace
 * writes them to a file, a line of JSON each. perf/timeline.py puts the files of both ends
 * together.
 *
 *     receiver                        sender
 *                                     PUSHED   tokens of a layer are computed
 *     OFFER    blocks wait here       OFFER    the peer's has come
 *     GRANT    slots lent to a peer   GRANT    slots lent by it
 *                                     CUT      a chunk was cut, and its codec chosen
 *                                     PUT      it is encoded, and the transport has it
 *     LANDED   it is in a slot        DONE     it is in the peer's memory
 *     DECODED  it is in its blocks
 *     READY    all of a layer is      SENT     all of a layer is
 *     COMMIT   the peer's has come    COMMIT   told: no more chunks
 *     END      the transfer's         END
 *                                     STAGED   all of a layer is in staging memory
 *                                     GONE     what was staged is there no more
 *
 * threads  the core's
 * memory   an event borrows everything until the callback returns
 * time     of kvw_core_config.clock, which then must be the one that poll's times are from; without
 *          it, as given to the last poll
 */
#ifndef KVW_TRACE_H
#define KVW_TRACE_H

#include <stddef.h>
#include <stdint.h>

#include "core_types.h"
#include "err.h"

#ifdef __cplusplus
extern "C" {
#endif

enum kvw_trace_kind {
    KVW_TRACE_OFFER =
        1,             /* count: spans; tokens; seq: of a pull, the sender's number of the stage */
    KVW_TRACE_GRANT,   /* count: slots; seq: of the put that may use the first */
    KVW_TRACE_PUSHED,  /* layer, tokens */
    KVW_TRACE_CUT,     /* chunk; codec; ns: until it should be across */
    KVW_TRACE_PUT,     /* chunk; codec, wire_bytes, seq; ns: that encoding took */
    KVW_TRACE_DONE,    /* chunk; codec, wire_bytes; ns: since CUT. No key: its flow has ended */
    KVW_TRACE_LANDED,  /* seq, wire_bytes. Which chunk it is, is not known before it is read */
    KVW_TRACE_DECODED, /* chunk; codec, wire_bytes, seq; ns: that decoding took */
    KVW_TRACE_READY,   /* layer */
    KVW_TRACE_SENT,    /* layer */
    KVW_TRACE_COMMIT,  /* count: chunks */
    KVW_TRACE_END,     /* err, text */
    KVW_TRACE_STAGED,  /* layer */
    KVW_TRACE_GONE,    /* err, text; seq: the stage's number */
};

/* "Chunk" above stands for: layer, group, part, row_first, rows, entry_first, entries, raw_bytes.
 * Unused fields are 0. Groups and parts are those of the receiver's pool. */
struct kvw_trace_event {
    uint32_t kind;   /* enum kvw_trace_kind; a later library has more */
    uint32_t epoch;  /* 0: not of one flow */
    uint64_t now_ns; /* the core's time */
    uint64_t peer;   /* the other node's instance; 0: not of one peer */
    kvw_key key;     /* zeros: of no transfer */
    uint64_t seq, ns;
    uint32_t layer, group, part;
    uint32_t row_first, rows, entry_first, entries;
    uint32_t raw_bytes, wire_bytes;
    uint32_t codec; /* kvw_codec_id */
    uint32_t count, tokens;
    int32_t err;
    const char *text; /* END, GONE; NULL: none */
};

#define KVW_TRACE_LINE_BYTES 640u
/*
 * The event as one line of JSON with its newline and a 0 behind it; returns its length without the
 * 0, < bytes. A text that doesn't fit is cut. 0: bytes < KVW_TRACE_LINE_BYTES.
 */
KVW_API uint32_t kvw_trace_json(char *line, size_t bytes, const struct kvw_trace_event *ev);

#ifdef __cplusplus
}
#endif
#endif
