/* SPDX-License-Identifier: Apache-2.0 */
/* Headers that we build are read back; no other bytes are taken for a datagram. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include <stdlib.h>
#include <string.h>

#include "../../../net/port/ether/frame.h"

#define PAYLOAD 100u
#define LEN     (KVN_ETHER_HDR_BYTES + PAYLOAD)

static uint8_t wire[LEN + 64];
static struct kvn_ether_frame frame;

static void make(void)
{
    memset(wire, 0xa5, sizeof(wire));
    kvn_ether_put(wire, &kvn_ether_sender, &kvn_ether_listener, PAYLOAD);
}

/* Recompute the checksum, so that only what the test changed is wrong. */
static void mend(void)
{
    const uint32_t bytes = (wire[14] & 15u) * 4u;
    uint16_t sum;

    wire[24] = wire[25] = 0;
    sum = kvn_ether_checksum(wire + 14, bytes);
    wire[24] = (uint8_t)(sum >> 8);
    wire[25] = (uint8_t)sum;
}

Test(dpdk_frame, round_trip)
{
    const uint32_t sizes[] = {0, 1, 8192, KVN_ETHER_PAYLOAD_MAX};

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); ++i) {
        const uint32_t len = KVN_ETHER_HDR_BYTES + sizes[i];
        uint8_t *big = calloc(1, len);

        kvn_ether_put(big, &kvn_ether_listener, &kvn_ether_sender, sizes[i]);
        cr_expect_eq(kvn_ether_parse(&frame, big, len), KVN_ETHER_OK, "%u bytes", sizes[i]);
        cr_expect_eq(frame.payload, big + KVN_ETHER_HDR_BYTES);
        cr_expect_eq(frame.payload_bytes, sizes[i]);
        cr_expect_arr_eq(frame.src_ip, kvn_ether_listener.ip, 4);
        cr_expect_arr_eq(frame.dst_ip, kvn_ether_sender.ip, 4);
        cr_expect_eq(frame.src_port, 7400);
        cr_expect_eq(frame.dst_port, 7400);
        free(big);
    }
}

/* The example of RFC 1071, 3; and a header checksum that tcpdump agrees with. */
Test(dpdk_frame, checksum)
{
    const uint8_t rfc[] = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
    const uint8_t ip[20] = {0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11,
                            0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7};

    cr_expect_eq(kvn_ether_checksum(rfc, sizeof(rfc)), (uint16_t)~0xddf2);
    cr_expect_eq(kvn_ether_checksum(ip, sizeof(ip)), 0);
}

/* Every prefix is too short, or shorter than its IPv4 header says. */
Test(dpdk_frame, no_prefix_is_a_frame)
{
    for (uint32_t len = 0; len < LEN; ++len) {
        uint8_t *exact = malloc(len + 1); /* so that a sanitizer sees a byte too many */

        make();
        memcpy(exact + 1, wire, len);
        cr_expect_eq(kvn_ether_parse(&frame, exact + 1, len),
                     len < KVN_ETHER_HDR_BYTES ? KVN_ETHER_SHORT : KVN_ETHER_CUT, "len %u", len);
        free(exact);
    }
}

/* Short frames are padded on the way; the padding is not payload. */
Test(dpdk_frame, padding_is_cut)
{
    make();
    cr_expect_eq(kvn_ether_parse(&frame, wire, sizeof(wire)), KVN_ETHER_OK);
    cr_expect_eq(frame.payload_bytes, PAYLOAD);
}

struct wrong {
    uint32_t at;
    uint8_t value;
    kvn_ether_verdict verdict;
};

ParameterizedTestParameters(dpdk_frame, wrong_field)
{
    static struct wrong rows[] = {
        {12, 0x86, KVN_ETHER_NOT_IP}, /* EtherType */
        {14, 0x65, KVN_ETHER_NOT_IP}, /* version 6 */
        {14, 0x44, KVN_ETHER_NOT_IP}, /* header of 16 bytes */
        {14, 0x40, KVN_ETHER_NOT_IP}, /* of none */
        {14, 0x46, KVN_ETHER_LENGTH}, /* options: the UDP length isn't where it should be */
        {16, 0xff, KVN_ETHER_CUT},    /* total length past the frame */
        {16, 0x01, KVN_ETHER_CUT},      {17, 27, KVN_ETHER_LENGTH},     /* or no UDP header fits */
        {17, 0, KVN_ETHER_LENGTH},      {20, 0x20, KVN_ETHER_FRAGMENT}, /* more fragments */
        {21, 0x01, KVN_ETHER_FRAGMENT},                                 /* an offset */
        {23, 6, KVN_ETHER_NOT_UDP},     {38, 0xff, KVN_ETHER_LENGTH},   /* UDP length */
        {39, 0, KVN_ETHER_LENGTH},      {39, 107, KVN_ETHER_LENGTH},    {39, 109, KVN_ETHER_LENGTH},
    };
    return cr_make_param_array(struct wrong, rows, sizeof(rows) / sizeof(rows[0]));
}

ParameterizedTest(struct wrong *row, dpdk_frame, wrong_field)
{
    make();
    wire[row->at] = row->value;
    mend();
    frame.payload = wire;
    cr_expect_eq(kvn_ether_parse(&frame, wire, LEN), row->verdict, "byte %u = %02x", row->at,
                 row->value);
    cr_expect_eq(frame.payload, wire, "written on success only");
}

