/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The parser: Ethernet and transport headers, and the whole. */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <bpf_endian.h>
#include <bpf_helpers.h>

#include "addr.h"
#include "icmp.h"
#include "maps.h"
#include "network.h"
#include "packet.h"

static __always_inline int parse_icmp(struct cursor *c, struct pkt *p)
{
	struct icmp *icmp = c->pos; /* ICMPv6's starts the same */
	int v4 = p->t.proto == IPPROTO_ICMP;

	if ((void *)(icmp + 1) > c->end)
		return -DROP_MALFORMED;
	p->type = icmp->type;
	if (icmp->type == (v4 ? ICMP_ECHO : ICMP6_ECHO))
		p->flags |= PKT_ECHO;
	else if (v4 ? icmp->type == ICMP_UNREACHABLE || icmp->type == ICMP_TIME_EXCEEDED ||
			      icmp->type == ICMP_PARAMETER
		    : icmp->type < ICMP6_INFORMATIONAL)
		p->flags |= PKT_ERROR;
	if (p->flags & PKT_ECHO || icmp->type == (v4 ? ICMP_ECHO_REPLY : ICMP6_ECHO_REPLY))
		p->t.sport = p->t.dport = icmp->echo.id;
	return 0;
}

/* RFC 9260, 3.1 and 3.2: the common header and its first chunk. */
struct sctp {
	__be16 sport;
	__be16 dport;
	__be32 tag;
	__le32 check;
};

#define SCTP_ABORT 6
#define SCTP_SHUTDOWN_COMPLETE 14

/* An INIT alone has no tag, and comes alone. */
static __always_inline int parse_sctp(struct cursor *c, struct pkt *p)
{
	struct sctp *sctp = c->pos;
	__u8 *chunk = (void *)(sctp + 1);

	if ((void *)(sctp + 1) > c->end)
		return -DROP_MALFORMED;
	p->l4len = sizeof(*sctp);
	if (!sctp->tag)
		p->tcp = TCP_SYN;
	else if ((void *)(chunk + 1) <= c->end &&
		 (*chunk == SCTP_ABORT || *chunk == SCTP_SHUTDOWN_COMPLETE))
		p->tcp = TCP_RST;
	return 0;
}

static __always_inline int parse_transport(struct cursor *c, struct pkt *p)
{
	struct tcphdr *tcp = c->pos;
	__be16 *ports = c->pos;

	switch (p->t.proto) {
	case IPPROTO_TCP:
		if ((void *)(tcp + 1) > c->end)
			return -DROP_MALFORMED;
		p->tcp = ((__u8 *)tcp)[13];
		p->l4len = tcp->doff * 4;
		break;
	case IPPROTO_SCTP:
		if (parse_sctp(c, p))
			return -DROP_MALFORMED;
		break;
	case IPPROTO_UDP:
		if (c->pos + sizeof(struct udphdr) > c->end)
			return -DROP_MALFORMED;
		p->l4len = sizeof(struct udphdr);
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return parse_icmp(c, p);
	default:
		return 0;
	}
	p->t.sport = ports[0];
	p->t.dport = ports[1];
	return 0;
}

static __always_inline int parse_headers(struct __sk_buff *skb, struct pkt *p)
{
	struct cursor c = {
		.pos = (void *)(long)skb->data,
		.end = (void *)(long)skb->data_end,
	};
	struct ethhdr *eth = c.pos;
	__u32 id = 0;
	int proto, ret;

	if ((void *)(eth + 1) > c.end)
		return VERDICT_PASS;
	__builtin_memcpy(p->dmac, eth->h_dest, sizeof(p->dmac));
	__builtin_memcpy(p->smac, eth->h_source, sizeof(p->smac));
	p->ifindex = skb->ifindex;
	p->flags = 0;
	c.pos = eth + 1;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		proto = parse_v4(&c, p, &id);
	else if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		proto = parse_v6(&c, p, &id);
	else
		return VERDICT_PASS;
	if (proto < 0)
		return proto;
	p->t.proto = proto;
	if (!(p->flags & PKT_LATER)) {
		ret = parse_transport(&c, p);
		if (ret)
			return ret;
	}
	if (p->flags & PKT_FRAGMENT)
		track_fragment(p, id);
	return 0;
}

/*
 * A tag of VLAN 0 is a priority: the stack takes such a frame as untagged, and
 * looks behind a second tag too. Other VLANs are their own devices' business.
 */
static __always_inline int untag(struct __sk_buff *skb)
{
	if (!skb->vlan_present)
		return 0;
	if (skb->vlan_tci & 0xfff)
		return VERDICT_PASS;
	if (bpf_skb_vlan_pop(skb))
		return -DROP_REWRITE;
	return skb->vlan_present ? -DROP_MALFORMED : 0;
}

/*
 * Fills p. VERDICT_PASS for what isn't IP in plain Ethernet. Headers may lie
 * outside the linear part: then they are fetched and read again.
 */
__noinline int parse(struct __sk_buff *skb, struct pkt *p)
{
	__u32 linear, want;
	int ret;

	if (!p)
		return -DROP_BUG;
	ret = untag(skb);
	if (ret)
		return ret;
	linear = skb->data_end - skb->data;
	want = skb->len < HEADERS_MAX ? skb->len : HEADERS_MAX;
	ret = parse_headers(skb, p);
	if (ret != -DROP_MALFORMED || linear >= want)
		return ret;
	if (bpf_skb_pull_data(skb, want))
		return -DROP_MALFORMED;
	return parse_headers(skb, p);
}
