/* SPDX-License-Identifier: Apache-2.0 */
/*
 * msg.h - the messages of SPEC.md 3 as structs, to and from bytes. Everything decoded here comes
 * from the peer: a struct that comes out has every field in the range its comment gives.
 *
 * threads  any; nothing is kept
 * memory   a decoded struct points into the message where it says "borrowed"
 * time     none
 *
 * Decoders return KVW_OK, KVW_E_TRUNCATED (the bytes end before the fields do) or KVW_E_PROTOCOL (a
 * field out of its range, a Reserved byte that isn't 0, bytes left over), and write *out on KVW_OK
 * only. Encoders return the length; the buffer has at least KVW_MSG_SHORT_MAX bytes. Encoders trust
 * their caller: ranges are asserted.
 */
#ifndef KVW_MSG_H
#define KVW_MSG_H

#include <stdbool.h>

#include "kvwire.h"
#include "wire.h"

#define KVW_MSG_SHORT_MAX  1024u
#define KVW_HELLO_FRONT    12u  /* of every version, for ever: type, magic, version */
#define KVW_HELLO_BYTES    108u /* of this version, before the name */
#define KVW_MODEL_NAME_MAX 63u
#define KVW_REJECT_BYTES   16u /* before the text */
#define KVW_OFFER_BYTES    32u
#define KVW_GRANT_BYTES    16u
#define KVW_RENEW_BYTES    16u
#define KVW_COMMIT_BYTES   32u /* before the note */
#define KVW_DONE_BYTES     32u
#define KVW_ABORT_BYTES    24u /* before the text */

/* What must match between two peers, and what each tells the other about itself. */
struct kvw_shape {
    uint32_t layers;       /* 1 .. KVW_LAYERS_MAX */
    uint32_t kv_heads;     /* 1 .. KVW_HEADS_MAX */
    uint32_t head_dim;     /* 1 .. KVW_HEAD_DIM_MAX */
    uint32_t block_tokens; /* 1 .. KVW_BLOCK_TOKENS_MAX; may differ */
    kvw_dtype dtype;       /* a known one */
};

struct kvw_hello {
    kvw_role role;
    struct kvw_shape shape;
    uint64_t codecs;     /* bit (1 << kvw_codec_id), ids 1 .. 63 */
    uint64_t digests;    /* bit (1 << kvw_digest_id) */
    uint32_t slots;      /* 1 .. KVW_SLOTS_MAX: landing (receiver) or staging (sender) */
    uint32_t slot_bytes; /* KVW_CHUNK_HDR_BYTES+1 .. KVW_PUT_BYTES_MAX, a multiple of 64 */
    uint32_t xfers_max;  /* 1 .. KVW_XFERS_MAX: offers this side can hold at once */
    uint8_t fingerprint[KVW_FINGERPRINT_BYTES];
    struct kvw_region_key region;      /* receiver's landing slots; sender: zeros */
    char name[KVW_MODEL_NAME_MAX + 1]; /* printable ASCII, anything else became '?' */
};

struct kvw_reject {
    kvw_err err;      /* negative */
    uint32_t version; /* that the writer speaks */
    char text[KVW_TEXT_BYTES_MAX + 1];
};

struct kvw_offer_msg {
    uint64_t xfer;
    uint32_t epoch;    /* never 0 */
    uint32_t tokens;   /* 1 .. KVW_XFER_TOKENS_MAX */
    uint64_t lease_ns; /* KVW_LEASE_NS_MIN .. MAX */
    kvw_budget budget;
    uint8_t exact_first; /* tokens that stay exact under a lossy codec */
    uint16_t exact_last;
};

/* The receiver's credit, and what one codec costs it, which the sender's choice needs. */
struct kvw_grant {
    uint64_t limit;
    uint8_t codec;      /* 0: says nothing of a codec */
    uint32_t decode_ps; /* picoseconds a raw byte; 0 only with codec 0 */
};

struct kvw_xfer_msg { /* RENEW, and the front of COMMIT, DONE, ABORT */
    uint64_t xfer;
    uint32_t epoch; /* never 0, except in ABORT: whichever is open */
};

struct kvw_commit_msg {
    struct kvw_xfer_msg x;
    uint32_t chunks;
    uint64_t raw_bytes;
    const uint8_t *note; /* borrowed */
    uint32_t note_bytes; /* 0 .. KVW_COMMIT_NOTE_MAX */
};

struct kvw_done_msg {
    struct kvw_xfer_msg x;
    uint32_t chunks;
    uint64_t raw_bytes;
};

struct kvw_abort_msg {
    struct kvw_xfer_msg x;
    kvw_err err; /* negative */
    char text[KVW_TEXT_BYTES_MAX + 1];
};

/* Type of a message, whether or not the rest of it is sound; bytes >= 1. */
static inline uint8_t kvw_msg_type(const uint8_t *msg)
{
    return msg[0];
}

/* Only what every version's HELLO begins with. KVW_E_PROTOCOL: not a HELLO of any version. */
KVW_NODISCARD kvw_err kvw_hello_front(const uint8_t *msg, uint32_t bytes, uint32_t *version);

KVW_NODISCARD kvw_err kvw_hello_decode(struct kvw_hello *out, const uint8_t *msg, uint32_t bytes);
KVW_NODISCARD kvw_err kvw_reject_decode(struct kvw_reject *out, const uint8_t *msg, uint32_t bytes);
KVW_NODISCARD kvw_err kvw_offer_decode(struct kvw_offer_msg *out, const uint8_t *msg,
                                       uint32_t bytes);
KVW_NODISCARD kvw_err kvw_grant_decode(struct kvw_grant *out, const uint8_t *msg, uint32_t bytes);
KVW_NODISCARD kvw_err kvw_renew_decode(struct kvw_xfer_msg *out, const uint8_t *msg,
                                       uint32_t bytes);
KVW_NODISCARD kvw_err kvw_commit_decode(struct kvw_commit_msg *out, const uint8_t *msg,
                                        uint32_t bytes);
KVW_NODISCARD kvw_err kvw_done_decode(struct kvw_done_msg *out, const uint8_t *msg, uint32_t bytes);
KVW_NODISCARD kvw_err kvw_abort_decode(struct kvw_abort_msg *out, const uint8_t *msg,
                                       uint32_t bytes);

uint32_t kvw_hello_encode(uint8_t *to, const struct kvw_hello *in);
uint32_t kvw_reject_encode(uint8_t *to, const struct kvw_reject *in);
uint32_t kvw_offer_encode(uint8_t *to, const struct kvw_offer_msg *in);
uint32_t kvw_grant_encode(uint8_t *to, const struct kvw_grant *in);
uint32_t kvw_renew_encode(uint8_t *to, const struct kvw_xfer_msg *in);
uint32_t kvw_commit_encode(uint8_t *to, const struct kvw_commit_msg *in);
uint32_t kvw_done_encode(uint8_t *to, const struct kvw_done_msg *in);
uint32_t kvw_abort_encode(uint8_t *to, const struct kvw_abort_msg *in);

#endif
