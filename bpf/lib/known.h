/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Stages for packets of flows that exist, and for ICMP errors about them. */
#pragma once

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <stdbool.h>

#include <bpf_helpers.h>

#include "begin.h"
#include "checksum.h"
#include "flow.h"
#include "packet.h"
#include "route.h"
#include "send.h"

/* Answers go where the latest packet came from: a client's router may change. */
static __always_inline void follow_sender(const struct pkt *p, struct flow *f, bool confirmed)
{
	struct flow *other;
	struct flow_key k;

	if (p->hook != HOOK_UPLINK_IN || f->flags & FLOW_REPLY || mac_equal(f->from, p->smac))
		return;
	flow_pair(&k, f, p->t.proto);
	other = flow_other(&k, confirmed);
	if (other && !way_back(p, other))
		__builtin_memcpy(f->from, p->smac, sizeof(f->from));
}

/* Is the packet of the node that the flow is apart for? */
static __always_inline bool flow_fits(const struct pkt *p, const struct flow *f)
{
	__u8 from[6];

	if (!(f->flags & FLOW_APART))
		return true;
	sender_of(p, from);
	return mac_equal(f->from, from);
}

/* A known flow's packet is translated and sent as its entry says. */
__noinline int known_flow(struct __sk_buff *skb, struct pkt *p)
{
	__u32 now = service_ticks();
	struct flow_key k;
	struct flow *f;
	bool confirmed;

	if (!p)
		return -DROP_BUG;
	k = p->t;
	f = flow_find(&k, p->tcp, now, &confirmed);
	if (!f || !flow_fits(p, f))
		return 0;
	if (f->flags & FLOW_PEER && !from_peer(p))
		return -DROP_FORGED_SOURCE;
	if (!confirmed && flow_is_torn(&k, f, now)) {
		bpf_map_delete_elem(&flows_new, &k);
		return 0;
	}
	if (flow_note(&k, f, p->tcp, now, confirmed, f->flags & FLOW_REPLY)) {
		flow_confirm(&k, f);
		f = flow_find(&k, p->tcp, now, &confirmed);
		if (!f)
			return -DROP_BUG;
		if (confirmed)
			flow_note(&k, f, p->tcp, now, true, f->flags & FLOW_REPLY);
	}
	follow_sender(p, f, confirmed);
	return send(skb, p, f);
}

/* The quoted packet's tuple, turned round: that of packets going our way. */
static __always_inline int quoted_v4(struct __sk_buff *skb, __u32 off, struct flow_key *k,
				     struct iphdr *ip)
{
	__be16 ports[2];
	__u32 len;

	if (bpf_skb_load_bytes(skb, off, ip, sizeof(*ip)) ||
	    ip->frag_off & bpf_htons(IP_OFFSET))
		return -DROP_MALFORMED;
	len = ip->ihl * 4;
	if (bpf_skb_load_bytes(skb, off + len, ports, sizeof(ports)))
		return -DROP_MALFORMED;
	addr_from_v4(&k->saddr, ip->daddr);
	addr_from_v4(&k->daddr, ip->saddr);
	k->sport = ports[1];
	k->dport = ports[0];
	k->proto = ip->protocol;
	return len;
}

static __always_inline int quoted_v6(struct __sk_buff *skb, __u32 off, struct flow_key *k,
				     struct ipv6hdr *ip)
{
	__u32 len = sizeof(*ip);
	struct frag_hdr frag;
	__be16 ports[2];

	if (bpf_skb_load_bytes(skb, off, ip, sizeof(*ip)))
		return -DROP_MALFORMED;
	k->proto = ip->nexthdr;
	if (ip->nexthdr == IPPROTO_FRAGMENT) {
		if (bpf_skb_load_bytes(skb, off + len, &frag, sizeof(frag)) ||
		    frag.offset & bpf_htons(0xfff8))
			return -DROP_MALFORMED;
		k->proto = frag.nexthdr;
		len += sizeof(frag);
	}
	if (bpf_skb_load_bytes(skb, off + len, ports, sizeof(ports)))
		return -DROP_MALFORMED;
	__builtin_memcpy(&k->saddr, &ip->daddr, sizeof(k->saddr));
	__builtin_memcpy(&k->daddr, &ip->saddr, sizeof(k->daddr));
	k->sport = ports[1];
	k->dport = ports[0];
	return len;
}

