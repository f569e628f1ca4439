/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The way back of what another node sends here for a client outside. */
#pragma once

#include <linux/bpf.h>
#include <linux/in.h>
#include <stdbool.h>

#include <bpf_helpers.h>

#include "claim.h"
#include "flow.h"
#include "neighbour.h"
#include "outside.h"
#include "packet.h"
#include "route.h"

/*
 * Does a process of the node take datagrams from everybody there? An answer to
 * what the node began is for a connected socket, or for a port that the kernel's
 * masquerade has given a pod.
 */
static __always_inline bool is_served(struct __sk_buff *skb, const struct pkt *p)
{
	struct bpf_sock_tuple t = {};
	struct bpf_sock *sk;
	bool served;
	__u32 size;

	if (p->family == 4) {
		t.ipv4.saddr = p->t.saddr.w[3];
		t.ipv4.daddr = p->t.daddr.w[3];
		t.ipv4.sport = p->t.sport;
		t.ipv4.dport = p->t.dport;
		size = sizeof(t.ipv4);
	} else {
		__builtin_memcpy(t.ipv6.saddr, &p->t.saddr, sizeof(t.ipv6.saddr));
		__builtin_memcpy(t.ipv6.daddr, &p->t.daddr, sizeof(t.ipv6.daddr));
		t.ipv6.sport = p->t.sport;
		t.ipv6.dport = p->t.dport;
		size = sizeof(t.ipv6);
	}
	sk = bpf_sk_lookup_udp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return false;
	served = sk->state != BPF_TCP_ESTABLISHED;
	bpf_sk_release(sk);
	return served;
}

/*
 * Is the sender told pods' own addresses, and does the route to it lead by the node
 * that has sent the packet on? Then that one gets the answers in any case, and what
 * a pod began itself can't be told from what a client did. All others know pods by
 * their node's address alone: what they send to a pod's has been translated.
 */
static __always_inline bool is_gateway(struct __sk_buff *skb, const struct pkt *p)
{
	struct bpf_fib_lookup fib = {};

	return p->flags & PKT_KNOWN && p->hook == HOOK_UPLINK_IN &&
	       !route_between(skb, p, &p->t.daddr, &p->t.saddr, &fib) &&
	       fib.ifindex == p->ifindex && mac_equal(fib.dmac, p->smac);
}

/*
 * May the packet be the first of a flow that began outside? A node may be a
 * gateway too: what answers a flow that begins here comes in its frames as well,
 * and must not keep that flow from following its route.
 */
static __always_inline bool may_begin(struct __sk_buff *skb, const struct pkt *p)
{
	switch (p->t.proto) {
	case IPPROTO_TCP:
	case IPPROTO_SCTP:
		return opens_connection(p);
	case IPPROTO_UDP:
		return p->dest == ROUTE_SELF ? is_served(skb, p) : !is_gateway(skb, p);
	}
	return p->flags & PKT_ECHO;
}

static __always_inline bool same_way(const struct flow *a, const struct flow *b)
{
	return a->way == b->way && a->ifindex == b->ifindex && mac_equal(a->dmac, b->dmac) &&
	       addr_equal(&a->hop, &b->hop);
}

/*
 * Another node sends packets of a flow that was translated here: has its
 * frontend's address gone there? An address that is answered for here hasn't, and
 * the node's own addresses and pods' don't.
 */
static __always_inline bool pair_moved(const struct pkt *p, const struct flow *f)
{
	switch (kind_of(route_of(&f->saddr))) {
	case ROUTE_SELF:
	case ROUTE_LOCAL_PODS:
		return false;
	}
	return p->t.proto != IPPROTO_UDP || !announces(&f->saddr, f->ifindex);
}

/*
 * A client outside, whose packet a node of the cluster sent here: its answers go
 * back by that node. If the packet's flow has come by another way before, the
 * frontend's address has moved, and the latest way counts. If that was another
 * flow, whose answers have the same tuple: DROP_PORT_CLASH.
 */
__noinline int remember_way(struct __sk_buff *skb, struct pkt *p)
{
	__u32 zero = 0, now = service_ticks();
	struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);
	struct flow_key k;
	struct flow *f;
	bool confirmed;

	if (!p || !s)
		return -DROP_BUG;
	if (p->flags & (PKT_ERROR | PKT_LATER))
		return 0;
	flow_answer_key(&k, &p->t);
	f = flow_find(&k, p->tcp, now, &confirmed);
	if (f && !(f->flags & FLOW_RETURN)) {
		if (opens_connection(p) || !pair_moved(p, f))
			return -DROP_PORT_CLASH;
		flow_forget(&k, f);
		f = NULL;
	} else if (!f && !may_begin(skb, p)) {
		return 0;
	}
	__builtin_memset(s, 0, sizeof(*s));
	if (way_back(p, &s->reply))
		return -DROP_BUG;
	if (!f) {
		s->reply.saddr = k.saddr;
		s->reply.daddr = k.daddr;
		s->reply.sport = k.sport;
		s->reply.dport = k.dport;
		s->reply.seen = s->reply.service = now;
		s->reply.flags = FLOW_REPLY | FLOW_RETURN | FLOW_PEER;
		return bpf_map_update_elem(&flows_new, &k, &s->reply, BPF_ANY) ? -DROP_FLOWS_FULL : 0;
	}
	if (!same_way(f, &s->reply)) {
		if (!flow_moved(p, f))
			return -DROP_PORT_CLASH;
		f->way = s->reply.way;
		f->ifindex = s->reply.ifindex;
		f->hop = s->reply.hop;
		__builtin_memcpy(f->dmac, s->reply.dmac, sizeof(f->dmac) + sizeof(f->smac));
		f->service = now;
	}
	if (flow_note(&k, f, p->tcp, now, confirmed, false))
		flow_confirm(&k, f);
	return 0;
}
