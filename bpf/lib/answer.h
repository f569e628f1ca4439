/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What we send back ourselves: TCP RST, ICMP unreachable, fragmentation needed
 * and packet too big, echo replies. The packet is turned into its answer and
 * leaves by where it came in.
 *
 * A packet from a pod or a VM may carry a partial checksum, that a device
 * would finish at a place which the answer doesn't have. Such packets come
 * from this machine and answers go back inside it, where nobody finishes it;
 * the helpers refuse to cut before that place, so quotes reach beyond it.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>

#include <bpf_helpers.h>

#include "checksum.h"
#include "config.h"
#include "icmp.h"
#include "maps.h"
#include "packet.h"
#include "parse.h"
#include "rate.h"
#include "send.h"
#include "service.h"

#define ANSWER_TTL 64

static __always_inline int send_back(struct __sk_buff *skb, const struct pkt *p)
{
	const struct config *cfg = settings();

	if (p->hook == HOOK_TUNNEL_IN)
		return cfg ? send_tunnel(skb, cfg, &p->from) : -DROP_BUG;
	skb->mark = PB_MARK_SENT;
	return bpf_redirect(p->ifindex, p->hook == HOOK_UPLINK_OUT ? BPF_F_INGRESS : 0);
}

struct eth_ip {
	__u8 pad[2];
	struct ethhdr eth;
	union {
		struct iphdr v4;
		struct ipv6hdr v6;
	};
};

/* Ethernet and IP headers from `from` back to the sender, len bytes behind. */
static __always_inline __u32 answer_headers(const struct pkt *p, struct eth_ip *h, __u16 len,
					    __u8 proto)
{
	__builtin_memcpy(h->eth.h_dest, p->smac, sizeof(p->smac));
	__builtin_memcpy(h->eth.h_source, p->dmac, sizeof(p->dmac));
	if (p->family == 4) {
		h->eth.h_proto = bpf_htons(ETH_P_IP);
		h->v4 = (struct iphdr){
			.version = 4,
			.ihl = 5,
			.tot_len = bpf_htons(sizeof(h->v4) + len),
			.frag_off = bpf_htons(IP_DF),
			.ttl = ANSWER_TTL,
			.protocol = proto,
			.saddr = p->t.daddr.w[3],
			.daddr = p->t.saddr.w[3],
		};
		h->v4.check = ~sum_fold16(sum_words(&h->v4, sizeof(h->v4) / 2));
		return ETH_LEN + sizeof(h->v4);
	}
	h->eth.h_proto = bpf_htons(ETH_P_IPV6);
	h->v6 = (struct ipv6hdr){
		.version = 6,
		.payload_len = bpf_htons(len),
		.nexthdr = proto,
		.hop_limit = ANSWER_TTL,
	};
	__builtin_memcpy(&h->v6.saddr, &p->t.daddr, sizeof(h->v6.saddr));
	__builtin_memcpy(&h->v6.daddr, &p->t.saddr, sizeof(h->v6.daddr));
	return ETH_LEN + sizeof(h->v6);
}

/* The pseudo header's sum. */
static __always_inline __u64 sum_pseudo(const struct pkt *p, __u16 len, __u8 proto)
{
	__u64 sum = bpf_htons(len) + bpf_htons(proto);

	if (p->family == 4)
		return sum + p->t.saddr.w[3] + p->t.daddr.w[3];
	return sum + sum_addr(&p->t.saddr) + sum_addr(&p->t.daddr);
}

/* RFC 9293, 3.10.7.1: a reset for a segment to a connection that isn't. */
__noinline int answer_reset(struct __sk_buff *skb, struct pkt *p)
{
	struct tcphdr tcp, rst = {};
	struct eth_ip h = {};
	__u32 off, seq;

	if (!p || bpf_skb_load_bytes(skb, p->l4, &tcp, sizeof(tcp)))
		return -DROP_BUG;
	rst.source = tcp.dest;
	rst.dest = tcp.source;
	rst.doff = sizeof(rst) / 4;
	rst.rst = 1;
	if (p->tcp & TCP_ACK) {
		rst.seq = tcp.ack_seq;
	} else {
		seq = ETH_LEN + ip_length(skb, p) - p->l4 - p->l4len + !!(p->tcp & TCP_SYN) +
		      !!(p->tcp & TCP_FIN);
		rst.ack_seq = bpf_htonl(bpf_ntohl(tcp.seq) + seq);
		rst.ack = 1;
	}
	rst.check = ~sum_fold16(sum_pseudo(p, sizeof(rst), IPPROTO_TCP) +
				sum_words(&rst, sizeof(rst) / 2));
	off = answer_headers(p, &h, sizeof(rst), IPPROTO_TCP);
	if (bpf_skb_change_tail(skb, off + sizeof(rst), 0) ||
	    bpf_skb_store_bytes(skb, 0, &h.eth, p->family == 4 ? 34 : 54, 0) ||
	    bpf_skb_store_bytes(skb, off, &rst, sizeof(rst), 0))
		return -DROP_REWRITE;
	return send_back(skb, p);
}

/*
 * How much an ICMP error quotes: up to the ports, of TCP its checksum too. The
 * rest of the buffer is zero and adds nothing to the sum.
 */
#define QUOTE_MAX(ip) (sizeof(ip) + 20)

