/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Where a flow begins: may the client, which backend, its two entries. */
#pragma once

#include <linux/bpf.h>
#include <linux/in.h>
#include <stdbool.h>

#include <bpf_helpers.h>

#include "flow.h"
#include "insert.h"
#include "maps.h"
#include "outside.h"
#include "packet.h"
#include "rate.h"
#include "route.h"
#include "send.h"
#include "service.h"

/* Other backends are tried for a free reply tuple, then other source ports. */
#define ATTEMPTS_BACKEND 2
#define ATTEMPTS 6

static __always_inline struct frontend *find_frontend(const struct frontend_key *t, __u8 scope)
{
	struct frontend_key k = *t;

	k.scope = scope;
	return bpf_map_lookup_elem(&frontends, &k);
}

/*
 * From the network, scope external: its backends are ones whose answers come
 * back here. Only what the cluster alone has is looked up as the cluster's.
 */
static __always_inline struct frontend *frontend_of(const struct pkt *p,
						    const struct frontend_key *k)
{
	struct frontend *fe;

	if (p->hook != HOOK_UPLINK_IN && p->hook != HOOK_TUNNEL_IN)
		return find_frontend(k, SCOPE_CLUSTER);
	fe = find_frontend(k, SCOPE_EXTERNAL);
	if (!fe && p->flags & PKT_CLUSTER)
		fe = find_frontend(k, SCOPE_CLUSTER);
	return fe;
}

/* Where the client is. */
static __always_inline __u8 scope_of(const struct pkt *p)
{
	if (p->hook == HOOK_UPLINK_IN && !(p->flags & PKT_CLUSTER))
		return SCOPE_EXTERNAL;
	return SCOPE_CLUSTER;
}

/* Source ranges, and NICs that NodePorts are open on. */
static __always_inline int admit(const struct pkt *p, const struct frontend *fe)
{
	struct range_key k = { .prefixlen = 32 + 128, .ranges = fe->ranges };
	__u32 ifindex = p->ifindex;
	struct nic *nic;

	if (fe->ranges) {
		__builtin_memcpy(k.addr, &p->t.saddr, sizeof(k.addr));
		if (!bpf_map_lookup_elem(&source_ranges, &k))
			return -DROP_SOURCE_RANGE;
	}
	if (fe->flags & FE_NODEPORT && p->hook == HOOK_UPLINK_IN) {
		nic = bpf_map_lookup_elem(&nics, &ifindex);
		if (!nic || !(nic->role & fe->nic_roles))
			return -DROP_NODEPORT_NIC;
	}
	return 0;
}

/* The node asks itself: in by the NIC that it went out by, as if from the Service. */
static __always_inline void to_itself(const struct pkt *p, struct flow *f)
{
	f->saddr = p->t.daddr;
	f->way = WAY_HOST;
	f->ifindex = p->ifindex;
	__builtin_memcpy(f->dmac, p->smac, sizeof(f->dmac));
	__builtin_memcpy(f->smac, p->dmac, sizeof(f->smac));
}

/* Not one that the node or a pod is likely to take by itself. */
static __always_inline __be16 other_port(__u32 hash, __u32 n)
{
	return bpf_htons(1024 + mix(((__u64)n << 32) + hash) % 31744);
}

/*
 * Fills in both entries for the backend. A pod that reaches itself sees the
 * Service's address as its client.
 */
