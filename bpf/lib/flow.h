/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Flows: look-up, life and confirmation. A flow begins in flows_new; once
 * packets went both ways (TCP: once the client has answered the answer) it
 * moves to flows, which nothing evicts from. Expiry is judged at look-up.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/in.h>
#include <stdbool.h>

#include <bpf_helpers.h>

#include "addr.h"
#include "config.h"
#include "maps.h"
#include "packet.h"
#include "service.h"

static __always_inline __u32 flow_hash(const struct flow_key *t)
{
	__u64 a = (t->saddr.q[0] ^ t->daddr.q[0]) * 0x9e3779b97f4a7c15ULL;

	a ^= t->saddr.q[1] * 0xff51afd7ed558ccdULL + t->daddr.q[1];
	return mix(a ^ ((__u64)t->sport << 32 | (__u64)t->dport << 8 | t->proto) *
			       0xc4ceb9fe1a85ec53ULL);
}

/* Key of the flow's other direction. */
static __always_inline void flow_pair(struct flow_key *k, const struct flow *f, __u8 proto)
{
	*k = (struct flow_key){
		.saddr = f->daddr,
		.daddr = f->saddr,
		.sport = f->dport,
		.dport = f->sport,
		.proto = proto,
	};
}

/* Key of the packets that answer this one, if nothing is translated. */
static __always_inline void flow_answer_key(struct flow_key *k, const struct flow_key *t)
{
	*k = (struct flow_key){
		.saddr = t->daddr,
		.daddr = t->saddr,
		.sport = t->dport,
		.dport = t->sport,
		.proto = t->proto,
	};
}

static __always_inline bool flow_alive(const struct flow *f, __u8 proto, __u32 now)
{
	__u32 limit = timeout_other;

	if (f->flags & FLOW_CLOSING)
		limit = timeout_tcp_closing;
	else if (f->flags & FLOW_FIN)
		limit = timeout_tcp_fin;
	else if (proto == IPPROTO_TCP)
		limit = timeout_tcp;
	else if (proto == IPPROTO_UDP)
		limit = timeout_udp;
	else if (proto == IPPROTO_SCTP)
		limit = timeout_sctp;
	return service_idle(now, f->seen) <= limit;
}

/*
 * A SYN on a closed connection begins another one; so it does if the backend
 * went, which may have had no time to close. A way back has both FINs, if any,
 * in its one entry.
 */