/* Any single bit of the IPv4 header that flips is noticed. */
Test(dpdk_frame, bit_flips_in_the_ip_header)
{
    for (uint32_t bit = 0; bit < 20 * 8; ++bit) {
        make();
        wire[14 + bit / 8] ^= (uint8_t)(1u << bit % 8);
        cr_expect_neq(kvn_ether_parse(&frame, wire, LEN), KVN_ETHER_OK, "bit %u", bit);
    }
}

/* A header with options, as other hosts may send, is read past. */
Test(dpdk_frame, options_are_skipped)
{
    make();
    memmove(wire + 38, wire + 34, 8 + PAYLOAD);
    memset(wire + 34, 1, 4); /* four times "no operation" */
    wire[14] = 0x46;
    wire[17] = (uint8_t)(wire[17] + 4);
    mend();
    cr_expect_eq(kvn_ether_parse(&frame, wire, LEN + 4), KVN_ETHER_OK);
    cr_expect_eq(frame.payload, wire + 46);
    cr_expect_eq(frame.payload_bytes, PAYLOAD);
    cr_expect_eq(kvn_ether_parse(&frame, wire, LEN + 3), KVN_ETHER_CUT);
}

/* --- IPv6 --- */

#define SIX_AT  14u
#define SIX_HDR (SIX_AT + 40u + 8u)
#define SIX_LEN (SIX_HDR + PAYLOAD)

static uint8_t six[SIX_LEN + 64];

static void make_six(void)
{
    static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1};
    const struct kvn_addr from = {.family = 6, .ip = {0xfd, [15] = 1}, .port = 7400};
    const struct kvn_addr to = {.family = 6, .ip = {0xfd, [15] = 2}, .port = 7401};
    const struct kvn_ether_route r = {.src_mac = mac, .dst_mac = mac, .from = &from, .to = &to};
    struct kvn_ether_flow flow;

    memset(six, 0xa5, sizeof(six));
    kvn_ether_flow_make(&flow, &r);
    cr_assert_eq(flow.bytes, SIX_HDR);
    kvn_ether_flow_put(&flow, six, PAYLOAD);
    six[SIX_AT + 46] = 1; /* a checksum, which nobody but the device reads */
}

/* Both lengths, the header's and UDP's, so that only the frame's own can tell. */
static void six_says(uint32_t payload)
{
    make_six();
    six[SIX_AT + 4] = six[SIX_AT + 44] = (uint8_t)((payload + 8) >> 8);
    six[SIX_AT + 5] = six[SIX_AT + 45] = (uint8_t)(payload + 8);
}

/* A length may reach to the frame's end, and not one byte further: 40 are the header's. */
Test(dpdk_frame, ipv6_length_past_the_frame)
{
    uint8_t *exact = malloc(SIX_LEN); /* so that a sanitizer sees a byte too many */

    for (uint32_t over = 0; over <= 64; ++over) {
        six_says(PAYLOAD + over);
        memcpy(exact, six, SIX_LEN);
        cr_expect_eq(kvn_ether_parse(&frame, exact, SIX_LEN),
                     over == 0 ? KVN_ETHER_OK : KVN_ETHER_CUT, "%u bytes past the frame", over);
    }
    six_says(PAYLOAD - 1);
    cr_expect_eq(kvn_ether_parse(&frame, six, SIX_LEN), KVN_ETHER_OK);
    cr_expect_eq(frame.payload_bytes, PAYLOAD - 1);
    free(exact);
}

Test(dpdk_frame, no_prefix_is_an_ipv6_frame)
{
    for (uint32_t len = 0; len < SIX_LEN; ++len) {
        uint8_t *exact = malloc(len + 1);

        make_six();
        memcpy(exact + 1, six, len);
        cr_expect_eq(kvn_ether_parse(&frame, exact + 1, len),
                     len < SIX_HDR ? KVN_ETHER_SHORT : KVN_ETHER_CUT, "len %u", len);
        free(exact);
    }
}

ParameterizedTestParameters(dpdk_frame, ipv6_wrong_field)
{
    static struct wrong rows[] = {
        {SIX_AT, 0x45, KVN_ETHER_NOT_IP},     {SIX_AT + 6, 44, KVN_ETHER_FRAGMENT},
        {SIX_AT + 6, 6, KVN_ETHER_NOT_UDP},   {SIX_AT + 5, 7, KVN_ETHER_LENGTH},
        {SIX_AT + 5, 107, KVN_ETHER_LENGTH},  {SIX_AT + 45, 107, KVN_ETHER_LENGTH},
        {SIX_AT + 45, 109, KVN_ETHER_LENGTH}, {SIX_AT + 44, 1, KVN_ETHER_LENGTH},
        {SIX_AT + 46, 0, KVN_ETHER_CHECKSUM}, /* none, which IPv6 doesn't allow */
    };
    return cr_make_param_array(struct wrong, rows, sizeof(rows) / sizeof(rows[0]));
}

ParameterizedTest(struct wrong *row, dpdk_frame, ipv6_wrong_field)
{
    make_six();
    six[SIX_AT + 47] = 0;
    cr_expect_eq(kvn_ether_parse(&frame, six, SIX_LEN), KVN_ETHER_OK);
    six[row->at] = row->value;
    cr_expect_eq(kvn_ether_parse(&frame, six, SIX_LEN), row->verdict, "byte %u = %02x", row->at,
                 row->value);
}
