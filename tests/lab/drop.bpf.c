/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A classifier for the egress of an interface that loses packets as a network does: at random, each
 * with a probability of DROP_PPM in a million, and every one that is longer than DROP_LONGER bytes
 * of IP packet (a path with a smaller MTU that tells nobody).
 *
 * TC_ACT_STOLEN rather than TC_ACT_SHOT: a sender that is told of the drop takes the packet for
 * not sent and tries again at once, which no network does for it. Only IP is hit, so that
 * neighbours are still found. What the kernel still has to cut (GSO) counts as one packet; labs
 * that lose packets keep senders from making such (gso_max_segs 1).
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#ifndef DROP_PPM
#define DROP_PPM 0
#endif
#ifndef DROP_LONGER
#define DROP_LONGER 65536
#endif
#define ETHER_HEADER 14

SEC("tc")
int drop(struct __sk_buff *skb)
{
    const __u32 packet = skb->gso_size != 0 ? skb->gso_size + 28 : skb->len - ETHER_HEADER;

    if (skb->protocol != bpf_htons(ETH_P_IP) && skb->protocol != bpf_htons(ETH_P_IPV6))
        return TC_ACT_OK;
    if (packet > DROP_LONGER)
        return TC_ACT_STOLEN;
    if (DROP_PPM != 0 && bpf_get_prandom_u32() % 1000000 < DROP_PPM)
        return TC_ACT_STOLEN;
    return TC_ACT_OK;
}

char license_of_drop[] SEC("license") = "Dual BSD/GPL";
