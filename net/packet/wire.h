/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wire.h - every packet type, length and limit of the packet protocol, on one page. SPEC.md beside
 * it is the normative text; section numbers below are its.
 */
#ifndef KVN_PACKET_WIRE_H
#define KVN_PACKET_WIRE_H

#include <stdint.h>

#include "../../kvwire/wire.h"

/* SPEC.md 2: the top four bits of the first byte. All that this code speaks, as a set: 4.3. */
#define KVN_WIRE_VERSION 2
#define KVN_VERSIONS     ((uint16_t)(1u << KVN_WIRE_VERSION))

/* SPEC.md 3: the low four bits of the first byte. An unknown type is dropped and counted. */
enum kvn_packet_type {
    KVN_PACKET_HELLO = 1,     /* client -> listener, padded to a length to be proved */
    KVN_PACKET_HELLO_ACK = 2, /* listener -> client, as long as the HELLO it answers */
    KVN_PACKET_DATA = 3,      /* one slice of a put, with its own placement */
    KVN_PACKET_MSG = 4,       /* bytes of the control stream */
    KVN_PACKET_ACK = 5,       /* what has arrived */
    KVN_PACKET_PING = 6,      /* asks for an ACK, carries nothing */
    KVN_PACKET_GOODBYE = 7,   /* the sender has ended the connection, and why */
    KVN_PACKET_RESET = 8,     /* the sender knows no such connection, or refuses it */
    KVN_PACKET_CHALLENGE = 9, /* whoever has this address and this path: send the token back */
    KVN_PACKET_RESPONSE = 10, /* the token */
    KVN_PACKET_NACK = 11,     /* slices that the receiver waits for */
};

/* Flags, second byte. Others are sent as 0 and ignored. */
#define KVN_FLAG_ACK_NOW    0x01 /* acknowledge without waiting for more */
#define KVN_FLAG_AGAIN      0x02 /* carries something sent before; for people reading captures */
#define KVN_FLAG_HEAD_ONLY  0x04 /* DATA: the digest leaves the slice out (SPEC.md 4.4) */
#define KVN_FLAGS_UNUSED    0x18
#define KVN_FLAG_PATH_SHIFT 5 /* the top three bits: the path's number */

/* SPEC.md 4: paths of one connection. */
#define KVN_PATHS_MAX 8u

/* Lengths. */
#define KVN_HEADER_BYTES     16u /* of every packet of a connection */
#define KVN_GREETING_BYTES   24u /* header of HELLO, HELLO_ACK and RESET, in every version */
#define KVN_HELLO_BYTES      48u /* header and fields, before the padding */
#define KVN_DATA_BYTES       36u
#define KVN_MSG_BYTES        24u
#define KVN_ACK_BYTES        52u /* before its ranges */
#define KVN_ACK_RANGE_BYTES  8u
#define KVN_ACK_RANGES_MAX   32u
#define KVN_PING_BYTES       16u
#define KVN_GOODBYE_BYTES    20u
#define KVN_RESET_BYTES      32u
#define KVN_TOKEN_BYTES      24u /* CHALLENGE and RESPONSE */
#define KVN_NACK_BYTES       20u /* before its entries */
#define KVN_NACK_ENTRY_BYTES 8u
#define KVN_NACK_MAX         16u
#define KVN_HEAD_BYTES_MAX   (KVN_ACK_BYTES + KVN_ACK_RANGES_MAX * KVN_ACK_RANGE_BYTES)
#define KVN_CRC_AT           12u    /* the digest's place in the header */
#define KVN_GREETING_CRC_AT  16u    /* the same in HELLO, HELLO_ACK and RESET */
#define KVN_VERSIONS_AT      20u    /* in these: what their sender speaks */
#define KVN_OPTIONS_AT       22u    /* in HELLO and HELLO_ACK: what their sender takes, 4.4 */
#define KVN_OPTION_HEAD_ONLY 1u     /* DATA with KVN_FLAG_HEAD_ONLY */
#define KVN_PAYLOAD_MIN      1200u  /* of a UDP payload that a path must carry */
#define KVN_PAYLOAD_MAX      65507u /* UDP over IPv4 carries no more */
#define KVN_STREAM_LEN_BYTES 4u     /* before each message in the control stream */

