// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * cgroup hooks of socket calls: load balancing of pods' and host processes'
 * sockets. All return 1, go on: a call that isn't translated here (no
 * frontend, source ranges, no backend) meets the tc programs as packets.
 */
#include "lib/sock.h"

char _license[] SEC("license") = "Dual BSD/GPL";

SEC("cgroup/connect4")
int sock_connect4(struct bpf_sock_addr *ctx)
{
	struct sock_addr a = {};

	sock_read4(ctx, &a);
	if (sock_forward(ctx, &a, true))
		sock_write4(ctx, &a);
	return 1;
}

SEC("cgroup/connect6")
int sock_connect6(struct bpf_sock_addr *ctx)
{
	struct sock_addr a = {};

	sock_read6(ctx, &a);
	if (sock_forward(ctx, &a, true))
		sock_write6(ctx, &a);
	return 1;
}

SEC("cgroup/sendmsg4")
int sock_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct sock_addr a = {};

	sock_read4(ctx, &a);
	if (sock_forward(ctx, &a, false))
		sock_write4(ctx, &a);
	return 1;
}

SEC("cgroup/sendmsg6")
int sock_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct sock_addr a = {};

	sock_read6(ctx, &a);
	if (sock_forward(ctx, &a, false))
		sock_write6(ctx, &a);
	return 1;
}

SEC("cgroup/recvmsg4")
int sock_recvmsg4(struct bpf_sock_addr *ctx)
{
	struct sock_addr a = {};

	sock_read4(ctx, &a);
	if (sock_reverse(ctx, &a))
		sock_write4(ctx, &a);
	return 1;
}

SEC("cgroup/recvmsg6")
int sock_recvmsg6(struct bpf_sock_addr *ctx)
{
	struct sock_addr a = {};

	sock_read6(ctx, &a);
	if (sock_reverse(ctx, &a))
		sock_write6(ctx, &a);
	return 1;
}

SEC("cgroup/getpeername4")
int sock_peer4(struct bpf_sock_addr *ctx)
{
	struct sock_addr a = {};

	sock_read4(ctx, &a);
	if (sock_reverse(ctx, &a))
		sock_write4(ctx, &a);
	return 1;
}

SEC("cgroup/getpeername6")
int sock_peer6(struct bpf_sock_addr *ctx)
{
	struct sock_addr a = {};

	sock_read6(ctx, &a);
	if (sock_reverse(ctx, &a))
		sock_write6(ctx, &a);
	return 1;
}
