/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Keys and values of flows and flows_new. */
#pragma once

#include "types.h"

/* A flow's tuple, as the packet that it is looked up for has it. */
struct flow_key {
	union addr saddr;
	union addr daddr;
	__be16 sport; /* ICMP echo: the identifier, in both */
	__be16 dport;
	__u8 proto;
	__u8 pad[3];
};
_Static_assert(sizeof(struct flow_key) == 40, "flow_key");

/* How a flow's packets go on after translation. */
enum flow_way {
	WAY_STACK = 0,	/* to the node's own stack */
	WAY_POD = 1,	/* ifindex of the pod's host end, MACs */
	WAY_FRAME = 2,	/* out of a NIC, MACs as they stand here */
	WAY_NEIGH = 3,	/* out of a NIC, to the neighbour `hop` */
	WAY_TUNNEL = 4, /* through the tunnel, to the node `hop` */
	WAY_HOST = 5,	/* to the node's own stack, as if in by the NIC ifindex, MACs */
};

enum flow_flags {
	FLOW_REPLY = 1 << 0,   /* this entry is for the reply's direction */
	FLOW_RETURN = 1 << 1,  /* keeps the way back only, translates nothing */
	FLOW_PEER = 1 << 2,    /* from a NIC its packets come in nodes' frames alone */
	FLOW_ANSWERED = 1 << 3, /* packets were seen both ways */
	FLOW_FIN = 1 << 4,     /* TCP: this direction has said FIN */
	FLOW_CLOSING = 1 << 5, /* TCP: both have, or one RST */
	FLOW_APART = 1 << 6,   /* only for packets of the node that `from` says */
};

/*
 * One direction of a flow. Its other direction's key is the translated tuple,
 * swapped; so the two entries need no reference to each other.
 */
struct flow {
	union addr saddr; /* the tuple after translation */
	union addr daddr;
	union addr hop;	  /* WAY_NEIGH: next hop; WAY_TUNNEL: the node */
	__be16 sport;
	__be16 dport;
	__u32 seen;	  /* ticks, of either direction, refreshed at most once a tick */
	__u32 ifindex;	  /* all but WAY_STACK, WAY_TUNNEL */
	__u32 backend;	  /* index in backends; 0: none (FLOW_RETURN) */
	__u32 service;	  /* index in services; FLOW_RETURN: when its way began, ticks */
	__u8 dmac[6];	  /* WAY_POD, WAY_FRAME, WAY_HOST */
	__u8 smac[6];
	__u8 way;	  /* enum flow_way */
	__u8 flags;	  /* enum flow_flags */
	__u8 from[6];	  /* whose frames brought it, for flows from a NIC */
};
_Static_assert(sizeof(struct flow) == 88, "flow");

/* moved. */
enum move {
	/* How many flows moved from flows_new to flows: who finds one in neither looks again. */
	MOVE_FLOWS = 0,
	/* When an address came to a node, as its claim says (ticks). */
	MOVE_CLAIMED = 1,
	/* How often a flow found no room in flows. */
	MOVE_FULL = 2,
	__MOVE_MAX = 3,
};

/* fragments: a first fragment's ports, for those that follow it. */
struct fragment_key {
	union addr saddr;
	union addr daddr;
	__be32 id;
	__u8 proto;
	__u8 pad[3];
};
_Static_assert(sizeof(struct fragment_key) == 40, "fragment_key");

struct fragment {
	__be16 sport;
	__be16 dport;
};
_Static_assert(sizeof(struct fragment) == 4, "fragment");

/* scratch: where a flow's two entries are put together. */
struct scratch {
	struct flow forward;
	struct flow reply;
};
_Static_assert(sizeof(struct scratch) == 176, "scratch");

/* budgets. */
enum rate_kind {
	RATE_ANSWERS = 0, /* RST and ICMP that we make */
	RATE_FLOWS = 1,	  /* flows that begin */
	__RATE_MAX = 2,
};

/* What a CPU has done in this period. */
struct rate {
	__u32 tick; /* the period */
	__u32 sent;
};
_Static_assert(sizeof(struct rate) == 8, "rate");