/* SPEC.md 5: slices. A put has at most KVN_SLICES_MAX of them. DATA tells a put's bytes - 1 in the
 * low KVN_PUT_BITS of a word, its slice / KVN_SLICE_ALIGN above; and its offset in the low
 * KVN_OFFSET_BITS of another, its region above. No region reaches KVN_OFFSET_MAX. */
#define KVN_PUT_BITS      20
#define KVN_OFFSET_BITS   40
#define KVN_OFFSET_MAX    ((1ull << KVN_OFFSET_BITS) - 1)
#define KVN_REGION_MAX    ((1u << (64 - KVN_OFFSET_BITS)) - 1)
#define KVN_SLICE_ALIGN   16u
#define KVN_SLICE_MIN     ((KVN_PAYLOAD_MIN - KVN_DATA_BYTES) / KVN_SLICE_ALIGN * KVN_SLICE_ALIGN)
#define KVN_SLICE_MAX     ((KVN_PAYLOAD_MAX - KVN_DATA_BYTES) / KVN_SLICE_ALIGN * KVN_SLICE_ALIGN)
#define KVN_SLICE_DEFAULT 8192u
#define KVN_SLICES_MAX    1024u

/* SPEC.md 9: why a RESET was sent. */
enum kvn_reset_reason {
    KVN_RESET_UNKNOWN = 1, /* id: the connection that the answered packet named */
    KVN_RESET_VERSION = 2, /* id: the HELLO's source id, whose version isn't spoken */
    KVN_RESET_FULL = 3,    /* id: the HELLO's source id; no room for another connection */
};

/* Limits of this implementation; the first three are announced in HELLO (the third as credit). */
#define KVN_PUTS_MAX            8192u              /* puts in progress, each way, a power of two */
#define KVN_STREAM_BYTES        (256u * 1024)      /* control stream buffer, each way, same */
#define KVN_INFLIGHT_BYTES      (4u * 1024 * 1024) /* not yet acknowledged, default */
#define KVN_REACH_MAX           32u                /* times that, where round trips are long */
#define KVN_PUTS_FIRST          512u               /* as many until a long path needs more, same */
#define KVN_SENT_FIRST          4096u   /* packets of a path remembered, same; then doubling, */
#define KVN_SENT_DEFAULT        131072u /* up to sent_max */
#define KVN_SENT_MAX            (1u << 20)
#define KVN_RANGES_MAX          64u /* gaps tracked in one set */
#define KVN_HALF_OPEN_MAX       16u /* HELLOs answered, not yet heard again; */
#define KVN_HALF_OPEN_SHARE     4u  /* or this share of conns_max, if it is more */
#define KVN_ACK_EVERY           32u /* packets, when the sender asks for none */
#define KVN_WINDOW_START_SLICES 4u  /* in flight before anything is known */
#define KVN_WINDOW_MIN_SLICES   2u  /* never fewer, whatever is lost */
#define KVN_CREDIT_PACKETS      16u /* longest packets that one of many senders may still send */
#define KVN_PATH_PROBES         1u  /* without an answer: what is out goes to other paths */
#define KVN_NACK_DOUBT_MAX      4u  /* doublings of the age at which a NACK is believed */
#define KVN_STALL_NACKS         3u  /* of one stall */
#define KVN_STUCK_PROBES        8u  /* without an answer, of a peer that is alive */
#define KVN_PATH_QUANTUM        8u  /* packets before the next path's turn */
#define KVN_HOLE_PACKETS        8u  /* long ones lost in a row: the path carries no more of them */
#define KVN_SEARCH_TRIES        2u  /* probes of one length */
#define KVN_REORDER_MIN         3u  /* packets; grows when found too small */
#define KVN_REORDER_MAX         128u
#define KVN_RESET_BURST         16u /* RESETs that may leave at once */
#define KVN_RX_BURSTS           8u  /* of one poll() */
#define KVN_TX_BURSTS           16u

