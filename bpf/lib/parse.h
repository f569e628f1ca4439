/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The parser: one cursor; each step checks bounds, advances and returns the
 * next protocol or a negative drop reason.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include <bpf_endian.h>
#include <bpf_helpers.h>

#include "addr.h"
#include "icmp.h"
#include "maps.h"
#include "packet.h"

struct cursor {
	void *pos;
	void *end;
};

struct frag_hdr {
	__u8 nexthdr;
	__u8 reserved;
	__be16 offset;
	__be32 id;
};

#define ETH_LEN ((__u32)sizeof(struct ethhdr))
#define IP_MF 0x2000
#define IP_DF 0x4000
#define IP_OFFSET 0x1fff

/* Headers of the largest kind that we look at: options in IP and TCP. */
#define HEADERS_MAX (ETH_LEN + 60 + 60)

/*
 * A first fragment leaves its ports for the later ones, which take them. Later
 * ones that came before stay without.
 */
static __always_inline void track_fragment(struct pkt *p, __u32 id)
{
	struct fragment_key k = {
		.saddr = p->t.saddr,
		.daddr = p->t.daddr,
		.id = id,
		.proto = p->t.proto,
	};
	struct fragment v, *found;

	if (p->flags & PKT_LATER) {
		found = bpf_map_lookup_elem(&fragments, &k);
		if (found) {
			p->t.sport = found->sport;
			p->t.dport = found->dport;
		}
		return;
	}
	v.sport = p->t.sport;
	v.dport = p->t.dport;
	bpf_map_update_elem(&fragments, &k, &v, BPF_ANY);
}

static __always_inline int parse_v4(struct cursor *c, struct pkt *p, __u32 *id)
{
	struct iphdr *ip = c->pos;
	__u16 frag;
	__u32 len;

	if ((void *)(ip + 1) > c->end || ip->version != 4 || ip->ihl < 5)
		return -DROP_MALFORMED;
	len = ip->ihl * 4;
	if (c->pos + len > c->end)
		return -DROP_MALFORMED;
	p->family = 4;
	p->ttl = ip->ttl;
	p->l4 = ETH_LEN + len;
	addr_from_v4(&p->t.saddr, ip->saddr);
	addr_from_v4(&p->t.daddr, ip->daddr);
	frag = bpf_ntohs(ip->frag_off);
	if (frag & IP_DF)
		p->flags |= PKT_DF;
	if (frag & (IP_MF | IP_OFFSET))
		p->flags |= PKT_FRAGMENT;
	if (frag & IP_OFFSET)
		p->flags |= PKT_LATER;
	*id = ip->id;
	c->pos += len;
	return ip->protocol;
}

/* Of the extension headers only the fragment's, right behind, is known. */
static __always_inline int parse_v6(struct cursor *c, struct pkt *p, __u32 *id)
{
	struct ipv6hdr *ip = c->pos;
	struct frag_hdr *frag;

	if ((void *)(ip + 1) > c->end || ip->version != 6)
		return -DROP_MALFORMED;
	p->family = 6;
	p->ttl = ip->hop_limit;
	p->l4 = ETH_LEN + sizeof(*ip);
	p->flags |= PKT_DF;
	__builtin_memcpy(&p->t.saddr, &ip->saddr, sizeof(p->t.saddr));
	__builtin_memcpy(&p->t.daddr, &ip->daddr, sizeof(p->t.daddr));
	c->pos += sizeof(*ip);
	if (ip->nexthdr != IPPROTO_FRAGMENT)
		return ip->nexthdr;

	frag = c->pos;
	if ((void *)(frag + 1) > c->end)
		return -DROP_MALFORMED;
	p->l4 += sizeof(*frag);
	p->flags |= PKT_FRAGMENT;
	if (frag->offset & bpf_htons(0xfff8))
		p->flags |= PKT_LATER;
	*id = frag->id;
	c->pos += sizeof(*frag);
	return frag->nexthdr;
}

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
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
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
 * Fills p. VERDICT_PASS for what isn't IP in plain Ethernet. Headers may lie
 * outside the linear part: then they are fetched and read again.
 */
__noinline int parse(struct __sk_buff *skb, struct pkt *p)
{
	__u32 linear, want;
	int ret;

	if (!p)
		return -DROP_BUG;
	if (skb->vlan_present)
		return VERDICT_PASS;
	linear = skb->data_end - skb->data;
	want = skb->len < HEADERS_MAX ? skb->len : HEADERS_MAX;
	ret = parse_headers(skb, p);
	if (ret != -DROP_MALFORMED || linear >= want)
		return ret;
	if (bpf_skb_pull_data(skb, want))
		return -DROP_MALFORMED;
	return parse_headers(skb, p);
}
