/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Where a packet leaves: a pod, a NIC, a neighbour, the tunnel, the stack. */
#pragma once

#include <linux/bpf.h>
#include <linux/in.h>

#include <bpf_helpers.h>

#include "maps.h"
#include "packet.h"
#include "route.h"
#include "translate.h"

#define AF_INET 2
#define AF_INET6 10
enum { TCPOPT_EOL, TCPOPT_NOP, TCPOPT_MSS };
#define TCP_OPTIONS_MAX 40 /* data offset is 4 bits of 32-bit words */

static __always_inline int at_egress(const struct pkt *p)
{
	return p->hook == HOOK_POD_OUT || p->hook == HOOK_UPLINK_OUT ||
	       p->hook == HOOK_TUNNEL_OUT;
}

/* To a pod of this node; its MACs are in the packet. */
static __always_inline int send_pod(struct __sk_buff *skb, const struct pkt *p, __u32 ifindex)
{
	if (!at_egress(p))
		return bpf_redirect_peer(ifindex, 0);
	if (p->hook == HOOK_POD_OUT && p->ifindex == ifindex)
		return VERDICT_PASS;
	skb->mark = PB_MARK_SENT;
	return bpf_redirect(ifindex, 0);
}

static __always_inline int send_frame(struct __sk_buff *skb, __u32 ifindex)
{
	skb->mark = PB_MARK_SENT;
	return bpf_redirect(ifindex, 0);
}

static __always_inline int send_neigh(struct __sk_buff *skb, const union addr *hop, __u32 ifindex)
{
	struct bpf_redir_neigh nh = {};

	if (addr_is_v4(hop)) {
		nh.nh_family = AF_INET;
		nh.ipv4_nh = hop->w[3];
	} else {
		nh.nh_family = AF_INET6;
		__builtin_memcpy(nh.ipv6_nh, hop, sizeof(nh.ipv6_nh));
	}
	skb->mark = PB_MARK_SENT;
	return bpf_redirect_neigh(ifindex, &nh, sizeof(nh), 0);
}

/* Sets where the tunnel takes the packet to. */
static __always_inline int set_tunnel(struct __sk_buff *skb, const struct config *cfg,
				      const union addr *node)
{
	struct bpf_tunnel_key key = { .tunnel_id = cfg->tunnel_vni, .tunnel_ttl = 64 };
	__u64 flags = BPF_F_ZERO_CSUM_TX;

	if (addr_is_v4(node)) {
		key.remote_ipv4 = bpf_ntohl(node->w[3]);
	} else {
		flags = BPF_F_TUNINFO_IPV6;
		__builtin_memcpy(key.remote_ipv6, node, sizeof(key.remote_ipv6));
	}
	return bpf_skb_set_tunnel_key(skb, &key, sizeof(key), flags) ? -DROP_NO_ROUTE : 0;
}

#define GSO_BY_FRAGS 0xffff

/*
 * Size of the packet's largest piece, as IP has it. SCTP's pieces have sizes of
 * their own (GSO_BY_FRAGS), which its path MTU bounds: taken to fit.
 */
static __always_inline __u32 piece_size(struct __sk_buff *skb, const struct pkt *p)
{
	if (skb->gso_size == GSO_BY_FRAGS)
		return 0;
	if (skb->gso_size)
		return skb->gso_size + p->l4 - ETH_LEN + p->l4len;
	return skb->len - ETH_LEN;
}

/*
 * Lowers the MSS that a SYN offers to what fits. An odd offset swaps the bytes
 * in the sum.
 */
__noinline int clamp_mss(struct __sk_buff *skb, struct pkt *p, int mtu)
{
	__u32 off, end, sum = 0;
	__be16 old, new;
	__u8 opt[2];

	if (!p || p->t.proto != IPPROTO_TCP || !(p->tcp & TCP_SYN))
		return 0;
	new = bpf_htons(mtu - (p->family == 4 ? 40 : 60));
	sum = p->l4 + 16;
	end = p->l4 + p->l4len;
	off = p->l4 + 20;
	for (int i = 0; i < TCP_OPTIONS_MAX && off + 4 <= end; i++) {
		if (bpf_skb_load_bytes(skb, off, opt, sizeof(opt)) || opt[0] == TCPOPT_EOL)
			return 0;
		if (opt[0] == TCPOPT_NOP) {
			off++;
			continue;
		}
		if (opt[0] != TCPOPT_MSS) {
			off += opt[1] < 2 ? 2 : opt[1];
			continue;
		}
		if (bpf_skb_load_bytes(skb, off + 2, &old, sizeof(old)))
			return 0;
		if (bpf_ntohs(old) <= bpf_ntohs(new))
			return 0;
		if (bpf_skb_store_bytes(skb, off + 2, &new, sizeof(new), 0))
			return -DROP_REWRITE;
		if ((off - p->l4) & 1) {
			old = __builtin_bswap16(old);
			new = __builtin_bswap16(new);
		}
		return bpf_l4_csum_replace(skb, sum, old, new, sizeof(new)) ? -DROP_REWRITE : 0;
	}
	return 0;
}