/* Times, nanoseconds. */
/* The least round trip is of the last one or two such spans. */
#define KVN_BASE_NS            (5ull * 1000 * 1000 * 1000)
#define KVN_ACK_DELAY_NS       (1000ull * 1000)     /* longest wait for more to acknowledge */
#define KVN_REACH_NS           (5ull * 1000 * 1000) /* of a round trip: as much in flight again */
#define KVN_RTT_START_NS       (5ull * 1000 * 1000)
#define KVN_PTO_MIN_NS         (2ull * 1000 * 1000) /* a peer that shares our core needs a slice */
#define KVN_PTO_MAX_NS         (100ull * 1000 * 1000)
#define KVN_LOSS_DELAY_MIN_NS  (200ull * 1000)
#define KVN_STALL_NS           (250ull * 1000)  /* least silence before a NACK */
#define KVN_STALL_SHARED_NS    (1000ull * 1000) /* the same where processes share cores */
#define KVN_HELLO_FIRST_NS     (10ull * 1000 * 1000)
#define KVN_HELLO_MAX_NS       (160ull * 1000 * 1000)
#define KVN_HALF_OPEN_NS       (500ull * 1000 * 1000) /* for a client to answer HELLO_ACK */
#define KVN_LINGER_NS          (500ull * 1000 * 1000) /* an ended connection still answers */
#define KVN_GOODBYE_GAP_NS     (1000ull * 1000)
#define KVN_RESET_GAP_NS       (1000ull * 1000)
#define KVN_CHALLENGE_FIRST_NS (10ull * 1000 * 1000)
#define KVN_CHALLENGE_MAX_NS   (1000ull * 1000 * 1000)
#define KVN_IDLE_DEADS         8u /* of dead_ns without a message or a put: idle */
#define KVN_BUSY_NS            (10ull * 1000 * 1000)   /* after its last DATA, a sender counts */
#define KVN_SEARCH_FIRST_NS    (1000ull * 1000 * 1000) /* after a fall: are longer ones carried? */
#define KVN_SEARCH_NS          (10ull * KVN_SEARCH_FIRST_NS) /* then, doubling */
#define KVN_SEARCH_MAX_NS      (600ull * KVN_SEARCH_FIRST_NS)
#define KVN_TX_RETRY_NS        (100ull * 1000) /* after the port was full */
#define KVN_DELAY_SHIFT        6               /* an ACK's delay counts 64 ns */

_Static_assert((KVW_PUT_BYTES_MAX + KVN_SLICE_MIN - 1) / KVN_SLICE_MIN <= KVN_SLICES_MAX,
               "the longest put of the shortest slices fits the bitmap");
_Static_assert(KVW_PUT_BYTES_MAX == 1u << KVN_PUT_BITS &&
                   KVN_SLICE_MAX / KVN_SLICE_ALIGN < 1u << (32 - KVN_PUT_BITS),
               "a put's bytes and its slice fit their word");
_Static_assert(KVN_STREAM_BYTES >= 2 * (KVW_MSG_BYTES_MAX + KVN_STREAM_LEN_BYTES),
               "two of the longest messages fit the stream buffer");
_Static_assert((KVN_PUTS_MAX & (KVN_PUTS_MAX - 1)) == 0 &&
                   (KVN_STREAM_BYTES & (KVN_STREAM_BYTES - 1)) == 0 &&
                   (KVN_PUTS_FIRST & (KVN_PUTS_FIRST - 1)) == 0 &&
                   (KVN_SENT_FIRST & (KVN_SENT_FIRST - 1)) == 0,
               "rings are indexed by masking");
_Static_assert(KVN_HEAD_BYTES_MAX + 16 <= KVN_PAYLOAD_MIN, "an ACK fits every path");

#endif
