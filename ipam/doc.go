// SPDX-License-Identifier: Apache-2.0

// Package ipam chooses addresses out of ranges. It is pure: it reads no file
// and no clock, and keeps nothing; ipam/store is what remembers.
//
// A Pool is what one address is chosen from: ranges of one family less the
// excluded addresses and the gateways. A dual-stack request chooses from one
// pool per family, all or none.
//
//	pool, err := ipam.NewPool("pods/0", ipam.Subnet{Prefix: netip.MustParsePrefix("10.244.0.0/24")})
//	choice, err := pool.Next(cursor, rest, look)
package ipam
