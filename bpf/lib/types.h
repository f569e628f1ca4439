/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the programs and the agent share: keys and values of the maps, flags
 * and reasons. Fixed widths, wire order where marked __be, no hidden padding.
 * Go's types are generated from here (bpf2go), so there is no second list.
 */
#pragma once

#include <linux/types.h>

#include "reasons.h"

/* An IPv6 address, or an IPv4 one as ::ffff:a.b.c.d. */
union addr {
	__u8 b[16];
	__be32 w[4];
	__u64 q[2];
};
_Static_assert(sizeof(union addr) == 16, "addr");

/* Where a packet asks from: a frontend may answer differently. */
enum scope {
	SCOPE_CLUSTER = 0,  /* pods and host processes */
	SCOPE_EXTERNAL = 1, /* in from a NIC, not from the cluster */
};

/* Role of a NIC; also bits, for what NodePorts are open on. */
enum nic_role {
	NIC_INTERNAL = 1,
	NIC_EXTERNAL = 2,
};

/*
 * frontends. Besides each frontend there is one entry per address and scope
 * with port 0 and protocol 0, flag FE_ADDRESS: "this address is a Service's".
 */
struct frontend_key {
	union addr addr;
	__be16 port;
	__u8 proto;
	__u8 scope; /* enum scope */
	__u8 pad[4];
};
_Static_assert(sizeof(struct frontend_key) == 24, "frontend_key");

enum frontend_flags {
	FE_ADDRESS = 1 << 0,	/* stands for the address alone */
	FE_SOCKET = 1 << 1,	/* may be translated in connect() and sendmsg() */
	FE_REJECT = 1 << 2,	/* without backends: refuse loudly (else drop) */
	FE_NODEPORT = 1 << 3,	/* open on the NICs of nic_roles only */
	FE_PACKET = 1 << 4,	/* UDP: a backend for each packet, not each flow */
};

struct frontend {
	__u32 service;	  /* index in services */
	__u32 affinity;	  /* seconds; 0: none */
	__u32 ranges;	  /* id in source_ranges; 0: everybody */
	__u16 flags;	  /* enum frontend_flags */
	__u8 nic_roles;	  /* bits of enum nic_role, for FE_NODEPORT */
	__u8 pad;
};
_Static_assert(sizeof(struct frontend) == 16, "frontend");

/* One Service, written and read as one aligned word. */
#define SERVICE_BASE(word) ((__u32)(word))
#define SERVICE_COUNT(word) ((__u16)((word) >> 32))
#define SERVICE_GENERATION(word) ((__u16)((word) >> 48))

enum backend_flags {
	BACKEND_LOCAL = 1 << 0, /* on this node */
	BACKEND_GONE = 1 << 1,	/* left its Service: nothing new sticks to it */
	BACKEND_KEPT = 1 << 2,	/* … but serves on: UDP sockets stay with it */
};

/*
 * A backend belongs to one Service, so that whoever remembers an index sees
 * whether it still does: another `service`, or none, and it doesn't.
 */
struct backend {
	union addr addr;
	__be16 port; /* 0: no backend */
	__u8 proto;
	__u8 flags;	/* enum backend_flags */
	__u32 service; /* index in services */
};
_Static_assert(sizeof(struct backend) == 24, "backend");

/* source_ranges: prefixlen = 32 + bits of the prefix. */
struct range_key {
	__u32 prefixlen;
	__u32 ranges;
	__u8 addr[16];
};
_Static_assert(sizeof(struct range_key) == 24, "range_key");

struct affinity_key {
	union addr client;
	__u32 service;
	__u32 pad;
};
_Static_assert(sizeof(struct affinity_key) == 24, "affinity_key");

struct affinity {
	__u32 backend;
	__u32 seen; /* ticks */
};
_Static_assert(sizeof(struct affinity) == 8, "affinity");

enum endpoint_flags {
	/*
	 * The programs set it when they translate for a pod as client, so that
	 * packets to pods that never had that need no look at the flows. The
	 * agent keeps it when it writes an endpoint again.
	 */
	ENDPOINT_CLIENT = 1 << 0,
};

/* endpoints: key union addr, one entry for each address of a local pod. */
struct endpoint {
	__u32 ifindex; /* host end of its veth */
	__u32 policy;  /* 0: all allowed */
	__u32 flags;   /* enum endpoint_flags */
	__u8 mac[6];	  /* the pod's end */
	__u8 host_mac[6]; /* the host's end */
};
_Static_assert(sizeof(struct endpoint) == 24, "endpoint");

