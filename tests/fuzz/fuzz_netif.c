/* SPDX-License-Identifier: Apache-2.0 */
/* Any frames on an Ethernet: nothing is read outside them, what is queued in answer is whole, and
 * what is taken for a datagram lies inside. Input: length (two bytes), frame, length, frame, ... */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#undef NDEBUG
#include <assert.h>

#include "../../net/port/ether/netif.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct kvn_netif_config cfg = {.mac = {2, 0, 0, 0, 0, 2},
                                                .four = {.set = true, .ip = {10, 0, 0, 2}},
                                                .six = {.set = true, .ip = {0xfd, [15] = 2}},
                                                .port = 7400,
                                                .source_count = 2};
    static struct kvn_netif n;
    struct kvn_rx_packet p;
    uint64_t now = 0;

    kvn_netif_init(&n, &cfg);
    while (size >= 2) {
        const size_t said = (size_t)(data[0] | data[1] << 8);
        const uint32_t len = (uint32_t)(said < size - 2 ? said : size - 2);
        uint8_t *frame = malloc(len + 1);
        struct kvn_netif_in in = {.bytes = frame, .len = len};
        const uint8_t *out;
        uint32_t bytes;

        memcpy(frame, data + 2, len);
        if (kvn_netif_rx(&n, now, &in, &p)) {
            assert(p.bytes >= frame && p.bytes + p.len <= frame + len && p.source < 2);

            const struct kvn_tx_packet back = {.to = p.from};
            const struct kvn_ether_flow *flow;

            (void)kvn_netif_flow(&n, now, &back, &flow);
        }
        while ((out = kvn_netif_out(&n, &bytes)) != NULL) {
            assert(bytes >= 60 && bytes <= KVN_NETIF_OUT_SIZE);
            kvn_netif_out_sent(&n);
        }
        now += 100000000u;
        kvn_netif_tick(&n, now);
        free(frame);
        data += 2 + len;
        size -= 2 + len;
    }
    return 0;
}
