/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * ARP and neighbour discovery on the uplinks: answers for announced addresses,
 * and gives one up at once when another node of the cluster claims it.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <stdbool.h>

#include <bpf_helpers.h>

#include "answer.h"
#include "checksum.h"
#include "claim.h"
#include "icmp.h"
#include "packet.h"
#include "parse.h"
#include "route.h"

#define ND_ROUTER_ADVERTISEMENT 134
#define ND_SOLICITATION 135
#define ND_ADVERTISEMENT 136
#define ND_REDIRECT 137
#define ND_SOLICITED bpf_htonl(0x60000000) /* solicited, override */
#define ND_OVERRIDE bpf_htonl(0x20000000)  /* override */
#define ND_TARGET_LINK 2		   /* option: target's link-layer address */

struct arp_packet {
	__u8 pad[2];
	struct ethhdr eth;
	struct arp arp;
};
_Static_assert(sizeof(struct arp_packet) == 44, "arp_packet");

/* RFC 4861, 4.3 and 4.4, with one link-layer option. */
struct nd_message {
	__u8 type;
	__u8 code;
	__u16 check;
	__be32 flags;
	union addr target;
	__u8 option;
	__u8 option_len;
	__u8 mac[6];
};
_Static_assert(sizeof(struct nd_message) == 32, "nd_message");

/* Is the address ours to answer for on this NIC, now? */
static __always_inline bool announces(const union addr *a, __u32 ifindex)
{
	struct announced_key k = { .addr = *a, .ifindex = ifindex };
	struct announced *v = bpf_map_lookup_elem(&announced, &k);

	return v && (!v->expires || v->expires > bpf_ktime_get_coarse_ns());
}

/* Another node of the cluster may say that a Service's address is its own. */
static __always_inline void yield(const union addr *a, __u32 ifindex, const __u8 *mac)
{
	struct frontend_key service = { .addr = *a, .scope = SCOPE_EXTERNAL };
	struct announced_key k = { .addr = *a, .ifindex = ifindex };
	struct peer_key peer = { .ifindex = ifindex };

	if (!bpf_map_lookup_elem(&frontends, &service) && !bpf_map_lookup_elem(&announced, &k))
		return;
	__builtin_memcpy(peer.mac, mac, sizeof(peer.mac));
	if (!bpf_map_lookup_elem(&peers, &peer))
		return;
	note_claim();
	bpf_map_delete_elem(&announced, &k);
}

/* This node may say so. */
static __always_inline void note_own(const union addr *a, __u32 ifindex)
{
	if (announces(a, ifindex))
		note_claim();
}

static __always_inline const __u8 *mac_of(__u32 ifindex)
{
	struct nic *nic = bpf_map_lookup_elem(&nics, &ifindex);

	return nic ? nic->mac : NULL;
}

/*
 * The node itself may ask for an address that it announces: its packets have
 * to get as far as tc_uplink_out. Probes, which have no sender, go out.
 */
static __always_inline bool asks_itself(const union addr *sender, const union addr *target)
{
	const struct route *r = route_of(sender);

	return kind_of(r) == ROUTE_SELF && !addr_equal(sender, target);
}

