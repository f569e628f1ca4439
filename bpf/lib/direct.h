/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Flows to a backend itself that need another source port, since the tuple of
 * their answers is another flow's. A pod that is a Service's client by packets
 * asks a backend of that flow directly, from the same port: the answers would
 * seem to come from the Service. Or another node sends what a client outside has
 * asked another frontend from the same port.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/in.h>
#include <stdbool.h>

#include <bpf_helpers.h>

#include "begin.h"
#include "flow.h"
#include "packet.h"
#include "send.h"

/* The n-th try of another source port. */
__noinline int try_direct(struct pkt *p, __u32 n)
{
	__u32 zero = 0;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);
	struct backend b = {};
	int ret;

	if (!p || !s)
		return -DROP_BUG;
	b.addr = p->t.daddr;
	b.port = p->t.dport;
	ret = compose(p, &b, s, other_port(flow_hash(&p->t), n), service_ticks());
	if (p->flags & PKT_PEER) {
		s->forward.flags |= FLOW_PEER | FLOW_APART;
		sender_of(p, s->forward.from);
	}
	return ret ? ret : insert_flow(p, s);
}

/* The packet's flow begins with another source port. */
__noinline int begin_apart(struct __sk_buff *skb, struct pkt *p)
{
	int ret = -DROP_PORT_CLASH;
	__u32 zero = 0;
	struct scratch *s;

	if (!p)
		return -DROP_BUG;
	for (__u32 n = 0; n < ATTEMPTS; n++) {
		ret = try_direct(p, n);
		if (ret != -DROP_PORT_CLASH)
			break;
	}
	s = bpf_map_lookup_elem(&scratches, &zero);
	if (ret || !s)
		return ret ? ret : -DROP_BUG;
	return send(skb, p, &s->forward);
}

/* A flow begins without a Service, if another one's answers would take its own. */
__noinline int to_direct(struct __sk_buff *skb, struct pkt *p)
{
	struct flow_key k;
	bool confirmed;
	struct flow *f;

	if (!p)
		return -DROP_BUG;
	if (!p->client || p->flags & (PKT_LATER | PKT_ERROR) ||
	    (p->t.proto != IPPROTO_TCP && p->t.proto != IPPROTO_UDP) ||
	    (p->t.proto == IPPROTO_TCP && (p->tcp & (TCP_SYN | TCP_ACK)) != TCP_SYN))
		return 0;
	flow_answer_key(&k, &p->t);
	f = flow_find(&k, p->tcp, service_ticks(), &confirmed);
	if (!f || f->flags & FLOW_RETURN || !(f->flags & FLOW_REPLY))
		return 0;
	return begin_apart(skb, p);
}