static __always_inline bool flow_reused(const struct flow *f, __u8 tcp)
{
	const struct backend *b;

	if ((tcp & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		return false;
	if (f->flags & FLOW_RETURN)
		return f->flags & (FLOW_CLOSING | FLOW_FIN);
	if (f->flags & (FLOW_CLOSING | FLOW_REPLY))
		return f->flags & FLOW_CLOSING;
	b = service_backend(f->backend);
	return !b || b->service != f->service || b->flags & BACKEND_GONE;
}

/* Is f the other direction of the flow with key k? */
static __always_inline bool flow_answers(const struct flow *f, const struct flow_key *k)
{
	return f->sport == k->dport && f->dport == k->sport && addr_equal(&f->saddr, &k->daddr) &&
	       addr_equal(&f->daddr, &k->saddr);
}

/* Its other direction may have become a younger flow's: that one stays. */
static __always_inline void flow_forget(const struct flow_key *k, struct flow *f)
{
	struct flow_key pair;
	struct flow *other;

	flow_pair(&pair, f, k->proto);
	other = bpf_map_lookup_elem(&flows, &pair);
	if (other && flow_answers(other, k))
		bpf_map_delete_elem(&flows, &pair);
	other = bpf_map_lookup_elem(&flows_new, &pair);
	if (other && flow_answers(other, k))
		bpf_map_delete_elem(&flows_new, &pair);
	bpf_map_delete_elem(&flows, k);
	bpf_map_delete_elem(&flows_new, k);
}

/* The flow with this key if it lives; `confirmed` tells which map has it. */
static __always_inline struct flow *flow_find(const struct flow_key *k, __u8 tcp, __u32 now,
					      bool *confirmed)
{
	__u32 i = MOVE_FLOWS, *count = bpf_map_lookup_elem(&moved, &i), before;
	struct flow *f;

	if (!count)
		return NULL;
	before = *(volatile __u32 *)count;
	f = bpf_map_lookup_elem(&flows, k);
	*confirmed = f;
	if (f && flow_alive(f, k->proto, now) && !flow_reused(f, tcp))
		return f;
	if (!f) {
		f = bpf_map_lookup_elem(&flows_new, k);
		if (!f) {
			/* It may have moved behind our back, on another CPU. */
			if (*(volatile __u32 *)count == before)
				return NULL;
			f = bpf_map_lookup_elem(&flows, k);
			*confirmed = f;
			return f;
		}
		if (service_idle(now, f->seen) <= timeout_new && !flow_reused(f, tcp))
			return f;
	}
	flow_forget(k, f);
	return NULL;
}

static __always_inline struct flow *flow_other(const struct flow_key *pair, bool confirmed)
{
	return confirmed ? bpf_map_lookup_elem(&flows, pair) :
			   bpf_map_lookup_elem(&flows_new, pair);
}

/* flows has no room: the flow stays where it is. */
static __always_inline void flow_stays(void)
{
	__u32 i = MOVE_FULL, *full = bpf_map_lookup_elem(&moved, &i);

	if (full)
		__sync_fetch_and_add(full, 1);
}

/*
 * Moves both directions to flows. Without room they stay where they are. The
 * caller looks the entry up again: the old one may be another's at once.
 */
static __always_inline void flow_confirm(const struct flow_key *k, struct flow *f)
{
	__u32 i = MOVE_FLOWS, *count = bpf_map_lookup_elem(&moved, &i);
	struct flow_key pair;
	struct flow *other;

	if (!count)
		return;
	flow_pair(&pair, f, k->proto);
	other = bpf_map_lookup_elem(&flows_new, &pair);
	f->flags |= FLOW_ANSWERED;
	if (bpf_map_update_elem(&flows, k, f, BPF_ANY)) {
		flow_stays();
		return;
	}
	if (other) {
		other->flags |= FLOW_ANSWERED;
		if (bpf_map_update_elem(&flows, &pair, other, BPF_ANY)) {
			bpf_map_delete_elem(&flows, k);
			flow_stays();
			return;
		}
	}
	__sync_fetch_and_add(count, 1);
	bpf_map_delete_elem(&flows_new, k);
	if (other)
		bpf_map_delete_elem(&flows_new, &pair);
}

/* TCP's end: one FIN, the other's FIN, or one RST. */
static __always_inline void flow_close(struct flow *f, struct flow *other, __u8 tcp)
{
	f->flags |= tcp & TCP_RST ? FLOW_CLOSING : FLOW_FIN;
	if (!other)
		return;
	if (tcp & TCP_RST || other->flags & FLOW_FIN) {
		f->flags |= FLOW_CLOSING;
		other->flags |= FLOW_CLOSING;
	}
}

/* The LRU may have taken the reply's entry alone: no answer would find back. */
static __always_inline bool flow_is_torn(const struct flow_key *k, const struct flow *f, __u32 now)
{
	struct flow_key pair;

	if (f->flags & FLOW_REPLY || f->seen == now)
		return false;
	flow_pair(&pair, f, k->proto);
	return !bpf_map_lookup_elem(&flows_new, &pair) && !bpf_map_lookup_elem(&flows, &pair);
}

/*
 * Notes a packet with key k and its TCP flags on its flow. Returns whether the
 * flow is to be confirmed. The other direction is touched once a tick, and
 * when something happens, so that neither outlives the other.
 */
static __always_inline bool flow_note(const struct flow_key *k, struct flow *f, __u8 tcp, __u32 now,
				      bool confirmed, bool reply)
{
	bool end = tcp & (TCP_FIN | TCP_RST);
	struct flow *other = NULL;
	struct flow_key pair;

	if (!confirmed && k->proto != IPPROTO_TCP && reply)
		return true;
	if (!confirmed && !reply && f->flags & FLOW_ANSWERED && !(tcp & (TCP_SYN | TCP_RST)))
		return true;
	if (f->seen == now && !end && (confirmed || !reply || f->flags & FLOW_ANSWERED))
		return false;
	if (!(f->flags & FLOW_RETURN)) {
		flow_pair(&pair, f, k->proto);
		other = flow_other(&pair, confirmed);
	}
	f->seen = now;
	if (other)
		other->seen = now;
	if (reply && !confirmed) {
		f->flags |= FLOW_ANSWERED;
		if (other)
			other->flags |= FLOW_ANSWERED;
	}
	if (end)
		flow_close(f, other, tcp);
	return false;
}
