/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * All maps, in the order in which a packet meets them. Sizes here are for
 * tests; the loader sets them before it loads. The socket hooks and the tc
 * programs share all of them.
 */
#pragma once

#include <linux/bpf.h>

#include <bpf_helpers.h>

#include "flowtypes.h"
#include "types.h"

/*
 * 0 → what may change at run time. Written by the agent, read by all.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct config);
	__uint(max_entries, 1);
} config SEC(".maps");

/*
 * ifindex → role, MAC and addresses of a NIC that we manage. Written by the
 * agent, read at the uplinks. Size: NICs.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);
	__type(value, struct nic);
	__uint(max_entries, 64);
} nics SEC(".maps");

/*
 * {address, ifindex, MAC} → node. Written by the agent, read at the uplinks.
 * Size: nodes × NICs × addresses.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct peer_key);
	__type(value, struct peer);
	__uint(max_entries, 4096);
} peers SEC(".maps");

/*
 * {address, ifindex} → expiry of its announcement. Written by the agent;
 * read, and deleted at another node's claim, at the uplinks. Size: Service
 * addresses × NICs.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct announced_key);
	__type(value, struct announced);
	__uint(max_entries, 4096);
} announced SEC(".maps");

/*
 * Address of a local pod → its veth. Written by the agent (the programs set
 * ENDPOINT_CLIENT), read by all tc programs. Size: pods × families.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, union addr);
	__type(value, struct endpoint);
	__uint(max_entries, 4096);
} endpoints SEC(".maps");

/*
 * Tuple → the flow that it belongs to. Written by the tc programs: an entry
 * moves here from flows_new once packets went both ways; expired ones are
 * deleted by the agent and at look-up. Size: established flows × 2.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct flow_key);
	__type(value, struct flow);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} flows SEC(".maps");

/*
 * The same for flows that were not answered yet, so that a flood of first
 * packets evicts only its own kind. Written by the tc programs.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct flow_key);
	__type(value, struct flow);
	__uint(max_entries, 32768);
} flows_new SEC(".maps");

/*
 * enum move → what has moved. Written and read by the tc programs.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, __MOVE_MAX);
} moved SEC(".maps");

/*
 * {addresses, id, protocol} → ports of a first fragment. Written and read by
 * the tc programs.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
	__uint(max_entries, 1024);
} fragments SEC(".maps");

/*
 * {address, port, protocol, scope} → Service. Written by the agent, after the
 * Service's word; read by the socket hooks and all tc programs.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct frontend_key);
	__type(value, struct frontend);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} frontends SEC(".maps");

/* {ranges, prefix} → allowed. Written by the agent, read where a flow begins. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct range_key);
	__type(value, __u32);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} source_ranges SEC(".maps");

/*
 * Service → its word: where its slots begin, how many, generation. Written by
 * the agent with one atomic store each, read where a flow begins.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_MMAPABLE);
} services SEC(".maps");

/*
 * Slot → backend's index. Written by the agent before the words that name
 * them; freed slots rest before they are used again. Size: ports × families ×
 * 1,021 (to 10 backends), 4,093 (to 40) …, twice: 2,000 at the least.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 4194304);
	__uint(map_flags, BPF_F_MMAPABLE);
} slots SEC(".maps");

/*
 * Index → backend; index 0 is none. Written by the agent before the slots.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct backend);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_MMAPABLE);
} backends SEC(".maps");

/*
 * {client, Service} → backend that it sticks to. Written where a flow begins;
 * the agent deletes what names a backend that went.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct affinity_key);
	__type(value, struct affinity);
	__uint(max_entries, 16384);
} affinities SEC(".maps");

/*
 * Socket → its first UDP frontend and the backend it sticks to. Written and
 * read by the socket hooks; an entry ends with its socket.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__type(key, int);
	__type(value, struct sock_peer);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} sock_peers SEC(".maps");

/*
 * The same for a socket's further frontends: {socket, backend} → frontend, and
 * {socket, frontend} → backend. Written and read by the socket hooks.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct sock_key);
	__type(value, struct sock_flow);
	__uint(max_entries, 16384);
} sock_flows SEC(".maps");

/*
 * Prefix → what it is to this node, and the way there. Written by the agent,
 * read by all tc programs.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct route_key);
	__type(value, struct route);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} routes SEC(".maps");

/*
 * 0 → room for a flow's two entries, too large for the stack. Used within one
 * run of a tc program.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct scratch);
	__uint(max_entries, 1);
} scratches SEC(".maps");

/*
 * enum rate_kind → how often this CPU has done it in this period. Written and read
 * by the tc programs.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct rate);
	__uint(max_entries, __RATE_MAX);
} budgets SEC(".maps");

/*
 * Reason → packets and bytes dropped. Counted by drop(), read by the agent. Size:
 * reasons, with room for those that later versions add to a pinned map.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct drop_count);
	__uint(max_entries, 64);
} drops SEC(".maps");
