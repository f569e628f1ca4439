// SPDX-License-Identifier: Apache-2.0

// Package progtest runs the tc programs on packets (BPF_PROG_TEST_RUN) and
// checks verdict, bytes and drop counters. It has no code outside its tests.
package progtest
