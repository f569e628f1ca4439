/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The way back of what another node sends here for a client outside. */
#pragma once

#include <linux/bpf.h>
#include <linux/in.h>
#include <stdbool.h>

#include <bpf_helpers.h>

#include "flow.h"
#include "packet.h"
#include "route.h"

/*
 * Is the packet an answer to the node's own process? A connected socket of it
 * chose its peer; a server's is not connected.
 */
static __always_inline bool is_answer(struct __sk_buff *skb, const struct pkt *p)
{
	struct bpf_sock_tuple t = {};
	struct bpf_sock *sk;
	bool connected;
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
	connected = sk->state == BPF_TCP_ESTABLISHED;
	bpf_sk_release(sk);
	return connected;
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
		return p->dest != ROUTE_SELF || !is_answer(skb, p);
	}
	return p->flags & PKT_ECHO;
}

/*
 * A client outside, whose packet a node of the cluster sent here: its answers
 * go back by that node. The latest packet's way counts, also if the flow was
 * translated here before: the frontend's address has gone to that node.
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
		if (opens_connection(p))
			return 0;
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
		s->reply.seen = now;
		s->reply.flags = FLOW_REPLY | FLOW_RETURN | FLOW_PEER;
		return bpf_map_update_elem(&flows_new, &k, &s->reply, BPF_ANY) ? -DROP_FLOWS_FULL : 0;
	}
	if (f->way != s->reply.way || f->ifindex != s->reply.ifindex ||
	    !mac_equal(f->dmac, s->reply.dmac) || !addr_equal(&f->hop, &s->reply.hop)) {
		f->way = s->reply.way;
		f->ifindex = s->reply.ifindex;
		f->hop = s->reply.hop;
		__builtin_memcpy(f->dmac, s->reply.dmac, sizeof(f->dmac) + sizeof(f->smac));
	}
	if (flow_note(&k, f, p->tcp, now, confirmed, false))
		flow_confirm(&k, f);
	return 0;
}
