/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* How a flow's two entries get into flows_new. */
#pragma once

#include <linux/bpf.h>
#include <linux/errno.h>
#include <stdbool.h>

#include <bpf_helpers.h>

#include "claim.h"
#include "flow.h"
#include "maps.h"
#include "packet.h"

static __always_inline bool same_translation(const struct flow *a, const struct flow *b)
{
	return a->sport == b->sport && a->dport == b->dport && addr_equal(&a->saddr, &b->saddr) &&
	       addr_equal(&a->daddr, &b->daddr);
}

/*
 * May a new reply entry not take the old one's place? The way back by another
 * node may be this flow's: then the frontend's address has come here, where its
 * backend is.
 */
static __always_inline bool clashes(const struct pkt *p, const struct flow *old,
				    const struct flow *reply)
{
	if (old->flags & FLOW_RETURN && flow_moved(p, old))
		return false;
	return !same_translation(old, reply);
}

/*
 * Takes the reply's tuple. Another living flow's: DROP_PORT_CLASH. A dead one
 * goes with its forward entry, whose expiry would else take this one along.
 */
static __always_inline int insert_reply(const struct pkt *p, const struct flow_key *k,
					const struct flow *reply)
{
	struct flow *old = bpf_map_lookup_elem(&flows, k);
	int err;

	if (old) {
		if (flow_alive(old, k->proto, reply->seen) && !(old->flags & FLOW_CLOSING) &&
		    clashes(p, old, reply))
			return -DROP_PORT_CLASH;
		flow_forget(k, old);
	}
	err = bpf_map_update_elem(&flows_new, k, reply, BPF_NOEXIST);
	if (err == -EEXIST) {
		old = bpf_map_lookup_elem(&flows_new, k);
		if (old && service_idle(reply->seen, old->seen) <= timeout_new &&
		    clashes(p, old, reply))
			return -DROP_PORT_CLASH;
		if (old && !same_translation(old, reply))
			flow_forget(k, old);
		err = bpf_map_update_elem(&flows_new, k, reply, BPF_ANY);
	}
	return err ? -DROP_FLOWS_FULL : 0;
}

/*
 * Makes both entries, the reply's first: whoever finds the forward one may
 * rely on it. If another CPU made the forward one meanwhile, that one counts.
 */
static __always_inline int insert_flow(const struct pkt *p, struct scratch *s)
{
	struct flow_key reply, forward = p->t;
	struct flow *old;
	int ret;

	flow_pair(&reply, &s->forward, p->t.proto);
	ret = insert_reply(p, &reply, &s->reply);
	if (ret)
		return ret;
	ret = bpf_map_update_elem(&flows_new, &forward, &s->forward, BPF_NOEXIST);
	if (ret != -EEXIST)
		return ret ? -DROP_FLOWS_FULL : 0;
	old = bpf_map_lookup_elem(&flows_new, &forward);
	if (!old)
		return -DROP_FLOWS_FULL;
	if (!same_translation(old, &s->forward)) {
		bpf_map_delete_elem(&flows_new, &reply);
		s->forward = *old;
	}
	return 0;
}
