/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes as an Ethernet frame: what is taken for a datagram lies inside them, and says the same
 * of itself when it is built anew.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#undef NDEBUG
#include <assert.h>

#include "../../net/port/ether/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kvn_ether_frame f, g;
    struct kvn_ether_end from = {.mac = {2}}, to = {.mac = {2}};

    if (size > 65535u + 14)
        return 0;
    if (kvn_ether_parse(&f, data, (uint32_t)size) != KVN_ETHER_OK)
        return 0;
    assert(f.payload >= data + KVN_ETHER_HDR_BYTES);
    assert(f.payload_bytes <= KVN_ETHER_PAYLOAD_MAX);
    assert(f.payload + f.payload_bytes <= data + size);

    uint8_t *again = malloc(KVN_ETHER_HDR_BYTES + f.payload_bytes);

    memcpy(from.ip, f.src_ip, 4);
    memcpy(to.ip, f.dst_ip, 4);
    from.port = f.src_port;
    to.port = f.dst_port;
    kvn_ether_put(again, &from, &to, f.payload_bytes);
    memcpy(again + KVN_ETHER_HDR_BYTES, f.payload, f.payload_bytes);
    assert(kvn_ether_parse(&g, again, KVN_ETHER_HDR_BYTES + f.payload_bytes) == KVN_ETHER_OK);
    assert(g.payload_bytes == f.payload_bytes && g.src_port == f.src_port &&
           g.dst_port == f.dst_port && memcmp(g.src_ip, f.src_ip, 4) == 0 &&
           memcmp(g.dst_ip, f.dst_ip, 4) == 0);
    assert(memcmp(g.payload, f.payload, f.payload_bytes) == 0);
    free(again);
    return 0;
}
