/* SPDX-License-Identifier: Apache-2.0 */
#include "err.h"

#include <stddef.h>

static const struct {
    kvw_err err;
    const char *text;
} texts[] = {
    {KVW_OK, "ok"},
    {KVW_E_AGAIN, "no room now, try again"},
    {KVW_E_INVALID, "invalid argument"},
    {KVW_E_NOMEM, "out of memory"},
    {KVW_E_NOTFOUND, "not found"},
    {KVW_E_IO, "input/output error"},
    {KVW_E_FORMAT, "malformed file"},
    {KVW_E_CHECKSUM, "digest mismatch"},
    {KVW_E_CANCELED, "canceled"},
    {KVW_E_LEASE, "lease expired"},
    {KVW_E_DEADLINE, "deadline passed"},
    {KVW_E_NOBLOCKS, "no free KV blocks"},
    {KVW_E_CODEC, "damaged codec stream"},
    {KVW_E_TRUNCATED, "truncated message"},
    {KVW_E_PROTOCOL, "protocol violation"},
    {KVW_E_PEER_LOST, "peer lost"},
    {KVW_E_VERSION, "protocol version mismatch"},
    {KVW_E_MISMATCH, "peers do not match"},
    {KVW_E_DEVICE, "device failure"},
    {KVW_E_ADDRESS, "bad or busy address"},
    {KVW_E_UNSUPPORTED, "not supported"},
};

const char *kvw_strerror(kvw_err err)
{
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); ++i)
        if (texts[i].err == err)
            return texts[i].text;
    return "unknown error";
}
