/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Settings. What is fixed for as long as the programs are loaded is a volatile
 * const here, set by the loader; what changes while they run is in struct
 * config (types.h).
 */
#pragma once

#include <linux/types.h>

/* Time is counted in ticks of 2^30 ns (1.07 s) of CLOCK_MONOTONIC. */
#define TICK_SHIFT 30

/* A flow ends so many ticks after its last packet … */
volatile const __u32 timeout_new = 30;		/* … unanswered, any protocol */
volatile const __u32 timeout_tcp = 20116;	/* … established: 6 h */
volatile const __u32 timeout_tcp_fin = 112;	/* … after one FIN: 2 min */
volatile const __u32 timeout_tcp_closing = 10;	/* … after both, or RST (SCTP: ABORT) */
volatile const __u32 timeout_udp = 168;		/* … answered: 3 min */
volatile const __u32 timeout_sctp = 196;	/* … answered: 3.5 min; it beats each 30 s */
volatile const __u32 timeout_other = 60;	/* … answered, ICMP */

/* RST and ICMP made by us: so many a tick on each CPU. */
volatile const __u32 reject_rate = 200;

/* New flows: so many in 2^24 ns (16.8 ms) on each CPU. */
#define FLOW_RATE_SHIFT 24
volatile const __u32 flow_rate = 2048;