static __always_inline int compose(const struct pkt *p, const struct backend *b, struct scratch *s,
				   __be16 sport, __u32 now)
{
	int ret;

	__builtin_memset(s, 0, sizeof(*s));
	s->forward.saddr = addr_equal(&b->addr, &p->t.saddr) ? p->t.daddr : p->t.saddr;
	s->forward.daddr = b->addr;
	s->forward.sport = sport;
	s->forward.dport = b->port;
	s->forward.seen = now;
	s->forward.flags = scope_of(p) == SCOPE_CLUSTER ? FLOW_PEER : 0;
	__builtin_memcpy(s->forward.from, p->smac, sizeof(p->smac));
	s->reply.saddr = p->t.daddr;
	s->reply.daddr = p->t.saddr;
	s->reply.sport = p->t.dport;
	s->reply.dport = p->t.sport;
	s->reply.seen = now;
	ret = way_there(&b->addr, &s->forward);
	if (ret < 0)
		return ret;
	s->reply.flags = ret == VERDICT_PASS ? FLOW_REPLY : FLOW_REPLY | FLOW_PEER;
	if (p->hook == HOOK_UPLINK_OUT && !ret && s->forward.way == WAY_STACK)
		to_itself(p, &s->forward);
	return way_back(p, &s->reply);
}

/* With affinity all nodes agree by the client's address alone. */
static __always_inline __u32 choice_hash(const struct pkt *p, const struct frontend *fe)
{
	return fe->affinity ? addr_hash(&p->t.saddr) : flow_hash(&p->t);
}

/* A datagram of its own backend. Fragments have to reach the same one. */
static __always_inline bool is_single(const struct pkt *p, const struct frontend *fe)
{
	return fe->flags & FE_PACKET && !(p->flags & PKT_FRAGMENT);
}

/* The n-th try: the Service's choice, its next ones, then another source port. */
__noinline int try_backend(struct pkt *p, struct frontend *fe, __u32 n)
{
	__u32 zero = 0, now = service_ticks(), hash, id;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);
	const struct backend *b;
	__be16 sport;
	int ret;

	if (!p || !fe || !s)
		return -DROP_BUG;
	hash = is_single(p, fe) ? bpf_get_prandom_u32() : flow_hash(&p->t);
	sport = p->t.sport;
	if (n < ATTEMPTS_BACKEND)
		hash += n * 0x9e3779b9;
	else
		sport = other_port(hash, n);
	id = service_choose(fe, &p->t.saddr, hash);
	b = service_backend(id);
	if (!b)
		return -DROP_NO_BACKEND;
	ret = compose(p, b, s, sport, now);
	if (from_outside(p, &s->reply))
		s->forward.sport = other_port(hash, n);
	s->forward.backend = s->reply.backend = id;
	s->forward.service = s->reply.service = fe->service;
	return ret;
}

/* Puts both entries of scratch in; for single datagrams the answers' alone. */
__noinline int place_flow(struct pkt *p, struct frontend *fe)
{
	__u32 zero = 0;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);
	struct flow_key reply;

	if (!p || !fe || !s)
		return -DROP_BUG;
	if (!(fe->flags & FE_PACKET))
		return insert_flow(p, s);
	flow_pair(&reply, &s->forward, p->t.proto);
	return insert_reply(p, &reply, &s->reply);
}

/* The packet is for frontend fe and of no known flow. */
__noinline int begin_flow(struct __sk_buff *skb, struct pkt *p, struct frontend *fe)
{
	__u32 zero = 0;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);
	int ret;

	if (!p || !fe || !s)
		return -DROP_BUG;
	if (p->tcp & TCP_RST)
		return -DROP_NO_FLOW;
	ret = admit(p, fe);
	if (ret)
		return ret;
	if (!within_rate(RATE_FLOWS, flow_rate, FLOW_RATE_SHIFT))
		return -DROP_FLOW_RATE;
	for (__u32 n = 0; n < ATTEMPTS; n++) {
		ret = try_backend(p, fe, n);
		if (!ret && from_outside(p, &s->reply))
			ret = as_node(skb, p, &s->forward);
		if (!ret)
			ret = place_flow(p, fe);
		if (ret != -DROP_PORT_CLASH)
			break;
	}
	if (ret == -DROP_NO_BACKEND && fe->flags & FE_REJECT)
		p->answer = ANSWER_REFUSE;
	if (ret)
		return ret;
	return send(skb, p, &s->forward);
}
