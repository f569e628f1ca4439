/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The packet's context, handed from stage to stage. */
#pragma once

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <linux/types.h>

#include <bpf_helpers.h>

#include "addr.h"
#include "maps.h"

/* Stages return 0 to go on, -DROP_*, or one of these. */
#define VERDICT_PASS 1
#define VERDICT_REDIRECT TC_ACT_REDIRECT

/*
 * skb->mark of packets that the programs have dealt with: what they redirected
 * (its tunnel key is set), and what they left to the stack after translation.
 * The bits that kube-proxy's and kubelet's rules use (0x4000, 0x8000) are free.
 */
#define PB_MARK 0x20540000
#define PB_MARK_MASK 0xffff0000
#define PB_MARK_SENT (PB_MARK | 1)
#define PB_MARK_STACK (PB_MARK | 2)

enum hook {
	HOOK_POD_IN = 1,
	HOOK_POD_OUT = 2,
	HOOK_UPLINK_IN = 3,
	HOOK_UPLINK_OUT = 4,
	HOOK_TUNNEL_IN = 5,
	HOOK_TUNNEL_OUT = 6,
};

enum pkt_flags {
	PKT_FRAGMENT = 1 << 0, /* a fragment */
	PKT_LATER = 1 << 1,    /* … but the first: no transport header */
	PKT_DF = 1 << 2,       /* may not be fragmented */
	PKT_ERROR = 1 << 3,    /* ICMP error */
	PKT_ECHO = 1 << 4,     /* ICMP echo request */
	PKT_PEER = 1 << 5,     /* came from a node of the cluster */
	PKT_CLUSTER = 1 << 6,  /* source is an address of the cluster, and it may be */
	PKT_KNOWN = 1 << 7,    /* source is outside, but knows pods' own addresses */
};

/* What is to be sent back for a packet that is dropped. */
enum answer {
	ANSWER_NONE = 0,
	ANSWER_REFUSE = 1,  /* TCP RST or ICMP port unreachable */
	ANSWER_TOO_BIG = 2, /* ICMP fragmentation needed or packet too big */
	ANSWER_NOBODY = 3,  /* ICMP host or address unreachable */
};

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

struct pkt {
	struct flow_key t; /* tuple as it came */
	union addr from;   /* HOOK_TUNNEL_IN: the node that sent it */
	__u32 ifindex;
	__u32 mtu;	   /* for ANSWER_TOO_BIG */
	__u16 l4;	   /* offset of the transport header */
	__u8 dmac[6];
	__u8 smac[6];
	__u8 family;	   /* 4 or 6 */
	__u8 hook;
	__u8 flags;	   /* enum pkt_flags */
	__u8 tcp;	   /* TCP flags; SCTP: INIT is a SYN, ABORT an RST */
	__u8 type;	   /* ICMP type */
	__u8 ttl;
	__u8 answer;	   /* enum answer */
	__u8 dest;	   /* enum route_kind of the destination */
	__u8 l4len;	   /* length of the transport header */
	__u8 client;	   /* from a pod that is a Service's client by packets */
};
_Static_assert(sizeof(struct pkt) == 88, "pkt");

/* A connection's first packet. UDP has none that could be told from others. */
static __always_inline int opens_connection(const struct pkt *p)
{
	return (p->tcp & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}
