/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Rewriting a packet's addresses, ports, MACs and hop limit. Everything goes
 * through the helpers, so that cloned and non-linear packets need no care.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>

#include <bpf_helpers.h>

#include "checksum.h"
#include "packet.h"
#include "parse.h"

/* The headers as they are in the packet; pad aligns the IP header. */
struct headers4 {
	__u8 pad[2];
	struct ethhdr eth;
	struct iphdr ip;
};

/* Offsets in struct ipv6hdr. */
#define HOP_LIMIT 7
#define ADDRESSES 8

static __always_inline int changes_ports(const struct pkt *p, const struct flow *f)
{
	return f->sport != p->t.sport || f->dport != p->t.dport;
}

static __always_inline int changes_macs(const struct flow *f)
{
	return f->way == WAY_POD || f->way == WAY_FRAME || f->way == WAY_HOST;
}

/*
 * The transport header: its checksum covers the addresses (`diff`) and the
 * ports. The helper leaves alone what a partial checksum (CHECKSUM_PARTIAL)
 * and UDP without checksum want left.
 */
static __always_inline int translate_transport(struct __sk_buff *skb, const struct pkt *p,
					       const struct flow *f, __u64 diff)
{
	__be16 ports[2] = { f->sport, f->dport };
	__u64 flags = 0;
	__u32 check;

	if (p->flags & PKT_LATER)
		return 0;
	switch (p->t.proto) {
	case IPPROTO_TCP:
		check = p->l4 + 16;
		break;
	case IPPROTO_UDP:
		check = p->l4 + 6;
		flags = BPF_F_MARK_MANGLED_0;
		break;
	case IPPROTO_ICMPV6:
		return bpf_l4_csum_replace(skb, p->l4 + 2, 0, sum_fold32(diff), BPF_F_PSEUDO_HDR) ?
			       -DROP_REWRITE :
			       0;
	default: /* among them SCTP, whose checksum covers no addresses */
		return 0;
	}
	if (bpf_l4_csum_replace(skb, check, 0, sum_fold32(diff), flags | BPF_F_PSEUDO_HDR))
		return -DROP_REWRITE;
	if (!changes_ports(p, f))
		return 0;
	diff = sum_diff16(p->t.sport, f->sport) + sum_diff16(p->t.dport, f->dport);
	if (bpf_l4_csum_replace(skb, check, 0, sum_fold32(diff), flags) ||
	    bpf_skb_store_bytes(skb, p->l4, ports, sizeof(ports), 0))
		return -DROP_REWRITE;
	return 0;
}

/* Makes the packet what f says; hops: by how much its hop limit falls, 0 or 1. */
__noinline int translate_v4(struct __sk_buff *skb, struct pkt *p, struct flow *f, int hops)
{
	struct headers4 h;
	__u64 diff;

	if (!p || !f)
		return -DROP_BUG;
	if (p->ttl <= hops)
		return -DROP_TTL;
	hops &= 1;
	if (bpf_skb_load_bytes(skb, 0, &h.eth, sizeof(h.eth) + sizeof(h.ip)))
		return -DROP_REWRITE;
	if (changes_macs(f))
		__builtin_memcpy(&h.eth, f->dmac, sizeof(f->dmac) + sizeof(f->smac));
	diff = sum_addr_diff(&p->t.saddr, &f->saddr) + sum_addr_diff(&p->t.daddr, &f->daddr);
	h.ip.saddr = f->saddr.w[3];
	h.ip.daddr = f->daddr.w[3];
	h.ip.ttl -= hops;
	/* The TTL is the first byte of its 16-bit word. */
	h.ip.check = sum_replace(h.ip.check,
				 diff + sum_diff16(bpf_htons(hops << 8), 0));
	if (bpf_skb_store_bytes(skb, 0, &h.eth, sizeof(h.eth) + sizeof(h.ip), 0))
		return -DROP_REWRITE;
	return translate_transport(skb, p, f, diff);
}

/*
 * IPv6 has no header checksum that would make up for changed addresses in a
 * device's sum over the packet (CHECKSUM_COMPLETE): recompute for these bytes.
 */
__noinline int translate_v6(struct __sk_buff *skb, struct pkt *p, struct flow *f, int hops)
{
	__u8 ttl;

	if (!p || !f)
		return -DROP_BUG;
	if (p->ttl <= hops)
		return -DROP_TTL;
	ttl = p->ttl - 1;
	if (hops && bpf_skb_store_bytes(skb, ETH_LEN + HOP_LIMIT, &ttl, 1, BPF_F_RECOMPUTE_CSUM))
		return -DROP_REWRITE;
	/* Both addresses: they lie next to each other here and there. */
	if (bpf_skb_store_bytes(skb, ETH_LEN + ADDRESSES, &f->saddr, 2 * sizeof(f->saddr),
				BPF_F_RECOMPUTE_CSUM))
		return -DROP_REWRITE;
	if (changes_macs(f) &&
	    bpf_skb_store_bytes(skb, 0, f->dmac, sizeof(f->dmac) + sizeof(f->smac), 0))
		return -DROP_REWRITE;
	return translate_transport(skb, p, f,
				   sum_addr_diff(&p->t.saddr, &f->saddr) +
					   sum_addr_diff(&p->t.daddr, &f->daddr));
}
