/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Echo requests to Services' addresses. */
#pragma once

#include <linux/bpf.h>

#include <bpf_helpers.h>

#include "answer.h"
#include "icmp.h"
#include "packet.h"

/* Turns an echo request round: G7, the Service's address answers ping. */
__noinline int answer_echo(struct __sk_buff *skb, struct pkt *p)
{
	__u8 old = p ? p->type : 0, new = p && p->family == 4 ? ICMP_ECHO_REPLY : ICMP6_ECHO_REPLY;
	__u8 macs[12];

	if (!p || p->flags & PKT_FRAGMENT)
		return -DROP_FRAGMENT;
	__builtin_memcpy(macs, p->smac, sizeof(p->smac));
	__builtin_memcpy(macs + 6, p->dmac, sizeof(p->dmac));
	/* Swapped addresses sum up to the same. */
	if (p->family == 4 &&
	    (bpf_skb_store_bytes(skb, ETH_LEN + 12, &p->t.daddr.w[3], 4, 0) ||
	     bpf_skb_store_bytes(skb, ETH_LEN + 16, &p->t.saddr.w[3], 4, 0)))
		return -DROP_REWRITE;
	if (p->family == 6 && (bpf_skb_store_bytes(skb, ETH_LEN + 8, &p->t.daddr, 16, 0) ||
			       bpf_skb_store_bytes(skb, ETH_LEN + 24, &p->t.saddr, 16, 0)))
		return -DROP_REWRITE;
	if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0) ||
	    bpf_skb_store_bytes(skb, p->l4, &new, 1, 0) ||
	    bpf_l4_csum_replace(skb, p->l4 + 2, bpf_htons(old << 8), bpf_htons(new << 8), 2))
		return -DROP_REWRITE;
	return send_back(skb, p);
}
