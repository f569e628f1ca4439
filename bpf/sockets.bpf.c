// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Which UDP sockets the socket hooks have sent where, of all network namespaces:
 * for the agent, which ends those whose backend stopped. Loaded when it asks.
 */
#include <linux/bpf.h>

#include <bpf_helpers.h>

#include "lib/types.h"

char _license[] SEC("license") = "Dual BSD/GPL";

/* What the kernel calls an iterator over socket storage with; both structs begin so. */
struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__bpf_sk_storage_map {
	__bpf_md_ptr(struct bpf_iter_meta *, meta);
	__bpf_md_ptr(struct bpf_map *, map);
	__bpf_md_ptr(struct sock *, sk);
	__bpf_md_ptr(void *, value);
};

/* What is written of each socket. */
struct sock_entry {
	__u64 cookie;
	struct sock_peer peer;
};
_Static_assert(sizeof(struct sock_entry) == 56, "sock_entry");

/* Writes a struct sock_entry for each socket that is in use. */
SEC("iter/bpf_sk_storage_map")
int sock_list(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	const struct sock_peer *peer = ctx->value;
	struct sock_entry entry = {};

	if (!ctx->sk || !peer || !peer->backend_port)
		return 0;
	entry.cookie = bpf_get_socket_cookie(ctx->sk);
	entry.peer = *peer;
	bpf_seq_write(ctx->meta->seq, &entry, sizeof(entry));
	return 0;
}
