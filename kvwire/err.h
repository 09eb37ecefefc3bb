/* SPDX-License-Identifier: Apache-2.0 */
/*
 * err.h - one list of outcomes for the whole tree, grouped by the largest thing that is lost.
 *
 * threads  any      memory  none      time  none
 */
#ifndef KVW_ERR_H
#define KVW_ERR_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define KVW_NODISCARD    __attribute__((warn_unused_result))
#define KVW_API          __attribute__((visibility("default")))
#define KVW_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define KVW_NODISCARD
#define KVW_API
#define KVW_PRINTF(f, a)
#endif

/* Stable: append inside a group, never renumber. These numbers also travel in ABORT and REJECT. */
typedef enum kvw_err {
    KVW_OK = 0,
    /* this call only */
    KVW_E_AGAIN = -1,   /* no credit, slot or space now: poll, then retry */
    KVW_E_INVALID = -2, /* an argument out of its documented range */
    KVW_E_NOMEM = -3,
    KVW_E_NOTFOUND = -4, /* no such transfer, codec, transport, file */
    KVW_E_IO = -5,       /* a file or a descriptor failed; errno said why */
    KVW_E_FORMAT = -6,   /* a file is not what it claims to be */
    /* this transfer */
    KVW_E_CHECKSUM = -20, /* the raw bytes' digest did not match */
    KVW_E_CANCELED = -21, /* aborted by this side or by the peer */
    KVW_E_LEASE = -22,    /* the lease ran out: no progress from the peer for lease_ns */
    KVW_E_DEADLINE = -23, /* the caller's own deadline passed */
    KVW_E_NOBLOCKS = -24, /* no free KV blocks to offer */
    KVW_E_CODEC = -25,    /* a chunk's stream could not be decoded */
    /* this connection */
    KVW_E_TRUNCATED = -40, /* a message ended before its fields did */
    KVW_E_PROTOCOL = -41,  /* the peer broke a rule of SPEC.md */
    KVW_E_PEER_LOST = -42, /* the peer went away, or was silent for too long */
    KVW_E_VERSION = -43,   /* the peer speaks another protocol version */
    KVW_E_MISMATCH = -44,  /* model, layout, dtype or codecs differ; the text names the field */
    /* this device */
    KVW_E_DEVICE = -60,
    KVW_E_ADDRESS = -61,     /* an address can't be parsed, or is in use */
    KVW_E_UNSUPPORTED = -62, /* not built in, or the device can't */
} kvw_err;

/* A static English phrase, lower case, without a full stop; never NULL, "unknown
 * error" otherwise. */
KVW_API const char *kvw_strerror(kvw_err err);

#ifdef __cplusplus
}
#endif
#endif
