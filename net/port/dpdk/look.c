/* SPDX-License-Identifier: Apache-2.0 */
#include "look.h"

#include <poll.h>

#include <rte_ethdev.h>
#include <rte_pause.h>

#include "job.h"

#define LOOKS 32u /* at the queue, for each at the clock and at wake_fd */

bool kvn_dpdk_look(struct kvn_spin *spin, uint16_t id, uint16_t queue, struct rte_mbuf **early,
                   uint32_t *count, uint64_t until_ns, int wake_fd)
{
    struct pollfd wake = {.fd = wake_fd, .events = POLLIN};
    uint64_t now_ns = kvn_dpdk_now_ns(), stop_ns;

    if (until_ns <= now_ns)
        return true;
    stop_ns = kvn_spin_until(spin, now_ns, until_ns);
    if (stop_ns == now_ns)
        return false;
    do {
        for (uint32_t i = 0; i < LOOKS && *count == 0; ++i) {
            *count = rte_eth_rx_burst(id, queue, early, KVN_BURST);
            rte_pause();
        }
        if (*count != 0 || (wake_fd >= 0 && poll(&wake, 1, 0) != 0)) {
            kvn_spin_looked(spin, true);
            return true;
        }
        now_ns = kvn_dpdk_now_ns();
    } while (now_ns < stop_ns);
    if (stop_ns != until_ns)
        kvn_spin_looked(spin, false);
    return stop_ns == until_ns;
}