/*
 * The quoted packet becomes what its sender sent, and the ICMP checksum covers
 * that. The quoted transport checksum, if there, stays: nobody verifies it.
 */
static __always_inline int requote(struct __sk_buff *skb, const struct pkt *p,
				   const struct flow_key *k, const struct flow *f, __u32 len,
				   struct iphdr *ip4, struct ipv6hdr *ip6)
{
	__be16 ports[2] = { f->dport, f->sport };
	__u32 off = p->l4 + 8;
	__be16 check;
	__u64 diff;
	int err;

	diff = sum_addr_diff(&k->saddr, &f->saddr) + sum_addr_diff(&k->daddr, &f->daddr);
	if (p->family == 4) {
		check = ip4->check;
		ip4->check = sum_replace(check, diff);
		ip4->saddr = f->daddr.w[3];
		ip4->daddr = f->saddr.w[3];
		diff += sum_diff16(check, ip4->check);
		err = bpf_skb_store_bytes(skb, off, ip4, sizeof(*ip4), 0);
	} else {
		__builtin_memcpy(&ip6->saddr, &f->daddr, sizeof(ip6->saddr));
		__builtin_memcpy(&ip6->daddr, &f->saddr, sizeof(ip6->daddr));
		err = bpf_skb_store_bytes(skb, off, ip6, sizeof(*ip6), 0);
	}
	diff += sum_diff16(k->sport, f->sport) + sum_diff16(k->dport, f->dport);
	if (err || bpf_skb_store_bytes(skb, off + len, ports, sizeof(ports), 0) ||
	    bpf_l4_csum_replace(skb, p->l4 + 2, 0, sum_fold32(diff), 0))
		return -DROP_REWRITE;
	return 0;
}

/*
 * Translates what the ICMP error quotes and leaves in scratch where it goes.
 * On the way to a client its source is what the client knows. VERDICT_PASS: no
 * flow of ours.
 */
__noinline int translate_error(struct __sk_buff *skb, struct pkt *p)
{
	__u32 zero = 0, now = service_ticks();
	struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);
	struct flow_key k = {};
	struct ipv6hdr ip6;
	struct iphdr ip4;
	bool confirmed;
	struct flow *f;
	int len, ret;

	if (!p || !s)
		return -DROP_BUG;
	len = p->family == 4 ? quoted_v4(skb, p->l4 + 8, &k, &ip4) :
			       quoted_v6(skb, p->l4 + 8, &k, &ip6);
	if (len < 0)
		return VERDICT_PASS; /* the stack judges it */
	f = flow_find(&k, 0, now, &confirmed);
	if (!f)
		return VERDICT_PASS;
	if (f->flags & FLOW_PEER && !from_peer(p))
		return -DROP_FORGED_SOURCE;
	s->forward = *f;
	s->forward.sport = p->t.sport;
	s->forward.dport = p->t.dport;
	if (f->flags & FLOW_RETURN) {
		s->forward.saddr = p->t.saddr;
		return 0;
	}
	if (!addr_equal(&p->t.saddr, &k.saddr) && !(f->flags & FLOW_REPLY))
		s->forward.saddr = p->t.saddr;
	ret = requote(skb, p, &k, f, len, &ip4, &ip6);
	return ret;
}

/* An ICMP error goes to the sender of what it quotes, by that flow's way. */
__noinline int known_error(struct __sk_buff *skb, struct pkt *p)
{
	struct scratch *s;
	__u32 zero = 0;
	int ret;

	if (!p)
		return -DROP_BUG;
	if (!(p->flags & PKT_ERROR))
		return 0;
	s = bpf_map_lookup_elem(&scratches, &zero);
	if (!s)
		return -DROP_BUG;
	ret = translate_error(skb, p);
	if (ret)
		return ret == VERDICT_PASS ? 0 : ret;
	return send(skb, p, &s->forward);
}