__noinline int answer_arp(struct __sk_buff *skb, int out)
{
	struct arp_packet a = {};
	__u32 ifindex = skb->ifindex;
	union addr sender, target;
	const __u8 *mac;
	__be32 spa, tpa;
	int ret = untag(skb);

	if (ret || bpf_skb_load_bytes(skb, 0, &a.eth, sizeof(a) - sizeof(a.pad)))
		return ret ? ret : VERDICT_PASS;
	if (a.arp.hrd != bpf_htons(ARP_ETHERNET) || a.arp.pro != bpf_htons(ETH_P_IP))
		return VERDICT_PASS;
	__builtin_memcpy(&spa, a.arp.spa, sizeof(spa));
	__builtin_memcpy(&tpa, a.arp.tpa, sizeof(tpa));
	addr_from_v4(&sender, spa);
	addr_from_v4(&target, tpa);
	if (out)
		note_own(&sender, ifindex);
	else
		yield(&sender, ifindex, a.arp.sha);
	if (out && !asks_itself(&sender, &target))
		return VERDICT_PASS;
	mac = mac_of(ifindex);
	if (!mac || a.arp.op != bpf_htons(ARP_REQUEST) || spa == tpa ||
	    !announces(&target, ifindex))
		return VERDICT_PASS;

	__builtin_memcpy(a.eth.h_dest, a.eth.h_source, 6);
	__builtin_memcpy(a.eth.h_source, mac, 6);
	__builtin_memcpy(a.arp.tha, a.arp.sha, 6);
	__builtin_memcpy(a.arp.tpa, a.arp.spa, 4);
	__builtin_memcpy(a.arp.sha, mac, 6);
	__builtin_memcpy(a.arp.spa, &tpa, 4);
	a.arp.op = bpf_htons(ARP_REPLY);
	if (bpf_skb_store_bytes(skb, 0, &a.eth, sizeof(a) - sizeof(a.pad), 0))
		return -DROP_REWRITE;
	skb->mark = PB_MARK_SENT;
	return bpf_redirect(ifindex, out ? BPF_F_INGRESS : 0);
}

/*
 * A solicitation becomes the advertisement. Duplicate address detection asks
 * from the unspecified address: the answer goes to all nodes (RFC 4861, 7.2.4).
 */
static __always_inline int advertise(struct __sk_buff *skb, struct pkt *p, const __u8 *mac,
				     struct nd_message *nd)
{
	struct eth_ip h = {};
	union addr target = nd->target;

	nd->type = ND_ADVERTISEMENT;
	nd->check = 0;
	nd->flags = ND_SOLICITED;
	nd->option = ND_TARGET_LINK;
	nd->option_len = 1;
	__builtin_memcpy(nd->mac, mac, sizeof(nd->mac));
	if (addr_is_zero(&p->t.saddr)) {
		nd->flags = ND_OVERRIDE;
		p->t.saddr.w[0] = bpf_htonl(0xff020000);
		p->t.saddr.w[3] = bpf_htonl(1);
		__builtin_memcpy(p->smac, "\x33\x33\x00\x00\x00\x01", sizeof(p->smac));
	}
	p->t.daddr = target;
	__builtin_memcpy(p->dmac, mac, sizeof(p->dmac));
	nd->check = ~sum_fold16(sum_pseudo(p, sizeof(*nd), IPPROTO_ICMPV6) +
				sum_words(nd, sizeof(*nd) / 2));
	answer_headers(p, &h, sizeof(*nd), IPPROTO_ICMPV6);
	h.v6.hop_limit = 255;
	if (bpf_skb_change_tail(skb, ETH_LEN + sizeof(h.v6) + sizeof(*nd), 0) ||
	    bpf_skb_store_bytes(skb, 0, &h.eth, ETH_LEN + sizeof(h.v6), 0) ||
	    bpf_skb_store_bytes(skb, ETH_LEN + sizeof(h.v6), nd, sizeof(*nd), 0))
		return -DROP_REWRITE;
	return send_back(skb, p);
}

__noinline int answer_nd(struct __sk_buff *skb, struct pkt *p)
{
	struct nd_message nd = {};
	const __u8 *mac;

	if (!p || p->t.proto != IPPROTO_ICMPV6 || p->ttl != 255 ||
	    (p->type != ND_SOLICITATION && p->type != ND_ADVERTISEMENT))
		return 0;
	/* Without the option, which may be missing. */
	if (bpf_skb_load_bytes(skb, p->l4, &nd, 24))
		return 0;
	if (p->type == ND_ADVERTISEMENT) {
		if (p->hook == HOOK_UPLINK_IN)
			yield(&nd.target, p->ifindex, p->smac);
		else
			note_own(&nd.target, p->ifindex);
		return 0;
	}
	if (p->hook == HOOK_UPLINK_OUT && !asks_itself(&p->t.saddr, &nd.target))
		return 0;
	mac = mac_of(p->ifindex);
	if (!mac || !announces(&nd.target, p->ifindex))
		return 0;
	return advertise(skb, p, mac, &nd);
}
