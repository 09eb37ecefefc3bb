/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frame.h - packets to and from bytes. SPEC.md 3 to 9.
 *
 * threads  any
 * memory   a decoded frame borrows the packet's bytes; nothing is allocated
 * time     none
 */
#ifndef KVN_PACKET_FRAME_H
#define KVN_PACKET_FRAME_H

#include "../../kvwire/transport.h"
#include "ranges.h"
#include "wire.h"

/* HELLO and HELLO_ACK. */
struct kvn_hello {
    uint32_t source;  /* the sender's own connection id, not 0 */
    uint32_t payload; /* longest packet the sender takes; this very one shows what arrives */
    uint32_t paths;   /* the most that its sender would use, 1 .. KVN_PATHS_MAX */
    uint32_t stream;  /* control stream bytes the sender will take before its first ACK */
    uint32_t credit;  /* put bytes that the sender will take before its first ACK */
    uint32_t puts;    /* puts in progress the sender can track, a power of two */
    uint16_t options; /* set of KVN_OPTION_*; others are ignored */
};

struct kvn_data {
    uint32_t put;    /* number of the put on this connection, from 0, modulo 2^32 */
    uint32_t region; /* as in the region's key, <= KVN_REGION_MAX */
    uint64_t offset; /* of the whole put in its region, <= KVN_OFFSET_MAX */
    uint32_t bytes;  /* of the whole put */
    uint32_t slice;  /* bytes of all its slices but the last */
    uint32_t imm;
};

struct kvn_ack {
    uint64_t largest;
    uint32_t delay;       /* between the largest's arrival and this ACK, in 64 ns */
    uint64_t stream_ends; /* absolute: control stream bytes before this one may be sent */
    uint64_t credit;      /* absolute: so many put bytes may be sent, first copies */
    uint32_t ce;          /* packets of this path that came marked CE, modulo 2^32 */
    uint8_t path;         /* that this is about */
    uint32_t count;       /* 1 .. KVN_ACK_RANGES_MAX */
    struct kvn_range range[KVN_ACK_RANGES_MAX]; /* descending; range[0].end - 1 == largest */
};

/* Slices [first, first + count) of a put. */
struct kvn_missing {
    uint32_t put;
    uint16_t first;
    uint16_t count; /* >= 1 */
};

struct kvn_nack {
    uint32_t count; /* 1 .. KVN_NACK_MAX */
    struct kvn_missing missing[KVN_NACK_MAX];
};

struct kvn_reset {
    uint32_t id;
    uint8_t reason; /* enum kvn_reset_reason */
};

struct kvn_frame {
    uint8_t version;
    uint8_t type;  /* enum kvn_packet_type */
    uint8_t flags; /* without the path */
    uint8_t path;
    uint16_t slice;    /* DATA: number of the slice in its put */
    uint16_t versions; /* HELLO, HELLO_ACK, RESET: what its sender speaks, versions.h */
    uint32_t conn;     /* the receiver's connection id; 0 in HELLO and RESET */
    uint64_t pn;       /* only its low 32 bits are on the wire: kvn_seen_number() */
    union {
        struct kvn_hello hello;
        struct kvn_data data;
        uint64_t stream_at; /* MSG: where the payload lies in the control stream */
        struct kvn_ack ack;
        kvw_err goodbye;
        struct kvn_reset reset;
        struct kvn_nack nack;
        uint64_t token; /* CHALLENGE and RESPONSE */
    };
    const uint8_t *payload; /* DATA and MSG; borrowed */
    uint32_t payload_bytes;
};

/*
 * Read a packet of one of the versions in speaks. Everything is checked that one packet can tell;
 * *f is undefined on an error. A HELLO or RESET of another version is KVW_OK; then only the fields
 * that SPEC.md 2 fixes for ever are set.
 *   KVW_E_TRUNCATED  shorter than its type
 *   KVW_E_CHECKSUM   the digest doesn't match
 *   KVW_E_VERSION    another version, and neither HELLO nor RESET
 *   KVW_E_PROTOCOL   an unknown type, or a field out of range
 */
KVW_NODISCARD kvw_err kvn_frame_decode(struct kvn_frame *f, uint16_t speaks, const uint8_t *bytes,
                                       uint32_t len);
/* The same, before another packet: as kvn_crc32c_before(). */
KVW_NODISCARD kvw_err kvn_frame_decode_before(struct kvn_frame *f, uint16_t speaks,
                                              const uint8_t *bytes, uint32_t len,
                                              const uint8_t *next, uint32_t next_bytes);

/*
 * Write f's header and fields (not its payload or padding) into head and return their length, at
 * most KVN_HEAD_BYTES_MAX. The digest is left 0 until kvn_frame_seal().
 */
uint32_t kvn_frame_encode(uint8_t *head, const struct kvn_frame *f);

/* Where the digest of a packet lies that begins with this byte. */
static inline uint32_t kvn_frame_crc_at(uint8_t first)
{
    const uint32_t greetings =
        1u << KVN_PACKET_HELLO | 1u << KVN_PACKET_HELLO_ACK | 1u << KVN_PACKET_RESET;

    return greetings >> (first & 15) & 1 ? KVN_GREETING_CRC_AT : KVN_CRC_AT;
}

/* Put the digest of head and body into head; under KVN_FLAG_HEAD_ONLY, of head. next: what will be
 * sealed after it, as far as is known; see kvn_crc32c_before(). */
void kvn_frame_seal(uint8_t *head, uint32_t head_bytes, const struct kvw_iov *body,
                    uint32_t body_count, const struct kvw_iov *next);

#endif
