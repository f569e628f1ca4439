/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Rewriting a packet's addresses, ports, MACs and hop limit: in place where
 * that does, since a helper costs some 30 ns here. The parser has seen to it
 * that the headers are linear, the kernel that they are no clone's.
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
#include "sctp.h"

#define HOP_LIMIT 7 /* offset in struct ipv6hdr */

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
static __always_inline int translate_transport(struct __sk_buff *skb, struct pkt *p,
					       struct flow *f, __u64 diff)
{
	__be16 ports[2] = { f->sport, f->dport };
	__u64 flags = 0;
	__u32 check;

	if (p->flags & PKT_LATER || f->flags & FLOW_RETURN)
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
	default: /* SCTP's checksum covers no addresses: see send() */
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

/* Both MACs, destination first, as they lie in flows and endpoints. */
static __always_inline int write_macs(struct __sk_buff *skb, const __u8 *macs)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (data + ETH_LEN > end)
		return -DROP_REWRITE;
	__builtin_memcpy(data, macs, 2 * ETH_ALEN);
	return 0;
}

/* Makes the packet what f says; hops: by how much its hop limit falls, 0 or 1. */
__noinline int translate_v4(struct __sk_buff *skb, struct pkt *p, struct flow *f, int hops)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + ETH_LEN;
	__u64 diff;

	if (!p || !f || (void *)(ip + 1) > end)
		return -DROP_BUG;
	if (p->ttl <= hops)
		return -DROP_TTL;
	hops &= 1;
	if (changes_macs(f))
		__builtin_memcpy(data, f->dmac, 2 * ETH_ALEN);
	diff = sum_addr_diff(&p->t.saddr, &f->saddr) + sum_addr_diff(&p->t.daddr, &f->daddr);
	ip->saddr = f->saddr.w[3];
	ip->daddr = f->daddr.w[3];
	ip->ttl -= hops;
	/* The TTL is the first byte of its 16-bit word. */
	ip->check = sum_replace(ip->check, diff + sum_diff16(bpf_htons(hops << 8), 0));
	return translate_transport(skb, p, f, diff);
}

/* The end of struct ipv6hdr, from the hop limit on. */
struct v6_tail {
	__u8 pad[7];
	__u8 hop_limit;
	union addr saddr;
	union addr daddr;
};
#define V6_TAIL_LEN (1 + 2 * (__u32)sizeof(union addr))

/*
 * IPv6 has no header checksum that would make up for changed addresses in a
 * device's sum over the packet (CHECKSUM_COMPLETE): the helper recomputes it.
 */
__noinline int translate_v6(struct __sk_buff *skb, struct pkt *p, struct flow *f, int hops)
{
	struct v6_tail ip;

	if (!p || !f)
		return -DROP_BUG;
	if (p->ttl <= hops)
		return -DROP_TTL;
	ip.hop_limit = p->ttl - (hops & 1);
	ip.saddr = f->saddr;
	ip.daddr = f->daddr;
	if (changes_macs(f) && write_macs(skb, f->dmac))
		return -DROP_BUG;
	if (bpf_skb_store_bytes(skb, ETH_LEN + HOP_LIMIT, &ip.hop_limit, V6_TAIL_LEN,
				BPF_F_RECOMPUTE_CSUM))
		return -DROP_REWRITE;
	return translate_transport(skb, p, f,
				   sum_addr_diff(&p->t.saddr, &f->saddr) +
					   sum_addr_diff(&p->t.daddr, &f->daddr));
}
