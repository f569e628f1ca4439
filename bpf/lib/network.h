/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The parser's IP headers and fragments. One cursor; each step checks bounds,
 * advances and returns the next protocol or a negative drop reason.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include <bpf_endian.h>
#include <bpf_helpers.h>

#include "addr.h"
#include "maps.h"
#include "packet.h"

struct cursor {
	void *pos;
	void *end;
};

/* RFC 8200, 4.3, 4.4 and 4.6 begin alike. */
struct ext_hdr {
	__u8 nexthdr;
	__u8 len; /* in 8 bytes, without the first 8 */
	__u8 data[6];
};

#define EXTENSIONS_MAX 4

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

/* The IP packet's length, without a short frame's padding. */
static __always_inline __u32 ip_length(struct __sk_buff *skb, const struct pkt *p)
{
	__be16 len = 0;

	if (bpf_skb_load_bytes(skb, ETH_LEN + (p->family == 4 ? 2 : 4), &len, sizeof(len)))
		return 0;
	return bpf_ntohs(len) + (p->family == 4 ? 0 : sizeof(struct ipv6hdr));
}

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

/*
 * Steps over extension headers, so that none hides a port. More of them, or
 * longer ones, than any sender needs: malformed.
 */
static __always_inline int skip_extensions(struct cursor *c, struct pkt *p, int proto)
{
	for (int i = 0; i <= EXTENSIONS_MAX; i++) {
		struct ext_hdr *ext = c->pos;
		__u32 len;

		if (proto != IPPROTO_HOPOPTS && proto != IPPROTO_ROUTING &&
		    proto != IPPROTO_DSTOPTS)
			return proto;
		if ((void *)(ext + 1) > c->end)
			return -DROP_MALFORMED;
		len = (ext->len + 1) * 8;
		proto = ext->nexthdr;
		p->l4 += len;
		c->pos += len;
	}
	return -DROP_MALFORMED;
}

static __always_inline int parse_v6(struct cursor *c, struct pkt *p, __u32 *id)
{
	struct ipv6hdr *ip = c->pos;
	struct frag_hdr *frag;
	int proto;

	if ((void *)(ip + 1) > c->end || ip->version != 6)
		return -DROP_MALFORMED;
	p->family = 6;
	p->ttl = ip->hop_limit;
	p->l4 = ETH_LEN + sizeof(*ip);
	p->flags |= PKT_DF;
	__builtin_memcpy(&p->t.saddr, &ip->saddr, sizeof(p->t.saddr));
	__builtin_memcpy(&p->t.daddr, &ip->daddr, sizeof(p->t.daddr));
	if (addr_is_v4(&p->t.saddr) || addr_is_v4(&p->t.daddr))
		return -DROP_MALFORMED; /* would pass for IPv4's in the maps */
	proto = ip->nexthdr;
	c->pos += sizeof(*ip);
	proto = skip_extensions(c, p, proto);
	if (proto != IPPROTO_FRAGMENT)
		return proto;

	frag = c->pos;
	if ((void *)(frag + 1) > c->end)
		return -DROP_MALFORMED;
	p->l4 += sizeof(*frag);
	p->flags |= PKT_FRAGMENT;
	*id = frag->id;
	c->pos += sizeof(*frag);
	proto = frag->nexthdr;
	if (!(frag->offset & bpf_htons(0xfff8)))
		return skip_extensions(c, p, proto);
	p->flags |= PKT_LATER;
	return proto;
}