static __always_inline __u64 quote_length(const struct pkt *p)
{
	__u64 len = (p->l4 - ETH_LEN + (p->t.proto == IPPROTO_TCP ? 20 : 8)) & 0x7f;

	/* Else clang 19 compares another register than 6.1 then sees used. */
	asm volatile("" : "+r"(len));
	return len;
}

__noinline int answer_icmp_v4(struct __sk_buff *skb, struct pkt *p, int code)
{
	struct icmp icmp = { .type = ICMP_UNREACHABLE, .code = code };
	__u8 quote[QUOTE_MAX(struct iphdr)] __attribute__((aligned(8))) = {};
	struct eth_ip h = {};
	__u64 sum, len;

	if (!p)
		return -DROP_BUG;
	len = quote_length(p);
	if (len < sizeof(struct iphdr) || len > sizeof(quote) ||
	    bpf_skb_load_bytes(skb, ETH_LEN, quote, len))
		return -DROP_REWRITE;
	if (code == ICMP_FRAG_NEEDED)
		icmp.frag.mtu = bpf_htons(p->mtu);
	sum = sum_words(&icmp, sizeof(icmp) / 2) + sum_words(quote, sizeof(quote) / 2);
	icmp.check = ~sum_fold16(sum);
	answer_headers(p, &h, sizeof(icmp) + len, IPPROTO_ICMP);
	if (bpf_skb_change_tail(skb, ETH_LEN + len, 0) ||
	    bpf_skb_change_head(skb, sizeof(h.v4) + sizeof(icmp), 0) ||
	    bpf_skb_store_bytes(skb, 0, &h.eth, ETH_LEN + sizeof(h.v4), 0) ||
	    bpf_skb_store_bytes(skb, ETH_LEN + sizeof(h.v4), &icmp, sizeof(icmp), 0))
		return -DROP_REWRITE;
	return send_back(skb, p);
}

__noinline int answer_icmp_v6(struct __sk_buff *skb, struct pkt *p, int type)
{
	struct icmp icmp = { .type = type };
	__u8 quote[QUOTE_MAX(struct ipv6hdr)] __attribute__((aligned(8))) = {};
	struct eth_ip h = {};
	__u64 sum, len;

	if (!p)
		return -DROP_BUG;
	len = quote_length(p);
	if (len < sizeof(struct iphdr) || len > sizeof(quote) ||
	    bpf_skb_load_bytes(skb, ETH_LEN, quote, len))
		return -DROP_REWRITE;
	if (type == ICMP6_TOO_BIG)
		icmp.mtu6 = bpf_htonl(p->mtu);
	else
		icmp.code = p->answer == ANSWER_NOBODY ? ICMP6_ADDRESS_UNREACHABLE :
							 ICMP6_PORT_UNREACHABLE;
	sum = sum_pseudo(p, sizeof(icmp) + len, IPPROTO_ICMPV6) +
	      sum_words(&icmp, sizeof(icmp) / 2) + sum_words(quote, sizeof(quote) / 2);
	icmp.check = ~sum_fold16(sum);
	answer_headers(p, &h, sizeof(icmp) + len, IPPROTO_ICMPV6);
	if (bpf_skb_change_tail(skb, ETH_LEN + len, 0) ||
	    bpf_skb_change_head(skb, sizeof(h.v6) + sizeof(icmp), 0) ||
	    bpf_skb_store_bytes(skb, 0, &h.eth, ETH_LEN + sizeof(h.v6), 0) ||
	    bpf_skb_store_bytes(skb, ETH_LEN + sizeof(h.v6), &icmp, sizeof(icmp), 0))
		return -DROP_REWRITE;
	return send_back(skb, p);
}

/* What the sender of a dropped packet is told; -1: nothing. */
__noinline int answer(struct __sk_buff *skb, struct pkt *p)
{
	int v4 = p && p->family == 4;
	__u32 plain = ETH_LEN + (v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));

	if (!p || p->flags & (PKT_LATER | PKT_ERROR) || p->tcp & TCP_RST || !within_rate(RATE_ANSWERS, reject_rate, TICK_SHIFT))
		return -1;
	if (p->answer == ANSWER_TOO_BIG && !v4 && p->flags & PKT_FRAGMENT)
		plain += sizeof(struct frag_hdr);
	if (p->l4 != plain)
		return -1; /* options, extension headers */
	switch (p->answer) {
	case ANSWER_TOO_BIG:
		return v4 ? answer_icmp_v4(skb, p, ICMP_FRAG_NEEDED) :
			    answer_icmp_v6(skb, p, ICMP6_TOO_BIG);
	case ANSWER_NOBODY:
		return v4 ? answer_icmp_v4(skb, p, ICMP_HOST_UNREACHABLE) :
			    answer_icmp_v6(skb, p, ICMP6_UNREACHABLE);
	}
	if (p->t.proto == IPPROTO_TCP)
		return answer_reset(skb, p);
	if (p->t.proto == IPPROTO_ICMP || p->t.proto == IPPROTO_ICMPV6)
		return -1;
	return v4 ? answer_icmp_v4(skb, p, ICMP_PORT_UNREACHABLE) :
		    answer_icmp_v6(skb, p, ICMP6_UNREACHABLE);
}