/* nics: key __u32 ifindex. */
struct nic {
	union addr v4; /* an address of the node there; 0: none */
	union addr v6;
	__u32 mtu;
	__u8 mac[6];
	__u8 role; /* enum nic_role */
	__u8 pad[5];
};
_Static_assert(sizeof(struct nic) == 48, "nic");

struct route_key {
	__u32 prefixlen; /* of the 128-bit address: 96 + n for IPv4 */
	__u8 addr[16];
};
_Static_assert(sizeof(struct route_key) == 20, "route_key");

/* What an address is to this node; longest prefix wins. */
enum route_kind {
	ROUTE_NONE = 0,		  /* same as no entry: outside */
	ROUTE_LOCAL_PODS = 1,	  /* pods of this node */
	ROUTE_NATIVE = 2,	  /* pods of a node on our L2: hop, ifindex */
	ROUTE_TUNNEL = 3,	  /* pods of a node behind the tunnel: hop is the node */
	ROUTE_SERVICE = 4,	  /* a Service range */
	ROUTE_CLUSTER = 5,	  /* another node's own address; hop and ifindex if on our L2 */
	ROUTE_UNMASQUERADED = 6,  /* outside, told pods' own addresses */
	ROUTE_SELF = 7,		  /* this node's own address */
	ROUTE_PODS = 8,		  /* in the pods' ranges, but no node's yet */
};

struct route {
	union addr hop;
	__u32 ifindex;
	__u32 mtu;  /* largest IP packet that goes through; 0: not known */
	__u8 kind; /* enum route_kind */
	__u8 pad[7];
};
_Static_assert(sizeof(struct route) == 32, "route");

/*
 * Whose frames are a node's: each peer has two entries, one with its address
 * (tunnel packets) and one with address zero (everything else). MAC zero: any,
 * for a node behind a router, tunnel packets only.
 */
struct peer_key {
	union addr addr;
	__u32 ifindex;
	__u8 mac[6];
	__u8 pad[6];
};
_Static_assert(sizeof(struct peer_key) == 32, "peer_key");

struct peer {
	union addr node; /* the address its tunnel packets come from */
};
_Static_assert(sizeof(struct peer) == 16, "peer");

struct announced_key {
	union addr addr;
	__u32 ifindex;
	__u32 pad;
};
_Static_assert(sizeof(struct announced_key) == 24, "announced_key");

struct announced {
	__u64 expires; /* CLOCK_MONOTONIC, ns; 0: never */
};
_Static_assert(sizeof(struct announced) == 8, "announced");

/* sock_peers: a UDP socket's first frontend and the backend it sticks to. */
struct sock_peer {
	union addr frontend;
	union addr backend;
	__be16 frontend_port; /* 0: unused */
	__be16 backend_port;
	__u32 id;   /* index in backends */
	__u32 seen; /* ticks */
	__u32 service; /* index in services when it was chosen */
};
_Static_assert(sizeof(struct sock_peer) == 48, "sock_peer");

/* sock_flows. */
enum sock_kind {
	SOCK_BACKEND = 0,  /* address is a backend's; value: the frontend asked for */
	SOCK_FRONTEND = 1, /* address is a frontend's; value: the backend it sticks to */
};

struct sock_key {
	__u64 cookie;
	union addr addr;
	__be16 port;
	__u8 kind; /* enum sock_kind */
	__u8 pad[5];
};
_Static_assert(sizeof(struct sock_key) == 32, "sock_key");

struct sock_flow {
	union addr addr;
	__be16 port;
	__u8 pad[2];
	__u32 id;   /* index in backends */
	__u32 seen; /* ticks */
	__u32 service; /* as in sock_peer */
};
_Static_assert(sizeof(struct sock_flow) == 32, "sock_flow");

struct drop_count {
	__u64 packets;
	__u64 bytes;
};
_Static_assert(sizeof(struct drop_count) == 16, "drop_count");

/* config: what may change at run time. */
struct config {
	__u32 tunnel_ifindex; /* 0: no tunnel */
	__u32 tunnel_mtu;     /* largest inner IP packet */
	__u32 tunnel_vni;
	__be16 tunnel_port;
	__u8 pad[2];
};
_Static_assert(sizeof(struct config) == 16, "config");