/*
 * 0 if the packet fits; VERDICT_PASS if the stack can cut it, which it can
 * where its own route is the same; else the sender hears of it.
 */
static __always_inline int check_size(struct __sk_buff *skb, struct pkt *p, __u32 mtu, int own)
{
	if (!mtu || piece_size(skb, p) <= mtu)
		return 0;
	if (own && !(p->flags & PKT_DF))
		return VERDICT_PASS;
	p->answer = ANSWER_TOO_BIG;
	p->mtu = mtu;
	return -DROP_TOO_BIG;
}

static __always_inline int send_tunnel(struct __sk_buff *skb, const struct config *cfg,
				       const union addr *node)
{
	/* The device's MAC is not known at the other end: it accepts any. */
	int ret = set_tunnel(skb, cfg, node);

	if (ret)
		return ret;
	skb->mark = PB_MARK_SENT;
	return bpf_redirect(cfg->tunnel_ifindex, 0);
}

/* Hop limits fall where a packet is forwarded, not between pods of a node. */
static __always_inline int hops(const struct pkt *p, const struct flow *f)
{
	return f->way >= WAY_FRAME && f->way <= WAY_TUNNEL &&
	       (p->hook == HOOK_UPLINK_IN || p->hook == HOOK_TUNNEL_IN);
}

/* What fits through each link that IPv6 goes over needs no look-up. */
#define MTU_SURE 1280

/*
 * May the tunnel's own packets be fragmented instead? Replies without DF have to
 * go where no route of the stack's leads. SCTP, told of a smaller MTU, fragments
 * what it has sent before, and fragments' ports can't be translated.
 */
static __always_inline int fits_in_pieces(const struct pkt *p, const struct flow *f)
{
	return p->t.proto == IPPROTO_SCTP || (f->flags & FLOW_REPLY && !(p->flags & PKT_DF));
}

/* The largest IP packet that the flow's way lets through; 0: not known. */
static __always_inline __u32 way_mtu(const struct flow *f, const struct pkt *p,
				     const struct config *cfg)
{
	__u32 ifindex = f->ifindex;
	struct nic *nic;

	if (f->way == WAY_TUNNEL)
		return fits_in_pieces(p, f) ? 0 : cfg->tunnel_mtu;
	if (f->way != WAY_FRAME && f->way != WAY_NEIGH)
		return 0;
	nic = bpf_map_lookup_elem(&nics, &ifindex);
	return nic ? nic->mtu : 0;
}

static __always_inline int send_stack(struct __sk_buff *skb)
{
	skb->mark = PB_MARK_STACK;
	return VERDICT_PASS;
}

static __always_inline int send_way(struct __sk_buff *skb, const struct pkt *p,
				    const struct flow *f, const struct config *cfg)
{
	switch (f->way) {
	case WAY_POD:
		return send_pod(skb, p, f->ifindex);
	case WAY_FRAME:
		return send_frame(skb, f->ifindex);
	case WAY_NEIGH:
		return send_neigh(skb, &f->hop, f->ifindex);
	case WAY_TUNNEL:
		return send_tunnel(skb, cfg, &f->hop);
	case WAY_HOST:
		if (p->hook == HOOK_UPLINK_IN && p->ifindex == f->ifindex)
			break;
		skb->mark = PB_MARK_STACK;
		return bpf_redirect(f->ifindex, BPF_F_INGRESS);
	case WAY_STACK:
		if (p->hook != HOOK_UPLINK_OUT)
			break;
		/* Already on its way, with the MAC of another next hop. */
		skb->mark = PB_MARK_SENT;
		return bpf_redirect_neigh(p->ifindex, NULL, 0, 0);
	}
	return send_stack(skb);
}

/* Translates the packet and sends it on, as its flow says. */
__noinline int send(struct __sk_buff *skb, struct pkt *p, struct flow *f)
{
	const struct config *cfg = settings();
	int ret, cut = 0;

	if (!p || !f || !cfg)
		return -DROP_BUG;
	if (p->t.proto == IPPROTO_SCTP && p->flags & PKT_FRAGMENT && changes_ports(p, f))
		return -DROP_PROTOCOL; /* its checksum is of a length that isn't known */
	if (piece_size(skb, p) > MTU_SURE)
		cut = check_size(skb, p, way_mtu(f, p, cfg),
				 !at_egress(p) && !(f->flags & FLOW_REPLY));
	if (cut < 0)
		return cut;
	ret = f->way == WAY_TUNNEL ? clamp_mss(skb, p, cfg->tunnel_mtu) : 0;
	if (!ret)
		ret = p->family == 4 ? translate_v4(skb, p, f, hops(p, f)) :
				       translate_v6(skb, p, f, hops(p, f));
	if (!ret && p->t.proto == IPPROTO_SCTP && !(p->flags & PKT_LATER || f->flags & FLOW_RETURN))
		ret = translate_sctp(skb, p, f);
	if (ret)
		return ret;
	return cut ? send_stack(skb) : send_way(skb, p, f, cfg);
}
